"""What the index says, in the form in which an audit compares it with the chain.

Promises: reads only; one consistent state as long as the caller keeps one session open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Table, func, select
from sqlmodel import Session

from bot.domain.address import Address
from bot.store import bulk
from bot.store.chain_rows import LogRow
from bot.store.tables import ChainSession, Log, Settlement

_logs: Table = Log.__table__  # type: ignore[attr-defined]
_sessions: Table = ChainSession.__table__  # type: ignore[attr-defined]
_settlements: Table = Settlement.__table__  # type: ignore[attr-defined]


class Recorded(NamedTuple):
    """A session with its settlement, None where it has none; amounts as decimal text."""

    session_id: int
    student: Address
    tutor: Address
    language: int
    started_at: int | None
    end_block: int | None
    rate: str | None
    token: Address | None
    ended_at: int | None
    paid: str | None


def logs(session: Session, first: int, last: int) -> list[LogRow]:
    """The logs of these blocks, in chain order."""
    c = _logs.c
    columns = [c[name] for name in LogRow._fields]
    query = select(*columns).where(c.block_number.between(first, last)).order_by(c.block_number, c.log_index)
    return [LogRow(*row) for row in session.connection().execute(query)]


def derived(session: Session) -> dict[str, tuple[int, int]]:
    """Of sessions and settlements: how many rows there are, and how many logs they come from."""
    connection = session.connection()

    def rows(table: Table) -> int:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def named(name: str) -> int:
        query = select(func.count()).select_from(_logs).where(_logs.c.name == name, _logs.c.session_id.is_not(None))
        return int(connection.execute(query).scalar_one())

    return {
        "sessions": (rows(_sessions), named("SessionStarted")),
        "settlements": (rows(_settlements), named("SessionEnded")),
    }


def paid(session: Session) -> tuple[int, dict[Address, int]]:
    """What all settlements say was paid, in base units, and by whom as far as the student is known."""
    total, by_student = 0, defaultdict[Address, int](int)
    for student, amount in session.connection().execute(select(_settlements.c.student, _settlements.c.paid)):
        total += int(amount)
        if student is not None:
            by_student[student] += int(amount)
    return total, by_student


def ids(session: Session) -> list[int]:
    """All sessions, by id."""
    query = select(_sessions.c.session_id).order_by(_sessions.c.session_id)
    return list(session.connection().execute(query).scalars())


def students(session: Session) -> list[Address]:
    """Everybody who had a session."""
    return sorted(session.connection().execute(select(_sessions.c.student).distinct()).scalars())


def recorded(session: Session, wanted: Sequence[int]) -> list[Recorded]:
    """These sessions, by id."""
    s, e = _sessions.c, _settlements.c
    both = _sessions.outerjoin(_settlements, s.session_id == e.session_id)
    columns = (s.session_id, s.student, s.tutor, s.language, s.started_at, s.end_block, s.rate, s.token)
    found: list[Recorded] = []
    for part in bulk.parts(wanted):
        query = select(*columns, e.ended_at, e.paid).select_from(both).where(s.session_id.in_(part))
        found += [Recorded._make(row) for row in session.connection().execute(query.order_by(s.session_id))]
    return found
