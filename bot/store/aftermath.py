"""Rooms whose session has ended, and what the backend was told of them.

Promises: a room is given until `done` was stored for it, so a crash between the two means that it is told twice,
never that it is forgotten. Only ends that are confirmed are given: a reorg may take back what was merely seen.
"""

from __future__ import annotations

from sqlmodel import Session, col, select

from bot.domain.ended import EndedRoom
from bot.domain.facts import SessionKey
from bot.store.db import Writer
from bot.store.tables import AftermathRow, Room, Settlement


class EndedRooms:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def waiting(self, since_s: int) -> list[EndedRoom]:
        """Rooms whose session ended after `since_s`, chain time, and of which nothing was done yet."""
        return await self._writer(lambda tx: _waiting(tx, since_s))

    async def done(self, ended: EndedRoom, how: str, at_ms: int) -> None:
        row = AftermathRow(room=ended.room, session_key=str(ended.key), how=how, at_ms=at_ms)
        await self._writer(lambda tx: tx.merge(row))


def _waiting(tx: Session, since_s: int) -> list[EndedRoom]:
    ends = tx.exec(
        select(Settlement).where(
            col(Settlement.ended_at) >= since_s,
            col(Settlement.finality) != "seen",
            col(Settlement.student).is_not(None),
        )
    ).all()
    found: list[EndedRoom] = []
    for first in range(0, len(ends), 500):
        part = {str(_key(row)): row for row in ends[first : first + 500]}
        done = set(
            tx.exec(
                select(AftermathRow.room, AftermathRow.session_key).where(col(AftermathRow.session_key).in_(part))
            ).all()
        )
        rooms = tx.exec(select(Room.room, Room.session_key).where(col(Room.session_key).in_(part))).all()
        for room, key in rooms:
            if key is not None and (room, key) not in done:
                row = part[key]
                found.append(EndedRoom(room, _key(row), row.tx_hash, (row.ended_at or 0) * 1000))
    return found


def _key(row: Settlement) -> SessionKey:
    return SessionKey(row.session_id, row.student or "", row.tutor)
