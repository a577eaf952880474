"""Requests that other processes leave for the daemon, and its answers.

Promises: whatever stands in a row, it can be read, and so be answered.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Text, cast, select, update
from sqlmodel import Session, col

from bot.store.tables import InboxRow


def unanswered(session: Session) -> list[InboxRow]:
    """Requests of other processes, oldest first. What somebody wrote by hand may be no JSON: then it has no payload."""
    asked = select(
        col(InboxRow.id), col(InboxRow.kind), cast(col(InboxRow.payload), Text), col(InboxRow.asked_ms)
    ).where(col(InboxRow.answered_ms).is_(None))
    return [
        InboxRow(id=number, kind=kind, payload=_json(payload), asked_ms=asked_ms)
        for number, kind, payload, asked_ms in session.execute(asked.order_by(col(InboxRow.id)))
    ]


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def request(session: Session, kind: str, payload: dict[str, Any], at_ms: int) -> int:
    """Leaves a request in the inbox; its number."""
    row = InboxRow(kind=kind, payload=payload, asked_ms=at_ms)
    session.add(row)
    session.flush()
    assert row.id is not None
    return row.id


def answer(session: Session, inbox_id: int, said: dict[str, Any], at_ms: int) -> None:
    session.execute(update(InboxRow).where(col(InboxRow.id) == inbox_id).values(answered_ms=at_ms, answer=said))
