"""Rows of rooms, written by the hundred a second: each heartbeat moves its room's.

Promises: one statement for all of them, the same on SQLite and PostgreSQL. A room that was joined to a session long
ago and is heard again out of nowhere keeps its session in the record.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from bot.domain.facts import NO_BEATS, Beats, SessionKey, Source, Trust
from bot.domain.linking import Room
from bot.store import bulk, session_rows

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


_READ = (
    "SELECT session_key, room, rule, trust, student, tutor, first_ms, heard_ms, beats, beat_first_ms, beat_last_ms, "
    "beat_source, state FROM rooms"
)
_PAGE = 5_000  # rooms looked at in one go: nearly all are of live sessions
_SOURCES: dict[str | None, Source | None] = {None: None} | {one.value: one for one in Source}
_TRUSTS = {one.value: one for one in Trust}


def save(session: Session, rooms: Iterable[Room]) -> None:
    """Stores rooms as they are now, each once."""
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
            "beat_source": room.beat_source.value if room.beat_source else None,
            "state": "expired" if room.expired else ("linked" if room.key else "waiting"),
        }
        for room in rooms
    ]
    if rows:
        session.connection().execute(_SQL, rows)


def of(session: Session, keys: Iterable[SessionKey]) -> list[Room]:
    """The rooms of these sessions, those whose heartbeats are oldest first."""
    names = {str(key): key for key in keys}
    rows = bulk.rows(session.connection(), f"{_READ} WHERE session_key IN (?...) ORDER BY beat_last_ms", (list(names),))
    return [_room(row, names[row[0]]) for row in rows]


def others(session: Session, since_ms: int, known: Callable[[SessionKey], bool]) -> list[Room]:
    """Rooms heard since then that are of no `known` session: waiting, or of sessions that are over.

    A room of a session that isn't on the canonical chain any more is left out: nothing of it may carry over.
    """
    keys: dict[str, SessionKey | None] = {}
    sql = (
        "SELECT room, session_key FROM rooms WHERE room > ? AND heard_ms >= ? AND state <> 'expired' "
        "ORDER BY room LIMIT ?"
    )
    last = ""
    while page := bulk.rows(session.connection(), sql, (last, since_ms, _PAGE)):
        for room, name in page:
            key = SessionKey.parse(name) if name else None
            if key is None or not known(key):
                keys[room] = key
        last = page[-1][0]
    ids = [key.session_id for key in keys.values() if key is not None]
    over = {row.key for row in session_rows.by_id(session, ids)}
    rows = bulk.rows(session.connection(), f"{_READ} WHERE room IN (?...)", (list(keys),))
    return [_room(row, key) for row in rows if (key := keys[row[1]]) is None or key in over]


def _room(row: Sequence[Any], key: SessionKey | None) -> Room:
    """A row of `_READ`. What is equal is made one object, however many live: texts of addresses, rules, times."""
    _, name, rule, trust, student, tutor, first_ms, heard_ms, beats, beat_first_ms, beat_last_ms, source, state = row
    if key is not None:
        student = key.student if student == key.student else student
        tutor = key.tutor if tutor == key.tutor else tutor
    return Room(
        name,
        first_ms,
        beat_last_ms if heard_ms == beat_last_ms else heard_ms,
        key,
        sys.intern(rule) if rule else None,
        _TRUSTS[trust],
        student,
        tutor,
        Beats(beats, first_ms if beat_first_ms == first_ms else beat_first_ms, beat_last_ms) if beats else NO_BEATS,
        _SOURCES[source],
        state == "expired",
    )
