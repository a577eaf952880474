"""Adds to a settlement what only the keeper knows: room, reason, when the call ended and what was too much.

Promises: a reader never sees a reason before whom it is about. That it was the keeper itself is known here and stored
with the reason; of somebody else's end the reason stays null until `chain/details` has read who it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog

from bot.domain import bill
from bot.domain.decide import call_ended_ms
from bot.domain.facts import SessionKey
from bot.reconciler.memory import Live, Memory
from bot.store import chain_details, records
from bot.store.db import Writer
from bot.store.tables import Settlement

PART = 250  # settlements completed in one transaction

log = structlog.get_logger("reconciler")


class Settlements:
    def __init__(self, memory: Memory, writer: Writer) -> None:
        self._memory = memory
        self._writer = writer

    async def complete(self, keys: Sequence[SessionKey]) -> None:
        """Safe to call again when more is known. Of many, some hundred are one transaction."""
        for begin in range(0, len(keys), PART):
            part = keys[begin : begin + PART]
            over = [(key, live) for key in part if (live := self._memory.live.get(key)) and live.session.ended]
            if not over:
                continue
            reasons = await self._writer(partial(self._complete, over=over))
            for session_id, reason in reasons.items():
                log.info("settlement.seen", session=session_id, reason=reason)

    def _complete(self, tx: Any, over: Sequence[tuple[SessionKey, Live]]) -> dict[int, str]:
        """The reason of each of these that there is a settlement of, and whose ender is known."""
        rows = {row.session_id: row for row in records.settlements_by_id(tx, [key.session_id for key, _ in over])}
        ours = chain_details.our_transactions(tx, [row.tx_hash for row in rows.values()])
        known: dict[int, dict[str, Any]] = {}
        who: dict[str, Any]
        for key, live in over:
            row = rows.get(key.session_id)
            if row is not None and row.student in (None, key.student) and row.tutor == key.tutor:
                if row.tx_hash in ours:
                    who = chain_details.by_keeper(ours[row.tx_hash]) | {"reason": records.settle_reason(tx, key)}
                else:
                    who = {} if row.ended_by is None else {"reason": _theirs(row, live)}
                known[key.session_id] = who | self._values(key, live, row)
        records.complete_settlements(tx, known)
        return {session_id: str(values["reason"]) for session_id, values in known.items() if "reason" in values}

    def _values(self, key: SessionKey, live: Live, row: Settlement) -> dict[str, Any]:
        memory, skew_ms = self._memory, self._memory.conditions.skew_ms
        world, rooms = memory.world(live), memory.book.rooms_of(key)
        by_ms = memory.clock() if row.ended_at is None else row.ended_at * 1000 - skew_ms
        ended_ms = call_ended_ms(live.session, memory.policy, world, by_ms)
        values: dict[str, Any] = {"room_id": rooms[0] if rooms else None, "student": key.student}
        if ended_ms is not None:
            at_s = (ended_ms + skew_ms) // 1000
            values["call_ended_at"] = at_s
            rate = row.rate if row.rate is not None else live.session.rate
            if rate is not None and row.started_at is not None and row.ended_at is not None:
                over = bill.overbilled(
                    paid=int(row.paid),
                    rate=int(rate),
                    started_at=row.started_at,
                    ended_at=row.ended_at,
                    call_ended_at=at_s,
                )
                values |= {"overbilled_s": over.seconds, "overbilled_amount": str(over.amount)}
        return values


def _theirs(row: Settlement, live: Live) -> str:
    """Why a session ended that we didn't end."""
    if row.ended_by == "owner":
        return "by-backend"  # the same key, another program
    return "paid-after-nudge" if live.session.told else "on-their-own"
