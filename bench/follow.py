"""The follower alone, into a fresh database: from its first request to its last commit.

python -m bench.follow URL CONTRACT DEPLOY_BLOCK DATABASE
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.floor import rss_mb
from bot.chain.details import Details
from bot.chain.follower import Change, Follower
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.start import identify
from bot.domain.address import checksum
from bot.domain.facts import SessionKey
from bot.ops import logging
from bot.ops.indexing import for_bulk
from bot.settings import Settings
from bot.store import queries, schema
from bot.store.db import Database, Writer


async def main(url: str, contract: str, deploy_block: int, path: str, *, details: bool) -> dict[str, float]:
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    writer, rpc = Writer(database), Rpc([url])

    async def ignore(_: Change) -> None: ...

    try:
        identity = await identify(rpc, str(checksum(contract)), deploy_block)
        follower = Follower(rpc, writer, identity, poll_interval_s=1, confirmations=2, on_change=ignore)
        rpc.log_requests = 0
        started, busy = time.perf_counter(), time.process_time()
        await follower.catch_up()
        took_s, cpu_s = time.perf_counter() - started, time.process_time() - busy
        with database.read() as session:
            counts = queries.counts(session)
        found = {**counts, "took_s": took_s, "cpu_s": cpu_s, "requests": rpc.log_requests, "rss_mb": rss_mb()}
        return found | (await _details(rpc, writer, identity.contract, counts) if details else {})
    finally:
        writer.close()
        database.dispose()
        await rpc.close()


async def _details(rpc: Rpc, writer: Writer, contract: str, counts: dict[str, int]) -> dict[str, float]:
    """Sessions a second, and ends a second; `senders_per_s` counts transactions, of which one may hold several ends."""
    langdao = LangDAO(rpc, contract)

    async def ignore(_: SessionKey) -> None: ...

    reader = Details(rpc, writer, langdao, owner=await langdao.owner(), on_settled=ignore)
    started = time.perf_counter()
    await reader.fill_sessions()
    sessions_s = time.perf_counter() - started
    started = time.perf_counter()
    await reader.fill_senders()
    senders_s = time.perf_counter() - started
    return {
        "details_per_s": counts["sessions"] / sessions_s,
        "senders_per_s": rpc.calls["eth_getTransactionByHash"] / senders_s,
    }


if __name__ == "__main__":
    url, contract, deploy_block, path, *more = sys.argv[1:]
    logging.configure(Settings(), stream=sys.stderr, level="error")
    with for_bulk():  # as `langdao-keeper index` does
        found = asyncio.run(main(url, contract, int(deploy_block), path, details=more == ["details"]))
    print(json.dumps(found))
