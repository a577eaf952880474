"""Tells the bundled backend, for the participants' pages, what is planned for each session (`keeper:session`).

Promises: a plan is told when a decision about its session, its bill or its balance has changed, and not again while
nothing has; after the backend's socket connected all that are active are told, the newest MAX_TOLD at most, and those
that ended within TOLD_AFTER_END_S. Telling delays no decision: it is a task of its own, and decisions only leave a
mark for it. What couldn't be told is told after the next connection.
Doesn't promise that anybody looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from bot.domain.facts import SessionKey
from bot.domain.identity import Identity
from bot.domain.plan import Bill, Plan, State, hold_of, state_of
from bot.errors import TryAgain
from bot.nudges.texts import why
from bot.reconciler import Reconciler
from bot.store import records
from bot.store.db import Writer

if TYPE_CHECKING:
    from bot.reconciler.memory import Live
    from bot.store.tables import Settlement

MAX_TOLD = 5_000
TOLD_AFTER_END_S = 2 * 3600
BATCH = 200

Tell = Callable[[dict[str, Any]], Awaitable[None]]


class Plans:
    """`tell` sends one plan to the backend, or raises TryAgain when it can't be reached."""

    def __init__(
        self, reconciler: Reconciler, writer: Writer, identity: Identity, tell: Tell, clock_ms: Callable[[], int]
    ) -> None:
        self._reconciler = reconciler
        self._writer = writer
        self._identity = identity
        self._tell = tell
        self._clock = clock_ms
        self._marked: dict[SessionKey, None] = {}
        self._told: dict[SessionKey, dict[str, Any]] = {}
        self._kept = 0  # of them, when those that are gone were last left out
        self._wake = asyncio.Event()
        self._anew = False

    def touched(self, keys: Iterable[SessionKey], own: bool = True) -> None:
        """These sessions were decided on, settled or taken back by a reorg.

        `own` false: for no reason of theirs, but because a feed is back; then only what was told is told anew.
        """
        self._marked.update(dict.fromkeys(keys if own else (key for key in keys if key in self._told)))
        self._wake.set()

    def connected(self) -> None:
        """Whoever listens now knows nothing yet."""
        self._anew = True
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._anew:
                self._anew = False
                self._told.clear()
                await self._mark_all()
            while self._marked and not self._anew:
                batch = list(self._marked)[:BATCH]
                for key in batch:
                    del self._marked[key]
                await self._tell_all(batch)

    async def _mark_all(self) -> None:
        active = [live.session.key for live in islice(self._reconciler.active(), MAX_TOLD)]
        since_s = (self._clock() + self._reconciler.conditions.skew_ms) // 1000 - TOLD_AFTER_END_S
        rows = await self._writer(lambda tx: records.settled_since(tx, since_s, MAX_TOLD))
        ended = [SessionKey(*row) for row in rows]
        self._marked = dict.fromkeys([*active, *ended, *self._marked])

    async def _tell_all(self, keys: list[SessionKey]) -> None:
        reconciler = self._reconciler
        over = [key for key in keys if (live := reconciler.about(key)) is None or live.session.ended]
        rows = await self._writer(lambda tx: records.settlements_by_id(tx, [key.session_id for key in over]))
        bills = {row.session_id: row for row in rows}
        for key in keys:
            live = reconciler.about(key)
            settlement = bills.get(key.session_id)
            if settlement is not None and (settlement.student or key.student, settlement.tutor) != key[1:]:
                settlement = None  # a reorg gave the id to others
            said = self._plan(key, live, settlement).payload()
            if self._told.get(key) == said:
                continue
            try:
                await self._tell(said | {"nowMs": self._clock(), "skewMs": reconciler.conditions.skew_ms})
            except TryAgain:
                return  # all of them are told after the next connection
            self._told[key] = said
        if len(self._told) > 2 * self._kept + BATCH:  # what is said of sessions that are gone is the last of them
            self._told = {key: said for key, said in self._told.items() if reconciler.about(key) is not None}
            self._kept = len(self._told)

    def _plan(self, key: SessionKey, live: Live | None, settlement: Settlement | None) -> Plan:
        identity = self._identity
        if live is None:
            state = State.GONE if settlement is None else State.ENDED
            rooms = [settlement.room_id] if settlement is not None and settlement.room_id is not None else []
            started_at_s = settlement.started_at if settlement is not None else None
            rate = int(settlement.rate) if settlement is not None and settlement.rate is not None else None
            bill = _bill(settlement)
            return Plan(key, identity.chain_id, identity.contract, state, rooms, started_at_s, rate, bill=bill)
        decision = self._reconciler.decision(live)
        state = state_of(decision, settling=live.settling)
        return Plan(
            key=key,
            chain_id=identity.chain_id,
            contract=identity.contract,
            state=state,
            rooms=self._reconciler.rooms_of(key),
            started_at_s=live.started_at,
            rate=live.session.rate,
            balance=self._reconciler.balance_of(key.student),
            reason=decision.reason,
            why=why(decision.reason) if state in (State.DUE, State.ENDING, State.HELD) else "",
            ask=decision.ask,
            due_ms=decision.due_ms if state in (State.DUE, State.HELD) else None,
            drained_ms=live.session.drained_ms if state is not State.ENDED else None,
            hold=hold_of(decision, self._reconciler.conditions.hold),
            bill=_bill(settlement) if state is State.ENDED else None,
        )


def _bill(row: Settlement | None) -> Bill | None:
    if row is None:
        return None
    return Bill(
        paid=int(row.paid),
        seconds=int(row.billed_s),
        ended_at_s=row.ended_at,
        ended_by=row.ended_by,
        tx_hash=row.tx_hash,
        call_ended_at_s=row.call_ended_at,
        overbilled_s=row.overbilled_s,
        overbilled=None if row.overbilled_amount is None else int(row.overbilled_amount),
    )
