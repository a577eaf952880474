"""Follows the contract's logs: from its deployment to the head, and along with the head.

Promises:
- The stored logs equal the canonical chain's logs of the contract at every block the follower reports.
- Rows and cursor move in one transaction.
- A restart resumes.
- A reorg of any depth above the finalized block retracts exactly what it took away, in one transaction with what the
  new branch brings, and names the sessions concerned, to be folded anew.
- A violation of finality stops the follower at what it has and says so, instead of corrupting the record.
- A lower head alone is not a reorg: the node lags, and the follower waits for it.
- It survives nodes that fail, refuse ranges or contradict themselves: it waits and asks again, with less if need be.
Doesn't promise: order between contracts, that a row above the finalized block stays, or what logs don't carry
(`bot.chain.details`).

How: polling the head is the truth, a websocket only wakes it. Up to the finalized block, logs come in pages of block
ranges. Above it, every header is fetched and checked against its parent, and logs are asked for by block hash, so that
a chain that moves meanwhile can't mix two branches. The headers of that zone are kept, to find the common ancestor.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from bot.chain import rows as chainrows
from bot.chain.bloom import Bloom
from bot.chain.errors import RpcError, TooHeavy, WrongAnswer, too_many
from bot.chain.pages import Pages
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader, RawLog
from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.domain.identity import Identity
from bot.errors import TryAgain
from bot.store import chain_step as store
from bot.store import identity as memory
from bot.store.chain_rows import BlockRow, Finality, Reorg, Rows
from bot.store.chain_step import Step
from bot.store.db import Writer

DEPTH_OF_FINALITY = 64  # blocks, where the node has no `finalized` tag: two epochs
ZONE_STEP = 256  # headers fetched at a time above the finalized block
REORG_STEP = 1_024  # the new branch is taken in one transaction up to this length
ANCESTOR_STEP = 32  # headers compared at a time on the way down to the common ancestor
FINALITY_EVERY = 32  # blocks between looks at finality while no settlement waits for it
MOVED_RETRIES = 5  # passes in a row that the chain may spoil by moving
LONGEST_BACKOFF_S = 8.0
PROGRESS_EVERY_S = 2.0
LATE_INDEX_BLOCKS = 1_000  # a first backfill of so many blocks makes the unordered indexes at its end
PAGES_AHEAD = 2  # asked for while one is written; each is in memory as a whole

log = structlog.get_logger()


class Head(NamedTuple):
    """A block that the index has reached. `base_fee` in wei, None before London."""

    number: int
    hash: str
    parent_hash: str
    timestamp_s: int
    received_ms: int
    base_fee: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction of the follower changed; also told for a new head without logs."""

    head: Head
    started: tuple[SessionKey, ...] = ()
    ended: tuple[SessionKey, ...] = ()
    retracted: tuple[SessionKey, ...] = ()  # touched by a reorg: read them anew, some may be gone
    funds: tuple[Address, ...] = ()  # students whose balance in the contract may have changed
    live: bool = False  # the index has reached the node's head


class Progress(NamedTuple):
    """How far a backfill is. `waits_for`: what it mostly waited for since the last page, the node or the disk."""

    block: int
    first: int
    last: int
    logs: int
    logs_per_s: int
    left_s: int
    waits_for: str


class _Page(NamedTuple):
    last: int
    rows: Rows
    end: RawHeader


