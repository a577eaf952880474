"""Rooms whose session has ended, and what the backend was told of them.

Promises: a room is given until `done` was stored for it, so a crash between the two means that it is told twice,
never that it is forgotten. Only ends that are confirmed are given: a reorg may take back what was merely seen.
"""

from __future__ import annotations

from sqlalchemy import exists
from sqlalchemy import select as columns
from sqlmodel import Session, col

from bot.domain.ended import EndedRoom
from bot.domain.facts import SessionKey
from bot.store.db import Writer
from bot.store.ended import confirmed_since, key_of_settlement
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
    done = exists().where(
        col(AftermathRow.room) == col(Room.room), col(AftermathRow.session_key) == col(Room.session_key)
    )
    what = (Room.room, Room.session_key, Settlement.tx_hash, Settlement.ended_at)
    rows = tx.execute(
        columns(*map(col, what))
        .select_from(Settlement)
        .join(Room, col(Room.session_key) == key_of_settlement())
        .where(*confirmed_since(since_s), ~done)
        .order_by(col(Settlement.ended_at), col(Room.room))
    ).all()
    return [EndedRoom(room, SessionKey.parse(key), tx_hash, ended_s * 1000) for room, key, tx_hash, ended_s in rows]
