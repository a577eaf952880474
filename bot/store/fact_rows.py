"""Rows of facts: whatever was said off chain, stored once and never changed, but for the session that it is linked to.

Promises: what goes in comes out equal (a fact read back equals the fact stored). Each function is one step inside the
caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, insert, update
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from bot.domain import linking
from bot.domain.facts import Fact, Hint, Kind, Role, SessionKey, Source, Trust
from bot.store import bulk
from bot.store.tables import DecisionRow, FactRow, Room

_READ = (
    "SELECT id, kind, source, trust, received_ms, said_ms, room, session_id, student, tutor, role, can_return, "
    "payload, session_key FROM facts"
)
# By value: a start reads these by the hundred thousand, and calling the enumeration takes three times as long.
_KINDS = {one.value: one for one in Kind}
_SOURCES = {one.value: one for one in Source}
_TRUSTS = {one.value: one for one in Trust}
_ROLES: dict[str | None, Role | None] = {None: None} | {one.value: one for one in Role}


def add_facts(session: Session, facts: Sequence[tuple[str, Hint, SessionKey | None]]) -> list[int]:
    """Stores facts, given as (idempotency key, hint, session); returns their ids in the same order."""
    if not facts:
        return []
    rows = [
        {
            "key": key,
            "kind": hint.kind.value,
            "source": hint.source.value,
            "trust": int(hint.trust),
            "received_ms": hint.received_ms,
            "said_ms": hint.said_ms,
            "room": hint.room,
            "session_id": hint.session_id,
            "student": hint.student,
            "tutor": hint.tutor,
            "role": hint.role.value if hint.role else None,
            "can_return": hint.can_return,
            "payload": dict(hint.payload),
            "session_key": str(session_key) if session_key else None,
        }
        for key, hint, session_key in facts
    ]
    statement = insert(FactRow).returning(col(FactRow.id), sort_by_parameter_order=True)
    return [int(number) for number in session.execute(statement, rows).scalars()]


def has_fact(session: Session, key: str) -> bool:
    """Was a fact stored under this idempotency key?"""
    return session.exec(select(FactRow.id).where(FactRow.key == key)).first() is not None


def facts_of(session: Session, keys: Iterable[SessionKey]) -> list[Fact]:
    """The facts of these sessions in the order in which they were stored. Reorgs are the chain's, and left out."""
    names = {str(key): key for key in keys}
    rows = bulk.rows(session.connection(), f"{_READ} WHERE session_key IN (?...)", (list(names),))
    return sorted((_fact(row, names[row[-1]]) for row in rows if row[1] in _KINDS), key=lambda fact: fact.id)


def unlinked_facts(session: Session, since_ms: int) -> list[Fact]:
    """Facts received since then that belong to no session yet, oldest first."""
    where = "WHERE session_key IS NULL AND received_ms >= ? ORDER BY id"
    return [
        _fact(row, None) for row in bulk.rows(session.connection(), f"{_READ} {where}", (since_ms,)) if row[1] in _KINDS
    ]


def link_facts(session: Session, ids: Sequence[int], key: SessionKey) -> None:
    """Says which session these facts are about, as has just become known."""
    newest = session.execute(columns(func.max(DecisionRow.id))).scalar() or 0
    for part in bulk.parts(ids):
        session.execute(
            update(FactRow).where(col(FactRow.id).in_(part)).values(session_key=str(key), joined_after=newest)
        )


def join_facts(session: Session, room: str, key: SessionKey) -> bool:
    """Links what this room had said, as far as it agrees, to the session that it turned out to be. False: nothing."""
    rows = bulk.rows(session.connection(), f"{_READ} WHERE room = ? AND session_key IS NULL", (room,))
    ids = [row[0] for row in rows if row[1] in _KINDS and linking.agrees(_fact(row, None).hint, key)]
    link_facts(session, ids, key)
    return bool(ids)


def heard_returns(session: Session) -> bool:
    """Did the backend's socket ever report a participant's return, in this database's life?"""
    query = select(FactRow.id).where(FactRow.kind == Kind.CONNECTED.value, FactRow.source == Source.SOCKET.value)
    return session.exec(query.limit(1)).first() is not None


def heard_webhook(session: Session) -> bool:
    """Did the webhook ever take an authenticated post, in this database's life?"""
    fact = select(FactRow.id).where(FactRow.source == Source.WEBHOOK.value).limit(1)
    beat = select(Room.room).where(Room.beat_source == Source.WEBHOOK.value).limit(1)
    return session.exec(fact).first() is not None or session.exec(beat).first() is not None


def _fact(row: Sequence[Any], key: SessionKey | None) -> Fact:
    """A row of `_READ`."""
    number, kind, source, trust, received_ms, said_ms, room, session_id, student, tutor, role, can_return, said, _ = row
    hint = Hint(
        _KINDS[kind],
        _SOURCES[source],
        _TRUSTS[trust],
        received_ms,
        room,
        session_id,
        student,
        tutor,
        _ROLES[role],
        said_ms,
        bool(can_return),
        json.loads(said) if isinstance(said, str) else said,
    )
    return Fact(number, hint, key)
