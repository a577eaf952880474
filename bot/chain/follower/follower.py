"""The follower: one pass after the other, and what each commits. What it promises: `bot.chain.follower`."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.follower.backfill import Backfill
from bot.chain.follower.branch import Branch
from bot.chain.follower.finality import DEPTH_OF_FINALITY, FINALITY_EVERY, FinalityWatch
from bot.chain.follower.news import Change, Head, Moved, Progress, head_of, number_of
from bot.chain.follower.pushes import Pushes
from bot.chain.follower.witnesses import Disagreement, Witnesses
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader, RawLog
from bot.domain.identity import Identity
from bot.errors import TryAgain
from bot.store import chain_step as store
from bot.store import identity as memory
from bot.store.chain_rows import BlockRow, Finality, Reorg, Rows
from bot.store.chain_step import Step
from bot.store.db import Writer

ZONE_STEP = 256  # headers fetched at a time above the finalized block
REORG_STEP = 1_024  # the new branch is taken in one transaction up to this length
MOVED_RETRIES = 5  # passes in a row that the chain may spoil by moving
LONGEST_BACKOFF_S = 8.0
LATE_INDEX_BLOCKS = 1_000  # a first backfill of so many blocks makes the unordered indexes at its end
SECOND_LOOK_EVERY = 16  # blocks
SECOND_LOOK_BLOCKS = 96  # each block is looked at a few more times, at different ages
STRAYS_FOR_S = 60.0  # until a node that strayed is asked first again

log = structlog.get_logger()
Alert = Callable[[str, str], Awaitable[None]]


async def _no_alert(name: str, text: str) -> None:
    log.warning(name, text=text)


async def _no_violation(violated: bool) -> None: ...


class Follower:
    """Follows one contract into one database.

    `on_change` is awaited after each commit. If it raises TryAgain, the same change is told again at the next pass, so
    within a process each one arrives at least once; a restart tells nothing of the past, the rows say it.
    `on_progress` is called after each page of a backfill; `on_alert` with a name and a text when a person has to look;
    `on_violation` when finality was violated (true), and when the node follows the recorded chain again (false).
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
        on_alert: Alert = _no_alert,
        on_violation: Callable[[bool], Awaitable[None]] = _no_violation,
    ) -> None:
        self._rpc = rpc
        self._writer = writer
        self._deploy_block = identity.deploy_block
        self._poll_interval_s = poll_interval_s
        self._confirmations = confirmations
        self._on_change = on_change
        self._on_alert = on_alert
        self._on_violation = on_violation
        self._indexes_delayed = False
        self._backfill = Backfill(rpc, identity.contract, on_progress, writer.thread)
        self._branch = Branch(rpc, identity)
        self._finality = FinalityWatch(rpc)
        self._pushes = Pushes(rpc)
        self._witnesses = Witnesses(rpc, identity.contract)
        self._zone: dict[int, str] | None = None  # number -> hash of the headers held; None: not loaded yet
        self._pruned_at = 0
        self._final_stored = -1
        self._looked_again_at = -1
        self._node_head = -1
        self._untold: deque[Change] = deque()
        self._still_told = False
        self._differing: set[str] = set()  # nodes whose logs differed at the last second look
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
        listener = asyncio.create_task(self._pushes.listen(), name="follower.listen") if self._rpc.pushes else None
        failures, woken = 0, True
        try:
            while True:
                try:
                    await self._follow(woken)
                    failures = 0
                except (TryAgain, RpcError) as error:
                    failures += 1
                    self.at_head.clear()
                    pause_s = min(LONGEST_BACKOFF_S, self._poll_interval_s * 2 ** min(failures - 1, 8))
                    pause_s *= random.uniform(0.75, 1.25)
                    log.warning("follower.waiting", reason=str(error), failures=failures, wait_s=round(pause_s, 2))
                    await asyncio.sleep(pause_s)  # a push is no reason to hammer a node in trouble
                    continue
                woken = await self._pushes.wait(self._poll_interval_s)
        finally:
            if listener is not None:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    async def _follow(self, woken: bool) -> None:
        """What was pushed, if that is enough, else a pass; now and then a second look."""
        pushed = self._pushes.take()
        if not (pushed and await self._extend(pushed)):
            before = self._node_head
            await self.catch_up()
            if not woken and self._node_head > before >= 0:
                await self._pushes.found_by_polling()
        if self.head is not None and self.head.number - self._looked_again_at >= SECOND_LOOK_EVERY:
            await self.second_look()

    async def catch_up(self) -> None:
        """One pass to the node's head. Raises TryAgain or RpcError; what was committed until then stays."""
        async with self._pass:
            if self._zone is None:
                await self._load()
            await self._tell()
            for _ in range(MOVED_RETRIES):
                try:
                    await self._to_head()
                    break
                except Moved as moved:
                    log.info("follower.moved", reason=str(moved))
            else:
                raise TryAgain("the chain moved during each look at it")
        if self._finality.stands_still and not self._still_told:
            text = f"No block has been final since block {self._finality.to}, for hours; nothing is stopped by that"
            await self._on_alert("alert.finality-still", text)
        self._still_told = self._finality.stands_still

    # One pass

    async def _to_head(self) -> None:
        while True:
            latest, finalized = await self._finality.with_head(self._node_head + 1)
            number = self._node_head = number_of(latest)
            reached = self._cursor()
            if reached is not None and self._is_known(latest, reached):
                await self._stand(latest, reached)
                return
            first = self._deploy_block
            if reached is not None:
                assert self._zone is not None
                ancestor = await self._branch.ancestor(latest, reached, self._zone)
                if ancestor != reached:
                    if not await self._leave_branch(latest, reached, ancestor):
                        return
                    continue
                first = reached + 1
            await self._finality.look(latest, finalized)  # only here: a strayed node's finality is none
            if first <= self._finality.to:
                await self._take_pages(first, min(self._finality.to, number))
                continue  # that may have taken long: look at the head again
            await self._have_indexes()
            if await self._follow_zone(latest, first):
                return

    def _cursor(self) -> int | None:
        return max(self._zone, default=None) if self._zone else None

    def _is_known(self, latest: RawHeader, reached: int) -> bool:
        """True if the node's head is where the index is, or lags behind it on the same branch."""
        assert self._zone is not None
        number = number_of(latest)
        # Below the zone no header is held: whether the node lags or is on another branch shows when it gets here.
        return number <= reached and self._zone.get(number, latest.hash) == latest.hash

    async def _stand(self, latest: RawHeader, reached: int) -> None:
        """The node brings nothing new."""
        await self._have_indexes()
        await self._set_violated(False)
        number = number_of(latest)
        if number < reached:
            log.debug("head.behind", node=number, index=reached)
            if self._witnesses.several:
                await self._compare_nodes()
            if self.head is not None:
                return
            header = await self._rpc.header(reached)  # after a restart, at a node that lags: nothing to report yet
            if header is None:
                raise WrongAnswer(f"the node has no block {reached}")
            latest = header
        if self.head is None:
            self.head = head_of(latest)
            self.at_head.set()
            self._untold.append(Change(self.head, live=True))
            await self._tell()
        self.at_head.set()

    async def _take_pages(self, first: int, last: int) -> None:
        """Commits what is final already, page by page."""
        self.at_head.clear()
        if self._cursor() is None and last - first >= LATE_INDEX_BLOCKS:
            await self._writer(store.delay_indexes)
            self._indexes_delayed = True
        pages = self._backfill.pages(first, last)
        try:
            async for page in pages:
                await self._commit(page.rows, page.end, live=False)
        finally:
            await pages.aclose()

    async def _follow_zone(self, latest: RawHeader, first: int) -> bool:
        """Commits the blocks from `first` on, at most ZONE_STEP of them. True when that was up to `latest`."""
        assert self._zone is not None
        number = number_of(latest)
        last = min(number, first + ZONE_STEP - 1)
        headers = await self._branch.headers(first, last, latest, self._zone.get(first - 1))
        rows = await self._branch.rows(headers)
        live = last == number
        await self._commit(rows, headers[-1], live=live)
        if live:
            log.debug("head.new", block=number, blocks=len(headers), logs=len(rows.logs))
        return live

    async def _extend(self, pushed: Sequence[RawHeader]) -> bool:
        """Takes announced children of the block that the index has reached. False when a pass has to look.

        A quiet one costs no request.
        """
        async with self._pass:
            if not self._zone or not self.at_head.is_set() or self._untold:
                return False
            for header in pushed:
                number, reached = number_of(header), max(self._zone)
                if self._zone.get(number) == header.hash:
                    continue
                if (
                    number != reached + 1
                    or header.parent_hash != self._zone[reached]
                    or self._finality.due(number, pushed=True)
                ):
                    return False
                try:
                    rows = await self._branch.rows([header])
                except Moved:
                    return False
                self._node_head = max(self._node_head, number)
                await self._commit(rows, header, live=True)
            return True

    # Reorgs

    async def _leave_branch(self, latest: RawHeader, reached: int, ancestor: int) -> bool:
        """Retracts what lies above `ancestor` and takes the new branch, in one transaction.

        False when that would take back what was final: then nothing changes.
        """
        assert self._zone is not None
        if self._witnesses.several and await self._compare_nodes():
            raise Moved("a node has strayed; another one holds what the index has")
        if ancestor < self._finality.to or ancestor < 0:
            self.at_head.clear()
            if not self.violated:
                log.error("finality.violated", final=self._finality.to, ancestor=max(ancestor, 0), head=latest.hash)
            await self._set_violated(True)
            return False
        last = min(number_of(latest), ancestor + REORG_STEP)
        headers = await self._branch.headers(ancestor + 1, last, latest, self._zone.get(ancestor))
        rows = await self._branch.rows(headers)
        reorg = Reorg(ancestor, reached, self._zone[reached], number_of(headers[-1]), headers[-1].hash)
        await self._commit(rows, headers[-1], live=last == number_of(latest), reorg=reorg)
        return True

    async def _set_violated(self, violated: bool) -> None:
        if violated != self.violated:
            self.violated = violated
            await self._on_violation(violated)

    # Several nodes, and the second look

    async def _compare_nodes(self) -> bool:
        """Has those that lag or have strayed asked last. True if there are any."""
        assert self._zone is not None
        strays = await self._witnesses.strays(self._zone)
        self._rpc.ask_last(strays, STRAYS_FOR_S)
        return bool(strays)

    async def second_look(self) -> None:
        """Asks every node once more for the newest blocks' logs; takes what was left out, and says so."""
        async with self._pass:
            reached = self._cursor()
            if reached is None or self.violated or self.head is None:
                return
            assert self._zone is not None
            self._looked_again_at = reached
            if self._witnesses.several:
                await self._compare_nodes()
            held = {number: one for number, one in self._zone.items() if number > reached - SECOND_LOOK_BLOCKS}
            ours = await self._writer(lambda session: store.places(session, min(held)))
            found, fuller = await self._witnesses.second_look(held, ours)
            if fuller:
                await self._take_again(min(fuller) - 1, reached, fuller)
        await self._say_differing(found)

    async def _say_differing(self, found: Sequence[Disagreement]) -> None:
        """One alert for each node that begins to differ."""
        for one in found:
            log.warning("logs.differ", **one._asdict())
        for endpoint in sorted({one.endpoint for one in found} - self._differing):
            theirs = [one for one in found if one.endpoint == endpoint]
            more, fewer = sum(one.more for one in theirs), sum(one.fewer for one in theirs)
            text = (
                f"{endpoint} tells of other logs of the same blocks than were indexed: {more} more, {fewer} fewer, "
                f"first in block {theirs[0].number} ({theirs[0].hash}). What was missing has been taken; a node that "
                "leaves logs out needs replacing (RPC_URL)"
            )
            await self._on_alert("alert.logs-differ", text)
        self._differing = {one.endpoint for one in found}

    async def _take_again(self, ancestor: int, reached: int, fuller: dict[int, list[RawLog]]) -> None:
        """The blocks above `ancestor` as they are, with the fuller answers: as a reorg to the same branch would."""
        assert self._zone is not None
        numbers = range(ancestor + 1, reached + 1)
        headers = [header for header in await self._rpc.headers(numbers) if header is not None]
        if [header.hash for header in headers] != [self._zone.get(number) for number in numbers]:
            raise Moved("the chain moved before what was left out could be taken")
        read = [header for header in headers if number_of(header) not in fuller]
        logs = await self._branch.logs(read)
        for header in headers:
            logs += self._branch.checked(header, fuller.get(number_of(header), []))
        reorg = Reorg(ancestor, reached, self._zone[reached], reached, self._zone[reached])
        await self._commit(self._branch.made(headers, logs), headers[-1], live=True, reorg=reorg)

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
        self._finality.to = int(final_to) if final_to else -1
        self._zone = {row.number: row.hash for row in held}

    async def _commit(self, rows: Rows, end: RawHeader, *, live: bool, reorg: Reorg | None = None) -> None:
        """One transaction: what was taken away, what came, the cursor, finality. Then tells of it."""
        assert self._zone is not None
        head = head_of(end)
        finality = Finality(head.number - self._confirmations + 1, min(self._finality.to, head.number))
        sweep = self._finality.awaited or bool(rows.ends and rows.ends[-1].block > finality.final_to)
        prune_below = self._prune_below(head.number)

        finalized = self._finality.to if sweep and self._finality.to != self._final_stored else None
        step = Step(rows, finality, reorg, sweep, prune_below, finalized)
        done = await self._writer(lambda session: store.advance(session, step))
        self._final_stored = self._final_stored if finalized is None else finalized
        self.logs_indexed += len(rows.logs)
        self._finality.awaited = done.unfinal > 0
        self._remember(rows.blocks, reorg, prune_below)
        self.head = head
        await self._set_violated(False)
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
        return min(self._finality.to, number - DEPTH_OF_FINALITY)
