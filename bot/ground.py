"""The ground that the keeper stands on: a node that answers, the right contract on it, a database that is ours.

Promises: `opened` raises Misconfigured, one line, for whatever doesn't let the keeper start; what it opened is closed
in the end, whatever happens. The first request to the chain goes out before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from bot.chain.rpc import Rpc
from bot.chain.start import chain_name, identify, of_one_chain, sessions_ever, wait_for_rpc
from bot.places import database_url
from bot.settings import Settings
from bot.values import shown

if TYPE_CHECKING:
    from bot.domain.identity import Identity
    from bot.store.db import Database, Writer

log = structlog.get_logger("keeper")


@dataclass(frozen=True, slots=True)
class Ground:
    rpc: Rpc
    identity: Identity
    database: Database
    writer: Writer


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, any_contract: bool = False) -> AsyncIterator[Ground]:
    """Waits for the node, takes the database's lock, brings its schema up to date and checks that it is ours.

    `any_contract`: whatever has code will do, also what can answer nothing.
    """
    contract = settings.contract()
    rpc = Rpc(settings.endpoints())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(rpc.close)
        chain_id = await wait_for_rpc(rpc, settings.start_timeout_s)
        await of_one_chain(rpc)

        from bot.store import identity as identities
        from bot.store import schema
        from bot.store.db import Database, Writer, reachable
        from bot.store.lock import Lock

        database = Database(database_url(settings, chain_id))
        stack.callback(database.dispose)
        reachable(database)
        lock = Lock(database)
        stack.callback(lock.release)
        schema.upgrade(database)
        with database.read() as session:
            known = identities.known(session)
        # A database that knows the deployment block spares the search for it.
        start = settings.start_block if known is None or known.contract != contract else known.deploy_block
        identity = await identify(rpc, contract, start)
        if not any_contract:
            from bot.chain.langdao import LangDAO

            await sessions_ever(LangDAO(rpc, contract), "latest", chain_id)
        writer = Writer(database, lock.ensure)
        stack.callback(writer.close)
        await writer(lambda tx: identities.claim(tx, identity))
        log.info(
            "keeper.start",
            chain=chain_name(chain_id),
            contract=contract,
            deploy_block=identity.deploy_block,
            rpc=rpc.shown,
            database=str(database.path or shown(database_url(settings, chain_id))),
            pid=os.getpid(),
        )
        yield Ground(rpc, identity, database, writer)
