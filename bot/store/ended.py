"""Sessions that ended lately and whose end is confirmed: what the database itself picks out of the settlements.

Promises: what is asked every few seconds costs what has come since, not all that ended within the window, in objects;
the window's rows are only looked at by the database, by the index of when they ended.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, String, cast, literal
from sqlmodel import col

from bot.store.tables import Settlement


def key_of_settlement() -> ColumnElement[str]:
    """The session's key as `SessionKey` is written; NULL where the student isn't known yet."""
    colon = literal(":")
    return cast(Settlement.session_id, String) + colon + col(Settlement.student) + colon + col(Settlement.tutor)


def confirmed_since(since_s: int, after_block: int = -1) -> tuple[ColumnElement[bool], ...]:
    """Conditions: it ended after `since_s`, chain time, above `after_block`, its participants are known."""
    block: ColumnElement[Any] = col(Settlement.block_number) + 0  # not by this one's index: most of them are above it
    return (
        col(Settlement.ended_at) >= since_s,
        block > after_block,
        col(Settlement.finality) != "seen",
        col(Settlement.student).is_not(None),
    )
