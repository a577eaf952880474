"""Rows of single-use links: of each token only its hash is kept, so that whoever reads the database can't answer."""

from __future__ import annotations

from sqlalchemy import delete
from sqlmodel import Session, col, select

from bot.domain.facts import SessionKey
from bot.domain.question import Asked
from bot.store.tables import LinkRow


class Used(Exception):
    """This link was answered before."""


def add(session: Session, digest: str, asked: Asked, at_ms: int) -> None:
    session.add(
        LinkRow(
            digest=digest,
            session_key=str(asked.key),
            address=asked.address,
            action_id=asked.action_id,
            made_ms=at_ms,
            expires_ms=asked.expires_ms,
        )
    )


def unanswered(session: Session, now_ms: int) -> dict[str, Asked]:
    """The questions that can still be answered, by the hash of their token."""
    rows = session.exec(
        select(LinkRow).where(col(LinkRow.answered_ms).is_(None), col(LinkRow.expires_ms) > now_ms)
    ).all()
    return {
        row.digest: Asked(SessionKey.parse(row.session_key), row.action_id, row.address, row.expires_ms) for row in rows
    }


def use(session: Session, digest: str, at_ms: int) -> None:
    """Marks a link as answered. Raises Used, and so undoes its transaction, when it can't be."""
    row = session.get(LinkRow, digest)
    if row is None or row.answered_ms is not None:
        raise Used
    row.answered_ms = at_ms
    session.add(row)


def forget(session: Session, expired_before_ms: int) -> None:
    session.execute(delete(LinkRow).where(col(LinkRow.expires_ms) < expired_before_ms))
