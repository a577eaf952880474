"""`/debug`: begin a mock lesson, leave it in some way, and see what is reported, decided and passed on.

Promises: answers only where DEBUG_PAGE=1 put it, and acts only on a developer's own chain (see `playground`). A request
from a page of another origin changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from bot.chain.errors import RpcError
from bot.errors import TryAgain
from bot.feeds.posts import json_body, problem
from bot.feeds.wire import Refused
from bot.web.debug.playground import NotHere, Playground
from bot.web.gateway.tape import Tape
from bot.web.pages.routes import PAGE_HEADERS, environment


def debug_routes(playground: Playground, tape: Tape) -> APIRouter:
    routes = APIRouter(prefix="/debug", include_in_schema=False)
    templates = environment()

    def foreign(request: Request) -> bool:
        """Does it come from a page of another origin? Browsers say so themselves."""
        return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")

    async def done(request: Request, work: Any) -> Response:
        if foreign(request):
            return problem(403, "pages of other origins can't use the debug page", reason="foreign")
        try:
            return JSONResponse(await work())
        except NotHere as error:
            return problem(409, str(error), reason="not-here")
        except Refused as refused:
            return problem(400, refused.detail, reason=refused.reason)
        except TryAgain as error:
            return problem(503, str(error), reason="chain-away", retry_after_s=2)

    @routes.get("")
    async def page() -> HTMLResponse:
        """The page."""
        plays = list(playground.plays.values())[::-1]
        html = templates.get_template("debug.html").render(plays=plays, lines=list(tape.lines))
        return HTMLResponse(html, headers=PAGE_HEADERS)

    @routes.post("/lessons")
    async def begin(request: Request) -> Response:
        """Begins a lesson between two who are free."""

        async def work() -> dict[str, Any]:
            play = await playground.begin()
            return {"sessionId": play.session_id, "room": play.room, "student": play.student, "tutor": play.tutor}

        return await done(request, work)

    @routes.post("/lessons/{room}/{act}")
    async def act(room: str, act: str, request: Request) -> Response:
        """Leaves it: `end`, `lose`, `return`, `freeze`."""

        async def work() -> dict[str, Any]:
            await playground.act(room, act)
            return {"ok": True}

        return await done(request, work)

    @routes.post("/wallet")
    async def wallet(request: Request) -> Response:
        """One EIP-1193 request of the built-in wallet; its node signs."""

        async def work() -> dict[str, Any]:
            said = await json_body(request)
            if not isinstance(said, dict) or not isinstance(said.get("params"), list):
                raise Refused("bad-shape", "a wallet's request is {method, params}")
            try:
                return {"result": await playground.wallet(str(said.get("method")), said["params"])}
            except RpcError as error:
                return {"error": {"code": -32000, "message": error.message}}

        return await done(request, work)

    @routes.get("/events")
    async def events() -> Response:
        """What happens from now on, a line each, as Server-Sent Events."""

        async def told() -> AsyncIterator[str]:
            with tape.heard() as lines:
                yield ": here\n\n"
                while True:
                    yield f"data: {json.dumps(await lines.get())}\n\n"

        return StreamingResponse(told(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return routes
