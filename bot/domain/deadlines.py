"""An indexed heap of deadlines: one a key, the earliest first.

Promises: setting, moving and dropping a deadline and taking the earliest cost O(log n), whatever the number of keys.
Of equal deadlines the smaller key comes first.
Moved and dropped entries stay in the heap until they come up or outnumber the live ones; then it is rebuilt.
"""

from __future__ import annotations

import heapq
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=int | tuple[Any, ...])  # hashable, and in an order


class Deadlines(Generic[K]):
    def __init__(self) -> None:
        self._at: dict[K, tuple[int, K]] = {}  # the very entry of the heap that counts
        self._heap: list[tuple[int, K]] = []

    def __len__(self) -> int:
        return len(self._at)

    def get(self, key: K) -> int | None:
        """When `key` is due (ms), None if it has no deadline."""
        entry = self._at.get(key)
        return entry[0] if entry else None

    def set(self, key: K, at_ms: int | None) -> None:
        """Gives `key` the deadline `at_ms`, instead of any it had; None takes it away."""
        if at_ms is None:
            self._at.pop(key, None)
            return
        if self.get(key) == at_ms:
            return
        self._at[key] = entry = (at_ms, key)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 + 2 * len(self._at):
            self._heap = list(self._at.values())
            heapq.heapify(self._heap)

    def earliest(self) -> int | None:
        """The earliest deadline (ms), None if there is none."""
        while self._heap:
            entry = self._heap[0]
            if self._at.get(entry[1]) is entry:
                return entry[0]
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_ms: int) -> list[K]:
        """Takes out all keys that are due by `now_ms`, earliest first."""
        due: list[K] = []
        while (at := self.earliest()) is not None and at <= now_ms:
            key = heapq.heappop(self._heap)[1]
            del self._at[key]
            due.append(key)
        return due
