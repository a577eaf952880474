"""After the end: both participants are told what the session has cost.

Promises: a session's bill is said once, when its end is confirmed, and never later than EFFECT_MAX_AGE_S after it.
Doesn't promise a bill for an end that nobody could be told of in that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from bot.domain.facts import SessionKey
from bot.nudges.nudger import Nudger

log = structlog.get_logger("nudges")

LOOK_EVERY_S = 2.0


class Bill(Protocol):
    @property
    def action_id(self) -> int: ...
    @property
    def key(self) -> SessionKey: ...
    @property
    def created_ms(self) -> int: ...
    @property
    def payload(self) -> dict[str, Any]: ...
    @property
    def ended_s(self) -> int: ...


class Waiting(Protocol):
    """Sessions that ended and whose participants weren't told yet."""

    async def open(self) -> Sequence[Bill]: ...
    async def take(self, since_s: int, at_ms: int) -> Sequence[Bill]: ...


class Bills:
    """`skew_ms` is chain time minus ours."""

    def __init__(
        self,
        waiting: Waiting,
        nudger: Nudger,
        *,
        max_age_ms: int,
        skew_ms: Callable[[], int],
        clock_ms: Callable[[], int],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._waiting = waiting
        self._nudger = nudger
        self._max_age_ms = max_age_ms
        self._skew_ms = skew_ms
        self._clock = clock_ms
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Looks for ended sessions until cancelled."""
        for bill in await self._waiting.open():
            self._say(bill)
        while True:
            await self.look()
            await asyncio.sleep(self._look_every_s)

    async def look(self) -> None:
        now = self._clock()
        for bill in await self._waiting.take((now - self._max_age_ms + self._skew_ms()) // 1000, now):
            self._say(bill)

    def _say(self, bill: Bill) -> None:
        until_ms = bill.ended_s * 1000 - self._skew_ms() + self._max_age_ms
        self._nudger.bill(bill.action_id, bill.key, bill.payload, bill.created_ms, until_ms)
