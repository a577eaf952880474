"""Adds to a settlement what only the keeper knows: room, reason, when the call ended and what was too much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from bot.domain import bill
from bot.domain.decide import call_ended_ms
from bot.domain.facts import SessionKey
from bot.reconciler.memory import Live, Memory
from bot.store import records
from bot.store.db import Writer

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

            def change(tx: Any, over: Sequence[tuple[SessionKey, Live]] = over) -> list[str | None]:
                return [self._complete(tx, key, live) for key, live in over]

            for (key, _), reason in zip(over, await self._writer(change), strict=True):
                if reason is not None:
                    log.info("settlement.seen", session=key.session_id, reason=reason)

    def _complete(self, tx: Any, key: SessionKey, live: Live) -> str | None:
        """The reason, None when there is no such settlement."""
        memory, skew_ms = self._memory, self._memory.conditions.skew_ms
        world, rooms = memory.world(live), memory.book.rooms_of(key)
        row = records.settlement(tx, key.session_id)
        if row is None or row.student not in (None, key.student) or row.tutor != key.tutor:
            return None
        ours = records.our_tx(tx, row.tx_hash)
        by_ms = memory.clock() if row.ended_at is None else row.ended_at * 1000 - skew_ms
        ended_ms = call_ended_ms(live.session, memory.policy, world, by_ms)
        values: dict[str, Any] = {"room_id": rooms[0] if rooms else None, "student": key.student}
        if ours:
            values["reason"] = records.settle_reason(tx, key)
        elif row.ended_by == "owner":
            values["reason"] = "by-backend"  # the same key, another program
        else:
            values["reason"] = "paid-after-nudge" if live.session.told else "on-their-own"
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
        records.complete_settlement(tx, key.session_id, values)
        return str(values["reason"])
