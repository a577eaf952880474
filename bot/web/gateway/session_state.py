"""One session as a participant's page may see it: `GET /api/sessions/{id}`, and the same live by Server-Sent Events.

Promises: `{id}` is a chain id or a room. What is told is on the public chain, or was told to everybody by Socket.IO: no
secret is in it, so it needs none. A stream begins with the state as it is and tells each change; a comment every
BEAT_S keeps proxies from cutting it.
Doesn't promise that a stream lasts: a page asks again now and then when it has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse

from bot.chain.codec import OnChainSession
from bot.domain.facts import SessionKey
from bot.feeds import wire
from bot.feeds.posts import problem
from bot.web.gateway.chain_view import chain_view, on_chain
from bot.web.gateway.events import Hub
from bot.web.gateway.lessons import Lessons
from bot.web.gateway.plans import Plan, Plans
from bot.web.gateway.room import Room

BEAT_S = 15.0
UNKNOWN = "nothing is known of this session here"
_FRESH = {"Cache-Control": "no-store"}


async def session_state(hub: Hub, plans: Plans, lessons: Lessons, name: str) -> dict[str, Any] | None:
    """The state as JSON, None when nothing is known of it. Times `…Ms` are the gateway's, chain times in seconds."""
    with contextlib.suppress(wire.Refused):
        name, number = wire.room_of(name)
        plan, named = plans.find(name), hub.rooms.get(name)
        student, tutor = (named.student, named.tutor) if named is not None else (None, None)
        how, session = await on_chain(plan.sessionId if plan is not None else number, student, tutor, lessons)
        rooms = _rooms(hub, plan, named, session)
        if plan is None and session is None and not rooms:
            return None
        now_ms = hub.now_ms()
        chain = await chain_view(how, session, lessons)
        return {
            "id": name,
            "nowMs": now_ms,
            "chainNow": (now_ms + (plan.skewMs if plan is not None else 0)) // 1000,
            "keeper": "up" if plans.keepers else "down",
            "session": _shown(plan) if plan is not None else _unplanned(chain),
            "chain": chain,
            "rooms": [_room(room.as_view()) for room in rooms],
        }
    return None


def session_routes(hub: Hub, plans: Plans, lessons: Lessons) -> APIRouter:
    routes = APIRouter()

    @routes.get(wire.SESSION_PATH)
    async def one(name: str) -> Response:
        """One session, by chain id or room."""
        state = await session_state(hub, plans, lessons, name)
        return problem(404, UNKNOWN, reason="unknown") if state is None else JSONResponse(state, headers=_FRESH)

    @routes.get(wire.SESSION_EVENTS_PATH)
    async def live(name: str) -> Response:
        """The same, anew at each change."""
        if await session_state(hub, plans, lessons, name) is None:
            return problem(404, UNKNOWN, reason="unknown")
        if plans.crowded:
            return problem(503, "too many pages are watching", reason="too-many", retry_after_s=60)

        async def told() -> AsyncIterator[str]:
            with plans.watching(name) as changed:
                while True:
                    state = await session_state(hub, plans, lessons, name)
                    yield f"event: state\ndata: {json.dumps(state)}\n\n"
                    while not await _within(changed, BEAT_S):
                        yield ": still here\n\n"
                    changed.clear()

        headers = _FRESH | {"X-Accel-Buffering": "no"}
        return StreamingResponse(told(), media_type="text/event-stream", headers=headers)

    return routes


def _rooms(hub: Hub, plan: Plan | None, named: Room | None, session: OnChainSession | None) -> list[Room]:
    """The rooms that the keeper joined to it; as long as it told of none, the one of that name, or of its people."""
    if plan is not None:
        return [room for one in plan.rooms if (room := hub.rooms.get(one)) is not None]
    if named is None and session is not None:
        named = hub.room_of(SessionKey(session.id, session.student, session.tutor), session.start_s * 1000)
    return [named] if named is not None else []


def _shown(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(exclude={"skewMs"})


def _unplanned(chain: dict[str, Any]) -> dict[str, Any] | None:
    """A session that no keeper told of, as if one had: what the chain says, and nothing planned."""
    session, chain_id = chain["session"], chain["chainId"]
    if session is None or chain_id is None:
        return None
    ended_at, started_at = session["endTime"], session["startTime"]
    bill = {"paid": session["totalPaid"], "seconds": (ended_at or 0) - started_at, "endedAt": ended_at, "txHash": None}
    unknown = dict.fromkeys(("endedBy", "callEndedAt", "overbilledSeconds", "overbilled"))
    return {
        "sessionId": session["sessionId"],
        "chainId": chain_id,
        "contract": chain["contract"],
        "student": session["studentAddress"],
        "tutor": session["tutorAddress"],
        "rooms": [],
        "state": "running" if session["isActive"] else "ended",
        "startedAt": started_at,
        "rate": session["ratePerSecond"],
        "balance": None,
        "reason": "",
        "why": "",
        "ask": False,
        "dueMs": None,
        "drainedMs": None,
        "hold": None,
        "bill": None if session["isActive"] else bill | unknown,
    }


def _room(record: dict[str, Any]) -> dict[str, Any]:
    names = ("room", "studentAddress", "tutorAddress", "languageId", "startTime", "ended", "here", "away")
    return {name: record[name] for name in names}


async def _within(changed: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except TimeoutError:
        return False
    return True
