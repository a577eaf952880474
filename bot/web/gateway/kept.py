"""What the gateway knows, kept where it survives a restart.

Promises: what `flush` returned from as kept is read again by the next start. While the shelf is down the gateway goes
on with what is in memory; once it is back everything is written anew, because it may have lost what it had, and what it
held that we never read is taken in. A text on the shelf that can't be read is left out, and costs nothing else.
Doesn't promise that a heartbeat is kept at once: they are written with the next tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from bot.errors import TryAgain
from bot.store.shelf import Entry

log = structlog.get_logger(__name__)

REST_S = 5.0


class Shelf(Protocol):
    where: str

    async def read(self, now_ms: int) -> list[tuple[str, str, str]]: ...
    async def write(self, entries: Iterable[Entry], now_ms: int) -> None: ...
    async def close(self) -> None: ...


class Collection(Protocol):
    """Something that is kept, by name. `changed` has the names that differ from the shelf."""

    kind: str
    changed: set[str]

    def names(self) -> Iterable[str]: ...
    def dump(self, name: str) -> tuple[str, int] | None:
        """Text, and until when it matters (epoch ms); None for what is gone."""
        ...

    def restore(self, name: str, text: str) -> None:
        """Takes in what the shelf held; what is known here is newer. Raises ValueError, KeyError or TypeError."""
        ...


class Kept:
    """`shelf` None: nothing is kept."""

    def __init__(self, shelf: Shelf | None, collections: Iterable[Collection], clock_ms: Callable[[], int]) -> None:
        self._shelf = shelf
        self._collections = {one.kind: one for one in collections}
        self._clock_ms = clock_ms
        self._loaded = False
        self._writing = asyncio.Lock()
        self._resting_until_s = 0.0

    @property
    def where(self) -> str:
        """`redis`, `file`, `memory`, or `redis, down` and the like."""
        if self._shelf is None:
            return "memory"
        return self._shelf.where if self._loaded else f"{self._shelf.where}, down"

    async def load(self) -> None:
        """Reads the shelf; if it is down, that is made up for later."""
        await self.flush()

    async def flush(self) -> None:
        """Writes what has changed. Returns at once while the shelf rests after a failure."""
        if self._shelf is None:
            for one in self._collections.values():
                one.changed.clear()
            return
        async with self._writing:
            if time.monotonic() < self._resting_until_s:
                return
            try:
                if not self._loaded:
                    await self._read(self._shelf)
                await self._write(self._shelf)
            except TryAgain as error:
                self._loaded = False
                self._resting_until_s = time.monotonic() + REST_S
                log.warning("gateway.not_kept", shelf=self._shelf.where, reason=str(error))

    async def close(self) -> None:
        if self._shelf is not None:
            await self.flush()
            await self._shelf.close()

    async def _read(self, shelf: Shelf) -> None:
        entries, unread = await shelf.read(self._clock_ms()), 0
        for kind, name, text in entries:
            try:
                if kind in self._collections:
                    self._collections[kind].restore(name, text)
            except (ValueError, KeyError, TypeError, AttributeError):
                unread += 1
        for one in self._collections.values():
            one.changed.update(one.names())  # it may have lost what it had
        self._loaded = True
        log.info("gateway.kept", shelf=shelf.where, entries=len(entries), unread=unread)

    async def _write(self, shelf: Shelf) -> None:
        entries: list[Entry] = []
        taken: list[tuple[Collection, set[str]]] = []
        for one in self._collections.values():
            names, one.changed = one.changed, set()
            taken.append((one, names))
            for name in names:
                text, until_ms = one.dump(name) or (None, 0)
                entries.append((one.kind, name, text, until_ms))
        if not entries:
            return
        try:
            await shelf.write(entries, self._clock_ms())
        except BaseException:
            for one, names in taken:
                one.changed |= names
            raise
