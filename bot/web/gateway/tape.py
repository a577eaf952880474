"""What the gateway said, was told and passed on lately, in order: for the debug page.

Promises: bounded, costs an append; a listener hears each line once. Nothing secret passes here: events go to everybody,
plans are shown on pages, and of a nudge only who was reached is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

KEPT: Final = 300
MAX_BEHIND: Final = 1_000


class Tape:
    def __init__(self) -> None:
        self.lines: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._numbers = itertools.count(1)
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()

    def note(self, at_ms: int, kind: str, event: str, said: dict[str, Any]) -> None:
        """`kind`: `fact` for what was reported, `plan` for what the keeper decided, `nudge` for whom it told."""
        line = {"n": next(self._numbers), "atMs": at_ms, "kind": kind, "event": event, "said": said}
        self.lines.append(line)
        for queue in self._listeners:
            if queue.qsize() < MAX_BEHIND:
                queue.put_nowait(line)

    @contextlib.contextmanager
    def heard(self) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """A queue of all lines from now on."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)
