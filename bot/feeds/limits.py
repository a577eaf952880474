"""How often we may ask others for something, and what they say about it."""

from __future__ import annotations

import email.utils
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


def retry_after_ms(header: str | None, now_ms: int) -> int | None:
    """`Retry-After` in ms from now, of seconds or of a date; None for what is neither."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 9:
        return int(text) * 1000
    try:
        return max(0, round(email.utils.parsedate_to_datetime(text).timestamp() * 1000) - now_ms)
    except (ValueError, TypeError, OverflowError):
        return None
