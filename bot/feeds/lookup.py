"""Looks up the addresses of a room that nobody knows yet, before what was said of it is taken.

Promises: hints of one room keep their order; a hint waits for Redis at most WAIT_S, and a room is looked up at most
once in AGAIN_MS. Without Redis everything is taken at once. `take` never blocks or raises.
Doesn't promise that a mapping exists; what was looked up is a hint of its own, believed as Redis is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bot.domain.facts import Hint, SessionKey
from bot.feeds.mapping import MappingFeed

WAIT_S = 1.0
AGAIN_MS = 60_000
MAX_ROOMS = 10_000  # whose look-up is remembered; what anybody could invent must not fill the memory


class Lookup:
    """Stands between the feeds and whoever takes their hints. `mapping` is set once there is one."""

    def __init__(
        self,
        take: Callable[[Hint], None],
        store: Callable[[Hint], Awaitable[None]],
        joined: Callable[[str], SessionKey | None],
    ) -> None:
        self.mapping: MappingFeed | None = None
        self._take = take
        self._store = store
        self._joined = joined
        self._waiting: dict[str, list[Hint]] = {}
        self._looked_ms: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, hint: Hint) -> None:
        """Takes a hint without waiting."""
        room = hint.room or ""
        if room in self._waiting:
            self._waiting[room].append(hint)
        elif self._needs_look(hint):
            self._waiting[room] = [hint]
            task = asyncio.create_task(self._after_look(room), name=f"look {room}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._take(hint)

    async def store(self, hint: Hint) -> None:
        """Takes a hint and returns when it is stored. Raises what storing raises."""
        if self._needs_look(hint):
            await self._look(hint.room or "")
        await self._store(hint)

    async def _after_look(self, room: str) -> None:
        try:
            await self._look(room)
        finally:
            for hint in self._waiting.pop(room):
                self._take(hint)

    async def _look(self, room: str) -> None:
        assert self.mapping is not None
        try:
            async with asyncio.timeout(WAIT_S):
                await self.mapping.look(room)
        except TimeoutError:
            return

    def _needs_look(self, hint: Hint) -> bool:
        if self.mapping is None or not hint.room or (hint.student and hint.tutor) or self._joined(hint.room):
            return False
        last_ms = self._looked_ms.pop(hint.room, None)
        due = last_ms is None or hint.received_ms - last_ms >= AGAIN_MS
        self._looked_ms[hint.room] = hint.received_ms if due or last_ms is None else last_ms
        if len(self._looked_ms) > MAX_ROOMS:
            del self._looked_ms[next(iter(self._looked_ms))]
        return due
