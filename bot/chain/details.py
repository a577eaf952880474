"""What logs don't carry: the rate and token of a session, and who ended it.

Promises: read afterwards, in large batches pinned to a block that the index has reached, never in the way of the logs;
what couldn't be read stays null, is tried again later and is found again after a restart. `keeper` as the ender means
that we signed that transaction ourselves: never judged by the sender's address, which the backend shares.
Doesn't promise a time: a node in trouble leaves details unfinished while the logs go on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import structlog
from sqlmodel import Session

from bot.chain.codec import OnChainSession
from bot.chain.errors import RpcError
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.wire import RawTransaction
from bot.domain.address import Address, checksum
from bot.domain.facts import SessionKey
from bot.errors import TryAgain
from bot.store import chain_details as store
from bot.store.chain_details import Sender, Unread
from bot.store.chain_step import zone
from bot.store.db import Writer

BATCH = 500  # in one request
AT_A_TIME = 4  # requests: while the rows of one are written, the others are under way
REFUSED_AGAIN_S = 60.0  # what the node can't answer is asked again after so long
LONGEST_BACKOFF_S = 30.0

log = structlog.get_logger()
Told = Callable[[SessionKey], Awaitable[None]]
Page = Callable[..., list[Unread]]


class Details:
    """Fills in what the follower left null. `on_settled` and `on_session` are awaited after the commit."""

    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        langdao: LangDAO,
        *,
        owner: Address,
        on_settled: Told,
        on_session: Told | None = None,
    ) -> None:
        self._rpc = rpc
        self._writer = writer
        self._langdao = langdao
        self._owner = owner
        self._on_settled = on_settled
        self._on_session = on_session
        self._wake = asyncio.Event()
        self._refused: dict[tuple[str, int], float] = {}  # what and which session -> when to ask again

    def wake(self) -> None:
        """There may be something to read."""
        self._wake.set()

    async def run(self) -> None:
        """Reads whenever woken, until cancelled. Failures of the node are logged and waited out."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self.fill()
                failures = 0
            except (TryAgain, RpcError) as error:
                failures += 1
                pause_s = min(LONGEST_BACKOFF_S, 2.0 ** min(failures - 1, 8) / 2) * random.uniform(0.75, 1.25)
                log.warning("details.waiting", reason=str(error), failures=failures, wait_s=round(pause_s, 2))
                await asyncio.sleep(pause_s)
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), REFUSED_AGAIN_S if self._refused else None)
            except TimeoutError:
                continue

    async def fill(self) -> None:
        """Reads all that is unfinished now, once. Raises TryAgain or RpcError when the node can't answer at all."""
        await self.fill_sessions()
        await self.fill_senders()

    async def fill_sessions(self) -> None:
        """Rates and tokens alone."""
        self._forget_refusals()
        for page in (store.sessions_without_rate, store.settlements_without_start):
            await self._each_page("session", page, self._read_sessions)

    async def fill_senders(self) -> None:
        """Who ended alone; of settlements whose student is known."""
        self._forget_refusals()
        await self._each_page("sender", store.settlements_without_sender, self._read_senders)

    async def _each_page(self, what: str, page: Page, read: Callable[[list[Unread]], Awaitable[set[int]]]) -> None:
        after = -1
        while True:
            wanted = await self._writer(lambda session, after=after: page(session, after, BATCH * AT_A_TIME))  # type: ignore[misc]
            if not wanted:
                return
            after = wanted[-1].session_id
            asked = [one for one in wanted if (what, one.session_id) not in self._refused]
            if not asked:
                continue
            parts = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
            answered = set().union(*await asyncio.gather(*map(read, parts)))
            missing = [one.session_id for one in asked if one.session_id not in answered]
            self._refused.update(((what, number), time.monotonic() + REFUSED_AGAIN_S) for number in missing)
            if missing:
                log.info("details.unfinished", what=what, sessions=missing[:10], count=len(missing))

    def _forget_refusals(self) -> None:
        now = time.monotonic()
        self._refused = {one: at for one, at in self._refused.items() if at > now}

    # Rate and token

    async def _read_sessions(self, wanted: list[Unread]) -> set[int]:
        cursor = await self._writer(lambda session: zone(session)[-1:])
        if not cursor:
            return set()
        # By the hash of a block the index has reached: any later block says the same of rate and token, and a node
        # that has left this branch refuses instead of telling of another one.
        answers = await self._langdao.sessions([one.session_id for one in wanted], cursor[0].hash)
        if all(isinstance(answer, RpcError) for answer in answers) and len(answers) > 1:
            log.info("details.refused", reason=str(answers[0]))
        details = [
            store.Details(one.session_id, got.student, got.tutor, got.language, got.start_s, got.rate, got.token)
            for one, got in zip(wanted, answers, strict=True)
            if isinstance(got, OnChainSession) and _agree(one, got)
        ]
        ids = [one.session_id for one in details]

        def change(session: Session) -> list[SessionKey]:
            store.fill_details(session, details)
            return store.complete(session, ids)

        settled = await self._writer(change)
        for one in details:
            if self._on_session is not None:
                await self._on_session(SessionKey(one.session_id, one.student, one.tutor))
        await self._tell_settled(settled)
        return set(ids)

    # Who ended it

    async def _read_senders(self, wanted: list[Unread]) -> set[int]:
        hashes = list(dict.fromkeys(one.tx_hash for one in wanted))  # a transaction may end many sessions
        calls = [("eth_getTransactionByHash", (tx_hash,)) for tx_hash in hashes]
        answers = dict(zip(hashes, await self._rpc.batch_as(RawTransaction | None, calls), strict=True))
        senders: dict[int, tuple[Unread, Address]] = {}
        for one in wanted:
            got = answers[one.tx_hash]
            address = checksum(got.sender) if isinstance(got, RawTransaction) else None
            if address is not None:
                senders[one.session_id] = (one, address)

        def change(session: Session) -> list[SessionKey]:
            ours = store.our_transactions(session, [one.tx_hash for one, _ in senders.values()])
            store.fill_senders(session, [self._sender(one, address, ours) for one, address in senders.values()])
            return store.complete(session, list(senders))

        await self._tell_settled(await self._writer(change))
        return set(senders)

    def _sender(self, one: Unread, address: Address, ours: Collection[str]) -> Sender:
        by_keeper = one.tx_hash in ours
        if by_keeper:
            ended_by = "keeper"
        elif address == one.student:
            ended_by = "student"
        elif address == one.tutor:
            ended_by = "tutor"
        elif address == self._owner:
            ended_by = "owner"
        else:
            ended_by = f"unknown:{address}"
        return Sender(one.session_id, one.tx_hash, address, ended_by, by_keeper)

    async def _tell_settled(self, keys: Sequence[SessionKey]) -> None:
        for key in keys:
            await self._on_settled(key)


def _agree(one: Unread, got: OnChainSession) -> bool:
    """True unless the contract tells of other people: then a reorg gave the id away, and the follower will say so."""
    return got.id == one.session_id and got.tutor == one.tutor and one.student in (None, got.student)
