"""How often we may ask others for something."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Window:
    """At most `limit` in any 60 s: unlike a bucket it never lets more through, whatever the other side's minute is."""

    def __init__(self, limit: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock_s = clock_s
        self._used: deque[float] = deque()

    def free(self) -> int:
        """How many may go now."""
        now = self._clock_s()
        while self._used and now - self._used[0] >= 60:
            self._used.popleft()
        return self.limit - len(self._used)

    def use(self) -> None:
        """One went."""
        self._used.append(self._clock_s())
