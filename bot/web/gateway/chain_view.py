"""What the chain says of a session, for pages: read here, at most a second old, whether a keeper is connected or not.

Promises: `state` says why there is nothing: `away` when the node can't be asked, `not-configured` when no chain was
named. Amounts are decimal strings, because they may be larger than a JavaScript number; times are block seconds.
"""

from __future__ import annotations

from typing import Any

from bot.chain.codec import OnChainSession
from bot.domain.address import Address
from bot.errors import TryAgain
from bot.web.gateway.lessons import Lessons

READ, AWAY, NONE = "read", "away", "not-configured"


async def on_chain(
    session_id: int | None, student: Address | None, tutor: Address | None, lessons: Lessons
) -> tuple[str, OnChainSession | None]:
    """The session with this id, or else the running one of these two; and how it was looked for."""
    if lessons.witness is None:
        return NONE, None
    try:
        if session_id is not None:
            return READ, await lessons.session(session_id)
        if student is not None and tutor is not None:
            return READ, await lessons.of(student, tutor)
    except TryAgain:
        return AWAY, None
    return READ, None


async def chain_view(state: str, session: OnChainSession | None, lessons: Lessons) -> dict[str, Any]:
    """`{state, chainId, contract, session}`."""
    chain_id = None
    if lessons.witness is not None and state == READ:
        try:
            chain_id = await lessons.witness.chain_id()
        except TryAgain:
            state = AWAY
    return {
        "state": state,
        "chainId": chain_id,
        "contract": lessons.witness.contract if lessons.witness is not None else None,
        "session": None if session is None else _session(session),
    }


def _session(session: OnChainSession) -> dict[str, Any]:
    return {
        "sessionId": session.id,
        "studentAddress": session.student,
        "tutorAddress": session.tutor,
        "token": session.token,
        "startTime": session.start_s,
        "endTime": session.end_s or None,
        "ratePerSecond": str(session.rate),
        "totalPaid": str(session.paid),
        "languageId": session.language,
        "isActive": session.active,
    }
