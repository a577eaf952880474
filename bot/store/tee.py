"""Posts of the signalling server that wait to be passed on to the backend.

Promises: `add` returns when the post is stored; `load` gives what was stored and not yet `done`, in order of arrival.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete
from sqlmodel import Session, col, select

from bot.domain.facts import TRUST_OF, Hint, Kind, SessionKey, Source
from bot.store.db import Writer
from bot.store.tables import TeeRow


class TeeQueue:
    """The table `tee`, by the one writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def load(self) -> list[tuple[int, Hint, SessionKey | None]]:
        """All that wait: number, the post as it was taken, and the session that its room was joined to then."""
        return await self._writer(
            lambda tx: [_waiting(row) for row in tx.exec(select(TeeRow).order_by(col(TeeRow.id)))]
        )

    async def add(self, hint: Hint, key: SessionKey | None) -> int:
        row = TeeRow(
            kind=hint.kind.value,
            room=hint.room or "",
            session_key=None if key is None else str(key),
            received_ms=hint.received_ms,
            body=dict(hint.payload),
        )

        def change(tx: Session) -> int | None:
            tx.add(row)
            tx.flush()
            return row.id

        return await self._writer(change) or 0

    async def done(self, numbers: Sequence[int]) -> None:
        """Forgets these: passed on, expired, or not to be passed on at all."""
        await self._writer(lambda tx: tx.execute(delete(TeeRow).where(col(TeeRow.id).in_(numbers))))


def _waiting(row: TeeRow) -> tuple[int, Hint, SessionKey | None]:
    hint = Hint(
        kind=Kind(row.kind),
        source=Source.WEBHOOK,
        trust=TRUST_OF[Source.WEBHOOK],
        received_ms=row.received_ms,
        room=row.room,
        payload=row.body,
    )
    return row.id or 0, hint, None if row.session_key is None else SessionKey.parse(row.session_key)
