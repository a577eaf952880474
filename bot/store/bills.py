"""Sessions whose participants haven't been told yet what they cost.

Promises: `take` gives each session once, and stores that it will be told before it returns; what was under way at a
crash is given again by `open`. Only ends that are confirmed are given: a reorg may take back what was merely seen. Ends
of before the first start are past, and never given.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlmodel import col, select

from bot.domain.facts import SessionKey
from bot.store import first_start
from bot.store.db import Writer
from bot.store.tables import ActionRow, Settlement

KIND = "bill"
_CHUNK = 500


class Bill(NamedTuple):
    """One confirmed end. `payload` is what is to be said; `ended_s` is chain time."""

    action_id: int
    key: SessionKey
    created_ms: int
    payload: dict[str, Any]

    @property
    def ended_s(self) -> int:
        return int(self.payload["ended_s"])


class Bills:
    """Actions of kind `bill`, by the one writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def open(self) -> list[Bill]:
        """Those that were taken and of which nothing is known."""
        return await self._writer(_open)

    async def take(self, since_s: int, at_ms: int) -> list[Bill]:
        """Those that ended after `since_s`, chain time, and weren't taken yet."""
        return await self._writer(lambda tx: _take(tx, since_s, at_ms))


def _open(tx: Any) -> list[Bill]:
    rows = tx.exec(select(ActionRow).where(ActionRow.state == "open", ActionRow.kind == KIND)).all()
    return [_bill(row) for row in rows]


def _take(tx: Any, since_s: int, at_ms: int) -> list[Bill]:
    ended = {
        f"{KIND}:{SessionKey(row.session_id, row.student or '', row.tutor)}": row
        for row in tx.exec(
            select(Settlement).where(
                col(Settlement.ended_at) >= since_s,
                col(Settlement.block_number) > first_start.known(tx).block,
                col(Settlement.finality) != "seen",
                col(Settlement.student).is_not(None),
                col(Settlement.rate).is_not(None),  # its details were read
            )
        )
    }
    names = list(ended)
    for first in range(0, len(names), _CHUNK):
        part = names[first : first + _CHUNK]
        for known in tx.exec(select(ActionRow.key).where(col(ActionRow.key).in_(part))):
            del ended[known]
    rows = [
        ActionRow(
            key=name,
            kind=KIND,
            session_key=name.partition(":")[2],
            created_ms=at_ms,
            payload={
                "reason": row.reason,
                "room": row.room_id,
                "billed_s": int(row.billed_s),
                "paid": row.paid,
                "tx_hash": row.tx_hash,
                "ended_s": row.ended_at,
            },
        )
        for name, row in ended.items()
    ]
    tx.add_all(rows)
    tx.flush()
    return [_bill(row) for row in rows]


def _bill(row: ActionRow) -> Bill:
    return Bill(row.id or 0, SessionKey.parse(row.session_key), row.created_ms, row.payload)
