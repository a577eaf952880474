"""The mass-end breaker at work: what it counts, what it holds, whom it tells, what is kept of it.

Promises: that it tripped is stored with the decisions that it stopped, and survives a restart, as does what it counted.
The alert comes when it trips and again each half of MASS_HOLD_MAX_S while anything is held, with the cost so far. It is
released by `resume`, or when after MASS_HOLD_MAX_S nothing is held any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog

from bot.domain import bill
from bot.domain.breaker import HOLD, WINDOW_MS
from bot.domain.decide import Action, Decision
from bot.domain.facts import SessionKey, Source
from bot.reconciler.memory import Memory
from bot.store import breaker as rows
from bot.store import records
from bot.store.db import Writer

log = structlog.get_logger("reconciler")


class Trip(NamedTuple):
    at_ms: int
    ends: int
    active: int
    text: str


class MassEnd:
    def __init__(self, memory: Memory, writer: Writer) -> None:
        self._memory = memory
        self._writer = writer
        self._told_ms = 0

    async def load(self, now: int) -> None:
        """As it was before a restart."""
        breaker, policy = self._memory.breaker, self._memory.policy
        newest, self._told_ms, recent = await self._writer(
            lambda tx: (rows.newest(tx), rows.told_ms(tx), rows.ends_since(tx, now - WINDOW_MS))
        )
        if newest is not None:
            breaker.since_ms = newest.at_ms
            breaker.tripped_ms = newest.at_ms if newest.tripped else None
        for key, evidence_ms, at_ms in recent:
            breaker.note([(key, evidence_ms)], 2**31, policy, at_ms)

    def notice(self, decided: Iterable[tuple[SessionKey, Decision]], now: int) -> Trip | None:
        """Takes what is about to be decided; a trip if that is too much at once."""
        ends = [(key, one.evidence_ms) for key, one in decided if one.action is Action.END and one.reason != "told"]
        if not ends:
            return None
        memory = self._memory
        lately = [key for key, at in memory.breaker.recent.items() if now - at < WINDOW_MS]
        gone = sum(1 for key in lately if memory.book.by_tutor.get(key.tutor) != key)
        active = len(memory.book.by_tutor) + gone
        count = memory.breaker.note(ends, active, memory.policy, now)
        if count is None:
            return None
        self._told_ms = now
        hold_min = memory.policy.mass_hold_max_ms // 60_000
        return Trip(
            now,
            count,
            active,
            f"{count} of {active} active sessions fell due within {WINDOW_MS // 1000} s, and no participant signed. "
            "That looks like a broken backend or feed: their ends are held. If the lessons are over: langdao-keeper "
            "resume. Without it, each is ended when something new is heard of it, or, if it stays silent, after "
            f"{hold_min} min",
        )

    def store(self, tx: Any, trip: Trip) -> int:
        """In the transaction of the decisions that it stopped; the alert's number."""
        rows.note(tx, rows.TRIPPED, Source.KEEPER, trip.at_ms, ends=trip.ends, active=trip.active)
        log.warning("breaker.tripped", ends=trip.ends, active=trip.active)
        return records.add_alert(tx.connection(), rows.ALERT, trip.text, trip.at_ms)

    async def release(self, source: Source, now: int, *, whole: bool = False) -> bool:
        """What it held is decided as if it had never tripped. False if it hadn't.

        `whole`: nor does what rests on evidence until now trip it, whether it had tripped or not.
        """
        tripped = self._memory.breaker.tripped_ms is not None
        if tripped or whole:
            self._memory.breaker.release(now)
            self._memory.held.clear()
            await self._writer(lambda tx: rows.note(tx, rows.RELEASED, source, now))
        if tripped:
            log.warning("breaker.released", by=source)
        return tripped

    async def watch(self, now: int) -> tuple[str, int] | None:
        """To be called now and then: the alert to repeat, as (text, its number), if it is time."""
        memory = self._memory
        tripped_ms = memory.breaker.tripped_ms
        if tripped_ms is None:
            return None
        if not memory.held:
            if now >= tripped_ms + memory.policy.mass_hold_max_ms:
                await self.release(Source.KEEPER, now)
            return None
        if now < self._told_ms + memory.policy.mass_hold_max_ms // 2:
            return None
        self._told_ms = now
        said = self.about(now)
        cost, per_minute = bill.amount(int(said["cost"])), bill.amount(int(said["per_minute"]))
        text = (
            f"The mass-end breaker still holds the ends of {said['held']} sessions after "
            f"{(now - tripped_ms) // 60_000} min; that has cost {cost} so far, {per_minute} a minute. "
            "If their lessons are over: langdao-keeper resume"
        )
        return text, await self._writer(lambda tx: records.add_alert(tx.connection(), rows.ALERT, text, now))

    def about(self, now: int) -> dict[str, Any]:
        """Its state: amounts in base units as text, times in epoch ms; the cost is that of holding."""
        memory = self._memory
        tripped_ms = memory.breaker.tripped_ms
        rate = memory.held.rate
        cost = bill.cost(rate, (tripped_ms or now) // 1000, now // 1000)
        return {
            "tripped_ms": tripped_ms,
            "until_ms": None if tripped_ms is None else tripped_ms + memory.policy.mass_hold_max_ms,
            "held": len(memory.held),
            "cost": str(cost),
            "per_minute": str(rate * 60),
        }


def held(decision: Decision) -> bool:
    """Does the breaker hold it?"""
    return decision.action is Action.HOLD and decision.inputs.get("hold") == HOLD
