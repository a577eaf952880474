"""Pages of logs up to a block that is final.

Promises: `pages` gives every log of the contract from `first` to `last`, in chain order, in pages as large as the node
takes; while one is worked on, the next ones are under way, and no more than `PAGES_AHEAD` of them are in memory. A page
that is refused, too slow or too large is asked for again in halves.
An answer stays the node's bytes until its page is the next to be written; then the thread that writes it decodes it.
Rows that one processor makes and another one stores cost more than the two save by working at the same time.
Doesn't promise anything about blocks that can still move: that is what `branch` is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import structlog

from bot.chain import rows as chainrows
from bot.chain.errors import RpcError, TooHeavy, WrongAnswer, too_many
from bot.chain.follower.news import Moved, Progress
from bot.chain.pages import Pages
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader, RawLog
from bot.domain.address import Address
from bot.store.chain_rows import Rows

PAGES_AHEAD = 2  # asked for while one is written
PROGRESS_EVERY_S = 2.0
WORTH_A_LINE = 256  # blocks; a shorter backfill says nothing at its end

T = TypeVar("T")

log = structlog.get_logger()


class Page(NamedTuple):
    last: int
    rows: Rows
    end: RawHeader


_Fetch = Callable[[int, int, asyncio.Event], Coroutine[None, None, Page]]


class _Asked:
    """A page that was asked for, up to block `until`. `due` is set when it is the next to be written."""

    def __init__(self, fetch: _Fetch, first: int, until: int) -> None:
        self.until = until
        self.due = asyncio.Event()
        self.page = asyncio.create_task(fetch(first, until, self.due))


class Backfill:
    """One contract's pages. `on_progress` is called after each one has been worked on.

    `thread`: the one that writes them, if any does.
    """

    def __init__(
        self,
        rpc: Rpc,
        contract: Address,
        on_progress: Callable[[Progress], None] | None = None,
        thread: Executor | None = None,
    ) -> None:
        self._rpc = rpc
        self._thread = thread
        self._contract = contract
        self._contract_lower = contract.lower()
        self._on_progress = on_progress
        self._pages = Pages()
        self._said_s = 0.0

    async def pages(self, first: int, last: int) -> AsyncGenerator[Page, None]:
        """Until the next page is asked for, the one given counts as being written."""
        meter = _Meter(first, last)
        ahead: deque[_Asked] = deque()
        asked = first

        def ask() -> None:
            nonlocal asked
            while len(ahead) < PAGES_AHEAD and asked <= last:
                until = min(last, asked + self._pages.blocks - 1)
                ahead.append(_Asked(self._fetch, asked, until))
                asked = until + 1
            if ahead:
                ahead[0].due.set()

        try:
            ask()
            while ahead:
                with meter.waiting_for("node"):
                    page = await ahead[0].page
                until = ahead.popleft().until
                if page.last < until:  # the node took less: what is left of it comes first
                    ahead.appendleft(_Asked(self._fetch, page.last + 1, until))
                ask()
                with meter.waiting_for("disk"):
                    yield page
                self._say(meter.passed(page.last, len(page.rows.logs)))
        finally:
            for one in ahead:
                one.page.cancel()
            await asyncio.gather(*(one.page for one in ahead), return_exceptions=True)

    def _say(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)
        now_s = time.monotonic()
        ends = progress.block == progress.last and progress.last - progress.first >= WORTH_A_LINE
        if ends or now_s - self._said_s >= PROGRESS_EVERY_S:
            self._said_s = now_s
            log.info("backfill.progress", **progress._asdict(), page_blocks=self._pages.blocks)

    async def _fetch(self, first: int, last: int, due: asyncio.Event) -> Page:
        """One page from `first`, of as many blocks as the node takes."""

        async def when_due(decode: Callable[[bytes], T], content: bytes) -> T:
            await due.wait()
            return await self._in_thread(decode, content)

        while True:
            until = min(last, first + self._pages.blocks - 1)
            try:
                asked = self._rpc.get_logs(first, until, self._contract, decoding=when_due)
                logs, end = await asyncio.gather(asked, self._end(until))
            except (RpcError, TooHeavy) as error:
                if isinstance(error, RpcError) and not too_many(error):
                    raise
                if not self._pages.refused(until - first + 1):
                    raise
                log.info("backfill.smaller_pages", page_blocks=self._pages.blocks, reason=str(error)[:120])
                continue
            self._pages.answered(until - first + 1, len(logs))
            times = await self._times(logs)
            return await self._in_thread(self._page, logs, first, until, end, times)

    def _page(self, logs: Sequence[RawLog], first: int, last: int, end: RawHeader, times: dict[int, int]) -> Page:
        chainrows.check(logs, self._contract_lower, first, last)
        # The deployment block's header is held too: a chain that was begun anew shows there.
        return Page(last, chainrows.rows_of(logs, [chainrows.block_row(end)], times), end)

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        if self._thread is None:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    async def _end(self, number: int) -> RawHeader:
        header = await self._rpc.header(number)
        if header is None:
            raise WrongAnswer(f"the node has no block {number}")
        return header

    async def _times(self, logs: Sequence[RawLog]) -> dict[int, int]:
        """Block times that the logs left out, from headers in batches; they have to be of the logs' own blocks."""
        numbers = chainrows.untimed(logs)
        if not numbers:
            return {}
        headers = dict(zip(numbers, await self._rpc.headers(numbers), strict=True))
        for one in logs:
            header = headers.get(int(one.block_number, 16))
            if one.block_timestamp is None and (header is None or header.hash != one.block_hash):
                raise Moved("a log's block isn't where it was")
        return {number: int(header.timestamp, 16) for number, header in headers.items() if header is not None}


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
