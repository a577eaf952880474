"""The first start of a keeper on this database: what was on chain by then is past."""

from __future__ import annotations

import json
from typing import NamedTuple

from sqlmodel import Session, func, select

from bot.store import identity, session_rows
from bot.store.tables import Block

_NAME = "first_start"


class FirstStart(NamedTuple):
    """When it was, by our clock, and the newest session and block on chain then. All 0 before it."""

    at_ms: int = 0
    newest_id: int = 0
    block: int = 0


def known(session: Session) -> FirstStart:
    text = identity.get(session, _NAME)
    return FirstStart(*json.loads(text)) if text else FirstStart()


def remember(session: Session, now_ms: int) -> FirstStart:
    """Now is the first start."""
    head = session.exec(select(func.max(Block.number))).one() or 0
    began = FirstStart(now_ms, session_rows.newest(session), head)
    identity.put(session, _NAME, json.dumps(began))
    return began
