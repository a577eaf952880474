"""What logs don't carry, in the rows: which of it is unread, and filling it in.

Promises: each function is part of its caller's transaction; a row that a reorg gave to others meanwhile stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Table, select
from sqlmodel import Session

from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.store import bulk
from bot.store.tables import ChainSession, Settlement, TxRow

_sessions: Table = ChainSession.__table__  # type: ignore[attr-defined]
_settlements: Table = Settlement.__table__  # type: ignore[attr-defined]
_txs: Table = TxRow.__table__  # type: ignore[attr-defined]


class Unread(NamedTuple):
    """A session or settlement of which something isn't known yet. `student` is None when its start wasn't seen."""

    session_id: int
    student: Address | None
    tutor: Address
    tx_hash: str = ""


def sessions_without_rate(session: Session, after: int, limit: int) -> list[Unread]:
    """Sessions whose rate and token haven't been read, by id, above `after`."""
    c = _sessions.c
    query = select(c.session_id, c.student, c.tutor).where(c.rate.is_(None), c.session_id > after)
    return [Unread(*row) for row in session.connection().execute(query.order_by(c.session_id).limit(limit))]


def settlements_without_start(session: Session, after: int, limit: int) -> list[Unread]:
    """Settlements of sessions whose start lies before the index, not read yet, by id, above `after`."""
    c = _settlements.c
    query = select(c.session_id, c.student, c.tutor, c.tx_hash).where(c.student.is_(None), c.session_id > after)
    return [Unread(*row) for row in session.connection().execute(query.order_by(c.session_id).limit(limit))]


def settlements_without_sender(session: Session, after: int, limit: int) -> list[Unread]:
    """Settlements whose student is known, but not who ended them, by id, above `after`."""
    c = _settlements.c
    unread = c.ended_by.is_(None) & c.student.is_not(None) & (c.session_id > after)
    query = select(c.session_id, c.student, c.tutor, c.tx_hash).where(unread)
    return [Unread(*row) for row in session.connection().execute(query.order_by(c.session_id).limit(limit))]


class Details(NamedTuple):
    """What `getSession` says of a session."""

    session_id: int
    student: Address
    tutor: Address
    language: int
    started_at: int
    rate: int
    token: Address


def fill_details(session: Session, details: Sequence[Details]) -> None:
    """Stores what `getSession` said, in sessions and settlements. Rows of another student or tutor stay as they are."""
    connection = session.connection()
    bulk.many(
        connection,
        "UPDATE sessions SET rate = ?, token = ?, started_at = COALESCE(started_at, ?)"
        " WHERE session_id = ? AND student = ? AND tutor = ?",
        [(str(d.rate), d.token, d.started_at, d.session_id, d.student, d.tutor) for d in details],
    )
    bulk.many(
        connection,
        "UPDATE settlements SET rate = ?, token = ?, started_at = COALESCE(started_at, ?), student = ?,"
        " language = COALESCE(language, ?) WHERE session_id = ? AND (student IS NULL OR student = ?) AND tutor = ?",
        [
            (str(d.rate), d.token, d.started_at, d.student, d.language, d.session_id, d.student, d.tutor)
            for d in details
        ],
    )


class Sender(NamedTuple):
    """Who ended a session, by the transaction that did."""

    session_id: int
    tx_hash: str
    sender: Address
    ended_by: str
    by_keeper: bool


def fill_senders(session: Session, senders: Sequence[Sender]) -> None:
    """Stores who ended; a settlement that meanwhile stands in another transaction stays as it is."""
    bulk.many(
        session.connection(),
        "UPDATE settlements SET sender = ?, ended_by = ?, by_keeper = ? WHERE session_id = ? AND tx_hash = ?",
        [(s.sender, s.ended_by, s.by_keeper, s.session_id, s.tx_hash) for s in senders],
    )


def by_keeper(sender: Address) -> dict[str, Any]:
    """The columns that say that the keeper ended it, as this signer."""
    return {"sender": sender, "ended_by": "keeper", "by_keeper": True}


def our_transactions(session: Session, hashes: Sequence[str]) -> dict[str, Address]:
    """Which of these transactions the keeper itself signed, and as whom."""
    found: dict[str, Address] = {}
    for part in bulk.parts(hashes):
        query = select(_txs.c.hash, _txs.c.sender).where(_txs.c.hash.in_(part))
        found.update((tx_hash, Address(sender)) for tx_hash, sender in session.connection().execute(query))
    return found


def complete(session: Session, ids: Sequence[int]) -> list[SessionKey]:
    """Which of these settlements have all their details."""
    c = _settlements.c
    found: list[SessionKey] = []
    for part in bulk.parts(ids):
        query = select(c.session_id, c.student, c.tutor).where(
            c.session_id.in_(part), c.student.is_not(None), c.rate.is_not(None), c.ended_by.is_not(None)
        )
        found += [SessionKey(*row) for row in session.connection().execute(query.order_by(c.session_id))]
    return found
