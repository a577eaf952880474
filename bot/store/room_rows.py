"""Rows of rooms, written by the hundred a second: each heartbeat moves its room's.

Promises: one statement for all of them, the same on SQLite and PostgreSQL. A room that was joined to a session long
ago and is heard again out of nowhere keeps its session in the record.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text
from sqlmodel import Session

from bot.domain.facts import Source
from bot.domain.linking import Room

_COLUMNS = (
    "session_key",
    "rule",
    "trust",
    "student",
    "tutor",
    "first_ms",
    "beats",
    "beat_first_ms",
    "beat_last_ms",
    "beat_source",
    "state",
)
_KEEPS = "excluded.session_key IS NULL AND rooms.session_key IS NOT NULL"
# Names of columns only, none of them from outside.
_SQL = text(
    f"INSERT INTO rooms (room, heard_ms, {', '.join(_COLUMNS)}) "  # noqa: S608
    f"VALUES (:room, :heard_ms, {', '.join(':' + name for name in _COLUMNS)}) "
    "ON CONFLICT (room) DO UPDATE SET heard_ms = CASE "
    f"WHEN {_KEEPS} AND rooms.heard_ms > excluded.heard_ms THEN rooms.heard_ms ELSE excluded.heard_ms END, "
    + ", ".join(f"{name} = CASE WHEN {_KEEPS} THEN rooms.{name} ELSE excluded.{name} END" for name in _COLUMNS)
)


def save(session: Session, rooms: Iterable[tuple[Room, Source | None]]) -> None:
    """Stores rooms as they are now, each once, with the source of their heartbeats."""
    rows = [
        {
            "room": room.room,
            "session_key": str(room.key) if room.key else None,
            "rule": room.rule,
            "trust": int(room.trust),
            "student": room.student,
            "tutor": room.tutor,
            "first_ms": room.first_ms,
            "heard_ms": room.heard_ms,
            "beats": room.beats.count,
            "beat_first_ms": room.beats.first_ms,
            "beat_last_ms": room.beats.last_ms,
            "beat_source": source.value if source else None,
            "state": "expired" if room.expired else ("linked" if room.key else "waiting"),
        }
        for room, source in rooms
    ]
    if rows:
        session.connection().execute(_SQL, rows)
