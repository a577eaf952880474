"""Sessions whose participants haven't been told yet what they cost.

Promises: `take` gives each session once, and stores that it will be told before it returns; what was under way at a
crash is given again by `open`. Only ends that are confirmed are given: a reorg may take back what was merely seen. Ends
of before the first start are past, and never given.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import exists, literal
from sqlmodel import col, select

from bot.domain.facts import SessionKey
from bot.store import first_start
from bot.store.db import Writer
from bot.store.ended import confirmed_since, key_of_settlement
from bot.store.tables import ActionRow, Settlement

KIND = "bill"


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
    ended = tx.exec(
        select(Settlement).where(
            *confirmed_since(since_s, first_start.known(tx).block),
            col(Settlement.rate).is_not(None),  # its details were read
            col(Settlement.ended_by).is_not(None),
            ~exists().where(col(ActionRow.key) == literal(f"{KIND}:") + key_of_settlement()),
        )
    ).all()
    rows = [
        ActionRow(
            key=f"{KIND}:{key}",
            kind=KIND,
            session_key=str(key),
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
        for row in ended
        for key in (SessionKey(row.session_id, row.student, row.tutor),)
    ]
    tx.add_all(rows)
    tx.flush()
    return [_bill(row) for row in rows]


def _bill(row: ActionRow) -> Bill:
    return Bill(row.id or 0, SessionKey.parse(row.session_key), row.created_ms, row.payload)