class _Meter:
    """How fast a backfill goes, and what it waits for."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._logs = 0
        self._started_s = time.monotonic()
        self._waited_s = {"node": 0.0, "disk": 0.0}

    @contextlib.contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        since_s = time.monotonic()
        yield
        # The past counts less with each page: what matters is what holds it up now.
        self._waited_s[what] = self._waited_s[what] * 0.8 + time.monotonic() - since_s

    def passed(self, block: int, logs: int) -> Progress:
        self._logs += logs
        took_s = max(time.monotonic() - self._started_s, 1e-3)
        left_s = took_s / (block - self._first + 1) * (self._last - block)
        waits_for = max(self._waited_s, key=lambda what: self._waited_s[what])
        rate = round(self._logs / took_s)
        return Progress(block, self._first, self._last, self._logs, rate, round(left_s), waits_for)


class Follower:
    """Follows one contract into one database.

    `on_change` is awaited after each commit. If it raises TryAgain, the same change is told again at the next pass, so
    within a process each one arrives at least once; a restart tells nothing of the past, the rows say it.
    `on_progress` is called after each page of a backfill.
    """

    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        identity: Identity,
        *,
        poll_interval_s: float,
        confirmations: int,
        on_change: Callable[[Change], Awaitable[None]],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._rpc = rpc
        self._writer = writer
        self._contract = identity.contract
        self._contract_lower = identity.contract.lower()
        self._deploy_block = identity.deploy_block
        self._deploy_hash = identity.deploy_hash
        self._poll_interval_s = poll_interval_s
        self._confirmations = confirmations
        self._on_change = on_change
        self._on_progress = on_progress
        self._progress_said_s = 0.0
        self._indexes_delayed = False
        self._pages = Pages()
        self._bloom = Bloom(identity.contract)
        self._zone: dict[int, str] | None = None  # number -> hash of the headers held; None: not loaded yet
        self._final_to = -1
        self._has_finalized_tag = True
        self._unfinal = True
        self._finality_looked_at = -1
        self._pruned_at = 0
        self._node_head = -1
        self._untold: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._pass = asyncio.Lock()
        self.head: Head | None = None
        self.at_head = asyncio.Event()
        self.logs_indexed = 0  # since the start
        self.violated = False  # finality was violated; the follower stands still

    @property
    def lag_blocks(self) -> int | None:
        """Blocks between the node's head and the index, None before the first look."""
        if self._node_head < 0:
            return None
        reached = self.head.number if self.head else self._deploy_block - 1
        return max(0, self._node_head - reached)

    async def run(self) -> None:
        """Follows until cancelled. Failures of the node are logged and waited out."""
        listener = asyncio.create_task(self._listen(), name="follower.listen") if self._rpc.pushes else None
        failures = 0
        try:
            while True:
                self._wake.clear()
                try:
                    await self.catch_up()
                    failures = 0
                    pause_s = self._poll_interval_s
                except (TryAgain, RpcError) as error:
                    failures += 1
                    self.at_head.clear()
                    pause_s = min(LONGEST_BACKOFF_S, self._poll_interval_s * 2 ** min(failures - 1, 8))
                    pause_s *= random.uniform(0.75, 1.25)
                    log.warning("follower.waiting", reason=str(error), failures=failures, wait_s=round(pause_s, 2))
                if failures:
                    await asyncio.sleep(pause_s)  # a push is no reason to hammer a node in trouble
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), pause_s)
        finally:
            if listener is not None:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    async def catch_up(self) -> None:
        """One pass to the node's head. Raises TryAgain or RpcError; what was committed until then stays."""
        async with self._pass:
            if self._zone is None:
                await self._load()
            await self._tell()
            for _ in range(MOVED_RETRIES):
                try:
                    await self._to_head()
                    return
                except _Moved:
                    log.info("follower.moved")
            raise TryAgain("the chain moved during each look at it")

    async def _listen(self) -> None:
        try:
            async for _ in self._rpc.subscribe_heads():
                self._wake.set()
        except Exception:  # polling goes on without it
            log.exception("follower.not_woken")

    # One pass

    async def _to_head(self) -> None:
        while True:
            latest, finalized = await self._look()
            number = _number(latest)
            self._node_head = number
            reached = self._cursor()
            if reached is not None and self._is_known(latest, reached):
                await self._stand(latest, reached)
                return
            await self._look_at_finality(number, finalized)
            ancestor = await self._ancestor(latest, reached)
            if reached is not None and ancestor is not None and ancestor != reached:
                if not await self._leave_branch(latest, reached, ancestor):
                    return
                continue
            first = self._deploy_block if reached is None else reached + 1
            if first <= self._final_to:
                await self._backfill(first, min(self._final_to, number))
                continue  # that may have taken long: look at the head again
            await self._have_indexes()
            if await self._follow_zone(latest, first):
                return

    def _cursor(self) -> int | None:
        return max(self._zone, default=None) if self._zone else None

    def _is_known(self, latest: RawHeader, reached: int) -> bool:
        """True if the node's head is where the index is, or lags behind it on the same branch."""
        assert self._zone is not None
        number = _number(latest)
        # Below the zone no header is held: whether the node lags or is on another branch shows when it gets here.
        return number <= reached and self._zone.get(number, latest.hash) == latest.hash

    async def _stand(self, latest: RawHeader, reached: int) -> None:
        """The node brings nothing new."""
        await self._have_indexes()
        self.violated = False
        number = _number(latest)
        if number < reached:
            log.debug("head.behind", node=number, index=reached)
            if self.head is not None:
                return
            latest = await self._header(reached)  # after a restart, at a node that lags: nothing to report yet
        if self.head is None:
            self.head = _head(latest)
            self.at_head.set()
            self._untold.append(Change(self.head, live=True))
            await self._tell()
        self.at_head.set()

    # Up to the finalized block: pages

    async def _backfill(self, first: int, last: int) -> None:
        """Commits pages from `first` to `last`; while one is written, the next ones are under way."""
        self.at_head.clear()
        if self._cursor() is None and last - first >= LATE_INDEX_BLOCKS:
            await self._writer(store.delay_indexes)
            self._indexes_delayed = True
        meter = _Meter(first, last)
        ahead: deque[tuple[asyncio.Task[_Page], int]] = deque()
        asked = first

        def ask() -> None:
            nonlocal asked
            while len(ahead) < PAGES_AHEAD and asked <= last:
                until = min(last, asked + self._pages.blocks - 1)
                ahead.append((asyncio.create_task(self._fetch(asked, until)), until))
                asked = until + 1

        try:
            while ahead or asked <= last:
                ask()
                fetching, until = ahead[0]
                with meter.waiting_for("node"):
                    page = await fetching
                ahead.popleft()
                if page.last < until:  # the node took less: what is left of it comes first
                    ahead.appendleft((asyncio.create_task(self._fetch(page.last + 1, until)), until))
                ask()
                with meter.waiting_for("disk"):
                    await self._commit(page.rows, page.end, live=False)
                self._say_progress(meter.passed(page.last, len(page.rows.logs)))
        finally:
            for fetching, _ in ahead:
                fetching.cancel()
            await asyncio.gather(*(fetching for fetching, _ in ahead), return_exceptions=True)

    def _say_progress(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)
        now_s = time.monotonic()
        ends = progress.block == progress.last and progress.last - progress.first >= ZONE_STEP
        if ends or now_s - self._progress_said_s >= PROGRESS_EVERY_S:
            self._progress_said_s = now_s
            log.info("backfill.progress", **progress._asdict(), page_blocks=self._pages.blocks)

    async def _fetch(self, first: int, last: int) -> _Page:
        """One page from `first`, of as many blocks as the node takes."""
        while True:
            until = min(last, first + self._pages.blocks - 1)
            try:
                logs, end = await asyncio.gather(self._rpc.get_logs(first, until, self._contract), self._header(until))
            except (RpcError, TooHeavy) as error:
                if isinstance(error, RpcError) and not too_many(error):
                    raise
                if not self._pages.refused(until - first + 1):
                    raise
                log.info("backfill.smaller_pages", page_blocks=self._pages.blocks, reason=str(error)[:120])
                continue
            chainrows.check(logs, self._contract_lower, first, until)
            self._pages.answered(until - first + 1, len(logs))
            # The deployment block's header is held too: a chain that was begun anew shows there.
            rows = chainrows.rows_of(logs, [chainrows.block_row(end)], await self._times(logs))
            return _Page(until, rows, end)

    async def _times(self, logs: Sequence[RawLog]) -> dict[int, int]:
        """Block times that the logs left out, from headers in batches; they have to be of the logs' own blocks."""
        numbers = chainrows.untimed(logs)
        if not numbers:
            return {}
        headers = dict(zip(numbers, await self._rpc.headers(numbers), strict=True))
        for one in logs:
            header = headers.get(int(one.block_number, 16))
            if one.block_timestamp is None and (header is None or header.hash != one.block_hash):
                raise _Moved("a log's block isn't where it was")
        return {number: int(header.timestamp, 16) for number, header in headers.items() if header is not None}

    # Above the finalized block: header by header

    async def _follow_zone(self, latest: RawHeader, first: int) -> bool:
        """Commits the blocks from `first` on, at most ZONE_STEP of them. True when that was up to `latest`."""
        number = _number(latest)
        last = min(number, first + ZONE_STEP - 1)
        branch = await self._branch(first, last, latest)
        rows = await self._rows(branch)
        live = last == number
        await self._commit(rows, branch[-1], live=live)
        if live:
            log.debug("head.new", block=number, blocks=len(branch), logs=len(rows.logs))
        return live

    async def _branch(self, first: int, last: int, latest: RawHeader) -> list[RawHeader]:
        """The headers from `first` to `last`, each the child of the one before and the first that of the held one."""
        assert self._zone is not None
        numbers = [number for number in range(first, last + 1) if number != _number(latest)]
        fetched = await self._rpc.headers(numbers) if numbers else []
        branch = [header for header in fetched if header is not None]
        if last == _number(latest):
            branch.append(latest)
        if len(branch) != last - first + 1:
            raise _Moved("a block is missing")
        parent = self._zone.get(first - 1)
        for number, header in enumerate(branch, first):
            if _number(header) != number or (parent is not None and header.parent_hash != parent):
                raise _Moved("a block isn't its parent's child")
            parent = header.hash
        if first == self._deploy_block and branch[0].hash != self._deploy_hash:
            raise WrongAnswer(f"the block of deployment {first} isn't the one it was")
        return branch

    async def _rows(self, branch: Sequence[RawHeader]) -> Rows:
        """What these blocks add: their logs by block hash, their headers."""
        asked = [header for header in branch if self._bloom.may_have_logs(header)]
        logs: list[RawLog] = []
        if asked:
            try:
                answers = await self._rpc.get_logs_of([header.hash for header in asked], self._contract)
            except RpcError as error:
                raise _Moved(f"the node doesn't know a block any more: {error}") from None
            for header, answer in zip(asked, answers, strict=True):
                number = _number(header)
                chainrows.check(answer, self._contract_lower, number, number)
                if any(one.block_hash != header.hash for one in answer):
                    raise WrongAnswer("the node gave logs of another block")
                if answer:
                    self._bloom.saw_logs_in(header)
                logs += answer
        blocks = [chainrows.block_row(header) for header in branch]
        return chainrows.rows_of(logs, blocks, {block.number: block.timestamp_s for block in blocks})

    # Reorgs

    async def _ancestor(self, latest: RawHeader, reached: int | None) -> int | None:
        """The newest held block that is on the node's branch; `reached` itself in the ordinary case."""
        assert self._zone is not None
        if reached is None or latest.parent_hash == self._zone[reached]:
            return reached
        held = sorted((number for number in self._zone if number <= _number(latest)), reverse=True)
        step = 1  # the cursor alone: a gap without a reorg is common, after a restart
        while held:
            numbers, held = held[:step], held[step:]
            step = ANCESTOR_STEP
            for number, header in zip(numbers, await self._rpc.headers(numbers), strict=True):
                if header is None:
                    raise _Moved("a block is missing")
                if header.hash == self._zone[number]:
                    return number
        return -1

    async def _leave_branch(self, latest: RawHeader, reached: int, ancestor: int) -> bool:
        """Retracts what lies above `ancestor` and takes the new branch, in one transaction.

        False when that would take back what was final: then nothing changes.
        """
        assert self._zone is not None
        if ancestor < self._final_to or ancestor < 0:
            self.at_head.clear()
            if not self.violated:
                log.error("finality.violated", final=self._final_to, ancestor=max(ancestor, 0), head=latest.hash)
            self.violated = True
            return False
        last = min(_number(latest), ancestor + REORG_STEP)
        branch = await self._branch(ancestor + 1, last, latest)
        rows = await self._rows(branch)
        reorg = Reorg(ancestor, reached, self._zone[reached], _number(branch[-1]), branch[-1].hash)
        await self._commit(rows, branch[-1], live=last == _number(latest), reorg=reorg)
        return True

    # The store

    async def _have_indexes(self) -> None:
        """The indexes that a backfill left for its end; also one that was killed before."""
        if self._indexes_delayed:
            await self._writer(store.make_indexes)
            self._indexes_delayed = False

    async def _load(self) -> None:
        """Where the index stands, from the database."""
        held, final_to, self._indexes_delayed = await self._writer(
            lambda session: (store.zone(session), memory.get(session, "finalized"), store.indexes_delayed(session))
        )
        self._final_to = int(final_to) if final_to else -1
        self._zone = {row.number: row.hash for row in held}

    async def _commit(self, rows: Rows, end: RawHeader, *, live: bool, reorg: Reorg | None = None) -> None:
        """One transaction: what was taken away, what came, the cursor, finality. Then tells of it."""
        assert self._zone is not None
        head = _head(end)
        finality = Finality(head.number - self._confirmations + 1, min(self._final_to, head.number))
        sweep = self._unfinal or bool(rows.ends and rows.ends[-1].block > finality.final_to)
        prune_below = self._prune_below(head.number)

        step = Step(rows, finality, reorg, sweep, prune_below, self._final_to if sweep else None)
        done = await self._writer(lambda session: store.advance(session, step))
        self.logs_indexed += len(rows.logs)
        self._unfinal = done.unfinal > 0
        self._remember(rows.blocks, reorg, prune_below)
        self.head = head
        if reorg is not None:
            log.warning(
                "reorg.retracted",
                ancestor=reorg.ancestor,
                depth=reorg.depth,
                logs=done.removed,
                sessions=[key.session_id for key in done.retracted],
                was=reorg.from_hash,
                now=reorg.to_hash,
            )
        if live:
            self.at_head.set()
        self._untold.append(Change(head, done.started, done.ended, done.retracted, done.funds, live))
        await self._tell()

    async def _tell(self) -> None:
        """Tells what was committed, in order; what couldn't be told is told again at the next pass."""
        while self._untold:
            await self._on_change(self._untold[0])
            self._untold.popleft()

    def _remember(self, blocks: Sequence[BlockRow], reorg: Reorg | None, prune_below: int | None) -> None:
        assert self._zone is not None
        if reorg is not None:
            self._zone = {number: one for number, one in self._zone.items() if number <= reorg.ancestor}
        self._zone.update((block.number, block.hash) for block in blocks)
        if prune_below is not None:
            newest = max(self._zone)
            self._zone = {n: one for n, one in self._zone.items() if n >= prune_below or n == newest}
            self._pruned_at = newest

    def _prune_below(self, number: int) -> int | None:
        """The block below which headers may be forgotten; None while that isn't worth a statement."""
        if number - self._pruned_at < FINALITY_EVERY:
            return None
        return min(self._final_to, number - DEPTH_OF_FINALITY)

    # Finality

    async def _look(self) -> tuple[RawHeader, RawHeader | None]:
        """The node's head, and where that will be wanted the finalized block too, in one request."""
        due = self._unfinal or self._node_head + 1 - self._finality_looked_at >= FINALITY_EVERY
        if not (due and self._has_finalized_tag):
            return await self._header("latest"), None
        calls = [("eth_getBlockByNumber", (tag, False)) for tag in ("latest", "finalized")]
        latest, finalized = await self._rpc.batch_as(RawHeader | None, calls)
        if isinstance(latest, RpcError):
            raise latest
        if latest is None:
            raise WrongAnswer("the node has no block latest")
        # What was refused here is asked for by itself, and refused or not as that deserves.
        return latest, finalized if isinstance(finalized, RawHeader) else None

    async def _look_at_finality(self, head: int, finalized: RawHeader | None) -> None:
        """Moves the finalized block forwards, never back. `finalized`: the node's, where it was asked for already."""
        if not self._unfinal and 0 <= head - self._finality_looked_at < FINALITY_EVERY:
            return
        self._finality_looked_at = head
        final_to = head - DEPTH_OF_FINALITY
        if finalized is not None:
            final_to = _number(finalized)
        elif self._has_finalized_tag:
            try:
                header = await self._rpc.header("finalized")
            except RpcError as error:
                log.info("finality.by_depth", depth=DEPTH_OF_FINALITY, reason=str(error))
                self._has_finalized_tag = False
            else:
                final_to = _number(header) if header is not None else -1
        self._final_to = max(self._final_to, min(final_to, head))

    async def _header(self, at: int | str) -> RawHeader:
        header = await self._rpc.header(at)
        if header is None:
            raise WrongAnswer(f"the node has no block {at}")
        return header


class _Moved(WrongAnswer):
    """The chain changed while it was looked at: look again at once."""


def _number(header: RawHeader) -> int:
    return int(header.number, 16)


def _head(header: RawHeader) -> Head:
    base_fee = header.base_fee_per_gas
    return Head(
        number=_number(header),
        hash=header.hash,
        parent_hash=header.parent_hash,
        timestamp_s=int(header.timestamp, 16),
        received_ms=time.time_ns() // 1_000_000,
        base_fee=int(base_fee, 16) if base_fee is not None else None,
    )
