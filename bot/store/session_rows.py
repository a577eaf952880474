"""Sessions of the chain as the daemon needs them: those that may still need us, by their rows in `sessions`.

Promises: only what is on the canonical chain is read. The rows are the follower's (`bot.store.chain_rows`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func
from sqlmodel import Session, select

from bot.domain.facts import SessionKey
from bot.store import bulk
from bot.store.tables import ChainSession


class LiveSession(NamedTuple):
    """A session on the canonical chain that may still need us."""

    key: SessionKey
    started_at: int | None  # chain seconds
    rate: int | None
    token: str | None
    ended: bool
    closed: bool


def live_ids(session: Session, ended_since_s: int, *, ended: bool = True) -> list[int]:
    """Sessions that aren't closed, and those that ended since then (chain seconds) without our word on it.

    `ended` false: only those that haven't ended.
    """
    missed = "SELECT session_id FROM settlements WHERE reason IS NULL AND ended_at >= ?"
    active = "" if ended else " AND end_block IS NULL"
    # Two questions, each by its own index; as one with an `or` it would read all sessions.
    sql = (
        f"SELECT session_id FROM sessions WHERE closed = FALSE{active} UNION "  # noqa: S608
        f"SELECT session_id FROM sessions WHERE session_id IN ({missed}){active}"
    )
    return sorted(number for (number,) in bulk.rows(session.connection(), sql, (ended_since_s,)))


def by_id(session: Session, ids: Iterable[int]) -> list[LiveSession]:
    """These sessions, as far as they are on the canonical chain, in the order of their ids."""
    sql = (
        "SELECT session_id, student, tutor, started_at, rate, token, end_block, closed FROM sessions "
        "WHERE session_id IN (?...) ORDER BY session_id"
    )
    return [_live(row) for row in bulk.rows(session.connection(), sql, (list(ids),))]


def _live(row: Sequence[Any]) -> LiveSession:
    session_id, student, tutor, started_at, rate, token, end_block, closed = row
    return LiveSession(
        SessionKey(session_id, student, tutor),
        started_at,
        int(rate) if rate is not None else None,
        sys.intern(token) if token else None,  # the same for nearly all
        end_block is not None,
        bool(closed),
    )


def may_withdraw(session: Session, students: Iterable[str]) -> set[str]:
    """Those whose last start isn't younger than their last end, whatever else of theirs still runs.

    The contract holds them for not studying any more. Within one block the order isn't looked at: they count too.
    """
    sql = (
        "SELECT student FROM sessions WHERE student IN (?...) "
        "GROUP BY student HAVING MAX(end_block) >= MAX(start_block)"
    )
    return {student for (student,) in bulk.rows(session.connection(), sql, (list(students),))}


def newest(session: Session) -> int:
    """The highest id of a session on the canonical chain, 0 when there is none."""
    return session.exec(select(func.max(ChainSession.session_id))).one() or 0


def closed_among(session: Session, ids: Iterable[int]) -> set[int]:
    """Which of these sessions are ended and final."""
    sql = "SELECT session_id FROM sessions WHERE session_id IN (?...) AND closed = TRUE"
    return {number for (number,) in bulk.rows(session.connection(), sql, (list(ids),))}
