"""Participants' signed statements, as the gateway takes them in.

Promises: a statement is emitted only when its signature holds, its address is the student or the tutor of that very
session on chain, and it wasn't used before; with the statement and the signature, so that the keeper can see for
itself. While the chain can't be asked nothing is used up: the same statement may be sent again.
"""

from __future__ import annotations

from typing import Any

import structlog

from bot.domain.facts import Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.statement import Said, Statement
from bot.errors import Untrue
from bot.feeds import wire
from bot.feeds.statements import as_fields, signature_of, statement_of
from bot.web.gateway.events import Hub
from bot.web.gateway.lessons import Lessons

log = structlog.get_logger(__name__)


class SignedWords:
    def __init__(self, hub: Hub, lessons: Lessons) -> None:
        self._hub = hub
        self._lessons = lessons

    async def take(self, session_id: int, body: object) -> None:
        """Takes `{action, address, expires, nonce, signature}`. Raises Refused, Untrue, TryAgain."""
        witness = self._lessons.looked()
        statement = statement_of(body, await witness.chain_id(), witness.contract, session_id)
        signature = signature_of(body)
        key = await witness.verify(statement, signature, self._hub.now_ms() // 1000)
        session = await self._lessons.session(key.session_id)
        room = self._hub.room_of(key, session.start_s * 1000 if session is not None else 0)
        hint = self._hint(statement, signature, key, room.name if room is not None else str(key.session_id))
        if not await self._hub.take_signed(hint, statement.mark(), statement.expires_s * 1000):
            raise Untrue("used", "this statement was used already; sign one with a new nonce")
        log.info("gateway.signed", session=session_id, action=statement.action, by=statement.address)

    def _hint(self, statement: Statement, signature: str, key: SessionKey, room: str) -> Hint:
        role = Role.STUDENT if statement.address == key.student else Role.TUTOR
        payload: dict[str, Any] = {"statement": as_fields(statement), "signature": signature}
        return Hint(
            kind=Kind.ENDED if statement.action is Said.END else Kind.STILL_HERE,
            source=Source.PARTICIPANT,
            trust=Trust.PROVEN,
            received_ms=self._hub.now_ms(),
            room=room,
            session_id=key.session_id,
            student=key.student,
            tutor=key.tutor,
            role=role,
            payload=payload,
        )


def id_of(text: str) -> int:
    """The chain id in a path. Raises Refused for a room's name: a statement is about a session on chain."""
    _, session_id = wire.room_of(text)
    if session_id is None:
        raise wire.Refused("bad-session-id", "the session's id on chain is a number")
    return session_id
