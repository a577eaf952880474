"""What the daemon says of itself, for other commands: one JSON document in the database, refreshed every two seconds.

Promises: it is at most a few seconds old while the daemon lives; `updated_ms` tells. Nothing in it is secret.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlmodel import Session

from bot.chain.follower import Follower
from bot.domain.feeds import SOCKET, WEBHOOK
from bot.reconciler import Reconciler
from bot.store import identity as memory
from bot.store.db import Writer

ROW = "status"
LOOK_BACK_S = 3_600


class SelfReport:
    """Writes the report. `extra` gives what only the composition root knows, `others` what is no feed by itself.

    `counters` are those of the two feeds: received, refused, lost and whatever else the feed counts.
    """

    def __init__(
        self,
        writer: Writer,
        follower: Follower,
        reconciler: Reconciler,
        extra: Callable[[], dict[str, Any]],
        clock_ms: Callable[[], int],
    ) -> None:
        self._in_use: set[str] = set()
        self.counters: dict[str, Counter[str]] = {SOCKET: Counter(), WEBHOOK: Counter()}
        self._writer = writer
        self._follower = follower
        self._reconciler = reconciler
        self._extra = extra
        self.others: Callable[[], dict[str, Any]] = dict
        self._clock = clock_ms
        self.written_ms = clock_ms()  # when the database last took it

    def uses(self, feed: str, counters: Counter[str] | None = None) -> None:
        """This feed is set up, or was heard before."""
        self._in_use.add(feed)
        if counters is not None:
            self.counters[feed] = counters

    def in_use(self) -> list[str]:
        """The feeds that are set up, or were heard."""
        posted = {WEBHOOK} if self._reconciler.feeds.posted else set()
        return sorted(self._in_use | posted)

    async def write(self) -> None:
        now = self._clock()
        conditions, head = self._reconciler.conditions, self._follower.head
        feeds = {name: self._feed(name, now) for name in (SOCKET, WEBHOOK)}
        said = {
            "pid": os.getpid(),
            "mode": conditions.hold or "signing",
            "head": head.number if head else None,
            "head_ms": head.received_ms if head else None,
            "lag_blocks": self._follower.lag_blocks,
            "at_head": self._follower.at_head.is_set(),
            "feeds": feeds | self.others(),
            "skew_ms": conditions.skew_ms,
            "breaker": self._reconciler.mass_end.about(now),
            "counters": dict(self._reconciler.counters),
            "updated_ms": now,
        } | self._extra()
        await self._writer(lambda tx: memory.put(tx, ROW, json.dumps(said)))
        self.written_ms = now

    def _feed(self, name: str, now: int) -> dict[str, Any]:
        since, until = self._reconciler.feeds.span(name, now)
        return {
            "up": until is None,
            "since_ms": since if until is None else until,
            "configured": name in self.in_use(),
            "counters": dict(self.counters[name]),
        }


def last_seen_s(session: Session) -> int:
    """Until when (epoch seconds) an earlier daemon certainly watched, less an hour; a far future if none ever did."""
    text = memory.get(session, ROW)
    if text is None:
        return 2**62
    return int(json.loads(text)["updated_ms"]) // 1000 - LOOK_BACK_S
