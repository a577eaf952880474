"""Notices what keeps the keeper from its job, tells somebody once, and says when it is over.

Promises: a condition is told when it has held for `PATIENCE_MS` without a break, not before, and once; when it was gone
for as long, that is told too, and it may be told again. The dead man's switch is pinged only while nothing is wrong
with head, database and feeds, so that its silence means trouble, this process's own death included.
Doesn't promise that anybody reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import structlog

from bot.ops.alerts import Alerts
from bot.ops.readiness import Reason

log = structlog.get_logger("watch")

PATIENCE_MS = 60_000
PING_EVERY_S = 60.0
PING_TIMEOUT_S = 10.0

# Reason -> the alert that tells it. The sender tells of balance, the follower's hooks of finality.
TOLD = {
    "not-at-head": "alert.head",
    "log-lag": "alert.head",
    "head-old": "alert.head",
    "database": "alert.database",
    "key": "alert.key",
    "feeds": "alert.feeds",
}
UNWRITTEN = "alert.database"  # has no row: there is nothing that it could be written to
SILENT = frozenset({"not-at-head", "log-lag", "head-old", "finality", "database", "feeds"})  # no ping while one holds


@dataclass(slots=True)
class _Condition:
    since_ms: int | None = None  # it holds, since then
    gone_ms: int | None = None  # it was told, and hasn't held since then
    told: bool = False
    words: str = ""


@dataclass(slots=True)
class Watch:
    """`look` is to be called every second or two."""

    reasons: Callable[[], Sequence[Reason]]
    alerts: Alerts
    clock_ms: Callable[[], int]
    patience_ms: int = PATIENCE_MS
    _conditions: dict[str, _Condition] = field(default_factory=dict)

    async def look(self) -> None:
        now = self.clock_ms()
        said: dict[str, str] = {}
        for reason in self.reasons():
            name = TOLD.get(reason.name)
            if name is not None:
                said.setdefault(name, reason.text)
        for name, text in said.items():
            await self._holds(name, text, now)
        for name, condition in self._conditions.items():
            if name not in said:
                await self._gone(name, condition, now)

    async def _holds(self, name: str, text: str, now: int) -> None:
        condition = self._conditions.setdefault(name, _Condition())
        condition.gone_ms, condition.words = None, text
        condition.since_ms = condition.since_ms if condition.since_ms is not None else now
        if not condition.told and now - condition.since_ms >= self.patience_ms:
            condition.told = True
            if name == UNWRITTEN:
                self.alerts.shout(name, text)
            else:
                await self.alerts.raise_alert(name, text)

    async def _gone(self, name: str, condition: _Condition, now: int) -> None:
        if not condition.told:
            condition.since_ms = None
            return
        condition.gone_ms = condition.gone_ms if condition.gone_ms is not None else now
        if now - condition.gone_ms >= self.patience_ms:
            lasted_s = (condition.gone_ms - (condition.since_ms or condition.gone_ms)) // 1000
            self._conditions[name] = _Condition()
            await self.alerts.over(name, f"It is over, after {lasted_s // 60} min {lasted_s % 60} s: {condition.words}")


class DeadMansSwitch:
    """Pings a URL while all is well; whoever waits for the pings calls somebody when they stay away."""

    def __init__(self, url: str, reasons: Callable[[], Sequence[Reason]]) -> None:
        self._url = url
        self._reasons = reasons

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=PING_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while True:
                await self._ping(http)
                await asyncio.sleep(PING_EVERY_S)

    async def _ping(self, http: aiohttp.ClientSession) -> None:
        wrong = [reason.name for reason in self._reasons() if reason.name in SILENT]
        if wrong:
            log.warning("ping.withheld", reasons=wrong)
            return
        try:
            async with http.get(self._url) as answer:
                if answer.status >= 400:
                    log.warning("ping.refused", status=answer.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("ping.failed", error=type(error).__name__)
