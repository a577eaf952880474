"""When each feed could be heard.

Promises: pure; times are passed in. A feed is up without a break *since* some moment, and, where it is down, *until*
some moment: what didn't arrive between the two proves silence, what didn't arrive outside proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

SOCKET, WEBHOOK = "socket", "webhook"


@dataclass(slots=True)
class _Span:
    since_ms: int
    until_ms: int | None  # None: up


class FeedBoard:
    """The state of the socket feed (told: connected or not) and of the webhook feed (seen: posts arrive or don't)."""

    def __init__(self, now_ms: int, webhook_silence_ms: int) -> None:
        self._silence_ms = webhook_silence_ms
        self._socket = _Span(now_ms, now_ms)
        self._posts_since_ms = now_ms
        self._last_post_ms: int | None = None

    def socket(self, up: bool, now_ms: int) -> bool:
        """The backend's socket connected or was lost. True if that is news."""
        if up == (self._socket.until_ms is None):
            return False
        self._socket = _Span(now_ms, None) if up else _Span(self._socket.since_ms, now_ms)
        return True

    def post(self, now_ms: int) -> bool:
        """An authenticated post arrived. True if the feed had been silent before."""
        silent = not self._posting(now_ms)
        if silent:
            self._posts_since_ms = now_ms
        self._last_post_ms = now_ms
        return silent

    def outage(self, now_ms: int) -> None:
        """The keeper itself didn't listen until now: every feed starts afresh."""
        self._socket.since_ms = now_ms
        if self._socket.until_ms is not None:
            self._socket.until_ms = now_ms
        self._posts_since_ms = now_ms
        self._last_post_ms = None

    def span(self, name: str, now_ms: int) -> tuple[int, int | None]:
        """(since, until) of a feed; until is None while it is up."""
        if name == SOCKET:
            return self._socket.since_ms, self._socket.until_ms
        if self._last_post_ms is None:
            return self._posts_since_ms, self._posts_since_ms
        up = self._posting(now_ms)
        return self._posts_since_ms, None if up else self._last_post_ms + self._silence_ms

    @property
    def webhook_silence_ms(self) -> int:
        return self._silence_ms

    @property
    def posted(self) -> bool:
        """Did an authenticated post arrive since the last outage?"""
        return self._last_post_ms is not None

    def up(self, name: str, now_ms: int) -> bool:
        return self.span(name, now_ms)[1] is None

    def _posting(self, now_ms: int) -> bool:
        return self._last_post_ms is not None and now_ms - self._last_post_ms <= self._silence_ms
