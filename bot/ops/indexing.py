"""Indexing without the rest of the keeper: follower, details on request, and how far they are.

Promises: `index` returns when logs, sessions and settlements are committed up to the node's head; it can be stopped at
any moment and goes on from there; a node in trouble is waited for, `GIVE_UP_S` at a time without any progress. Details
that contract or node can't tell stay null, and are counted.
Doesn't promise that the database is free: a running keeper holds its lock, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bot.errors import KeeperError, TryAgain
from bot.ground import Ground, opened
from bot.settings import Settings

GIVE_UP_S = 60.0
LONGEST_PAUSE_S = 5.0
GC_THRESHOLD = 100_000  # rows come in bulk and hold no cycles
SWITCH_S = 0.001  # the thread that writes waits so long for the one that decodes, between two statements


class Violated(KeeperError):
    """The node took back what it had called final."""


@dataclass(frozen=True, slots=True)
class State:
    """What a person wants to see while it runs."""

    text: str

    def __str__(self) -> str:
        return self.text


class Tell(Protocol):
    def __call__(self, state: State, *, now: bool = False) -> None: ...


async def index(settings: Settings, *, details: bool, follow: bool, tell: Tell) -> dict[str, Any]:
    """Indexes up to the head, or with `follow` until cancelled; what there is then.

    Raises Violated, or TryAgain when the node gave nothing for too long.
    """
    with for_bulk():
        async with opened(settings, any_contract=True) as ground:
            return await _Indexing(settings, ground, tell).work(details=details, follow=follow)


@contextlib.contextmanager
def for_bulk() -> Iterator[None]:
    """The interpreter's own work, kept out of the way of millions of rows."""
    threshold, interval_s = gc.get_threshold(), sys.getswitchinterval()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        gc.set_threshold(*threshold)
        gc.unfreeze()


class _Indexing:
    def __init__(self, settings: Settings, ground: Ground, tell: Tell) -> None:
        from bot.chain.follower import Change, Follower, Progress

        self._ground = ground
        self._tell = tell
        self._moved_s = time.monotonic()
        self._details_due = asyncio.Event()
        self._following = False

        def passed(progress: Progress) -> None:
            tell(
                State(
                    f"block {progress.block} of {progress.last}, {progress.logs} logs, {progress.logs_per_s} a second, "
                    f"{progress.left_s} s left, waits for the {progress.waits_for}"
                )
            )

        async def changed(change: Change) -> None:
            self._moved_s = time.monotonic()
            if change.started or change.ended or change.retracted:
                self._details_due.set()
            if self._following and change.live:
                tell(State(f"block {change.head.number}"))

        self._follower = Follower(
            ground.rpc,
            ground.writer,
            ground.identity,
            poll_interval_s=settings.poll_interval_s,
            confirmations=settings.confirmations,
            on_change=changed,
            on_progress=passed,
        )

    async def work(self, *, details: bool, follow: bool) -> dict[str, Any]:
        before = await self._counts()
        started_s = time.monotonic()
        await self._insist(self._follower.catch_up)
        if self._follower.violated:
            raise Violated(
                "the node took back blocks that it had called final; the index stays as it was. Compare it with "
                "another node (RPC_URL takes several)"
            )
        took_s = time.monotonic() - started_s
        if details or follow:
            await self._insist(self._fill_details)
        found = await self._document(before, took_s, details or follow)
        if follow:
            self._following = True
            self._tell(State(f"at the head, block {found['block']}; following"), now=True)
            await asyncio.gather(self._follower.run(), self._fill_when_due())
        return found

    async def _insist(self, work: Callable[[], Any]) -> None:
        """Does `work` until it is done, however often the node fails, while something moves."""
        from bot.chain.errors import RpcError

        failures = 0
        self._moved_s = time.monotonic()
        while True:
            began_s = self._moved_s
            try:
                await work()
                return
            except (TryAgain, RpcError) as error:
                failures = failures + 1 if self._moved_s == began_s else 1
                if time.monotonic() - self._moved_s > GIVE_UP_S:
                    raise
                pause_s = min(LONGEST_PAUSE_S, 0.25 * 2**failures) * random.uniform(0.75, 1.25)
                self._tell(State(f"waits for the node, {pause_s:.1f} s: {error}"), now=True)
                await asyncio.sleep(pause_s)

    async def _fill_details(self) -> None:
        from bot.chain.details import Details
        from bot.chain.errors import RpcError, WrongAnswer
        from bot.chain.langdao import LangDAO

        langdao = LangDAO(self._ground.rpc, self._ground.identity.contract)
        try:
            owner = await langdao.owner()
        except (RpcError, WrongAnswer):
            return  # another contract: without an owner, who ended can't be judged; it stays visibly unfinished

        async def settled(_: Any) -> None:
            self._moved_s = time.monotonic()

        await Details(self._ground.rpc, self._ground.writer, langdao, owner=owner, on_settled=settled).fill()

    async def _fill_when_due(self) -> None:
        while True:
            await self._details_due.wait()
            self._details_due.clear()
            await self._insist(self._fill_details)

    async def _counts(self) -> dict[str, int]:
        from bot.store import queries

        return await self._ground.writer(queries.counts)

    async def _document(self, before: dict[str, int], took_s: float, details: bool) -> dict[str, Any]:
        from bot.store import queries

        counts = await self._counts()
        head = self._follower.head
        return {
            "block": head.number if head else None,
            "block_hash": head.hash if head else None,
            **counts,
            "unfinished": await self._ground.writer(queries.unfinished),
            "details": details,
            "new_logs": counts["logs"] - before["logs"],
            "took_s": round(took_s, 3),
            "requests": self._ground.rpc.requests,
            "log_requests": self._ground.rpc.log_requests,
        }
