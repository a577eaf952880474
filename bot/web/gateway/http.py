"""The gateway's HTTP side: the signalling server's posts, a page's report of its end, the record.

Promises: bodies are bounded, refusals are counted, logged as `gateway.refused`, answered as problem details and
change nothing; requests without a secret are limited per address (`limits.py`). A wrong secret in a path looks like
any unknown path; nothing here logs a path or a header.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from bot.domain.facts import Source
from bot.errors import TryAgain, Untrue
from bot.feeds import wire
from bot.feeds.posts import json_body, problem, same_secret
from bot.web.gateway.checks import Checks, Taken
from bot.web.gateway.config import GatewayConfig
from bot.web.gateway.events import Hub
from bot.web.gateway.lessons import Lessons
from bot.web.gateway.limits import HEADERS, Limits
from bot.web.gateway.openapi import document
from bot.web.gateway.plans import Plans
from bot.web.gateway.reports import Reports, report_of
from bot.web.gateway.signed import SignedWords, id_of
from bot.web.gateway.sockets import Sockets

log = structlog.get_logger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
TITLE = "LangDAO gateway"
CHAIN_AGAIN_S = 2  # when somebody may ask again who met a node that is away
STATUS_OF = {
    "oversized": 413,
    "too-slow": 408,
    "not-a-participant": 403,
    "bad-signature": 403,
    "other-chain": 403,
    "wrong-transaction": 422,
    "no-such-session": 404,
    "used": 409,
    "over": 409,
}
# Not counted against an address: its own files, which a page asks for several at a time, and whether it lives.
FREE = ("/static/", wire.HEALTH_PATH)
_HOOK_PREFIX = wire.HOOK_PATH.partition("{")[0]


def http_app(
    config: GatewayConfig,
    hub: Hub,
    sockets: Sockets,
    plans: Plans,
    lessons: Lessons,
    checks: Checks,
    reports: Reports,
    lifespan: Lifespan,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    signed = SignedWords(hub, lessons)

    def knows_secret(request: Request) -> bool:
        path = request.url.path
        if path.startswith(_HOOK_PREFIX):
            return same_secret(path.removeprefix(_HOOK_PREFIX), config.hook_secret)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return config.token is not None and scheme.lower() == "bearer" and same_secret(token, config.token)

    async def taken(request: Request, take: Callable[[Any], Awaitable[Taken | None]], status: int = 200) -> Response:
        try:
            became = await take(await json_body(request))
        except (wire.Refused, Untrue) as refused:
            return refuse(refused)
        except TryAgain as error:
            hub.counters["unverified"] += 1
            log.warning("gateway.unverified", reason=str(error))
            return problem(503, str(error), reason="chain-away", retry_after_s=CHAIN_AGAIN_S)
        if became is None:
            return JSONResponse({"ok": True}, status)
        if became.why is None:
            return JSONResponse({"ok": True, "verified": True})
        return JSONResponse({"ok": True, "verified": False, "why": became.why}, 202)

    def refuse(refused: wire.Refused | Untrue) -> Response:
        hub.counters["refused"] += 1
        log.warning("gateway.refused", said="post", reason=refused.reason, detail=refused.detail)
        return problem(STATUS_OF.get(refused.reason, 400), refused.detail, reason=refused.reason)

    def limited() -> None:
        hub.counters["limited"] += 1

    def exempt(request: Request) -> bool:
        return request.url.path.startswith(FREE) or knows_secret(request)

    app.add_middleware(Limits, per_minute=config.http_requests_per_minute, exempt=exempt, limited=limited)
    # Pages of any origin report their ends here; there are no cookies to protect.
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=HEADERS
    )

    @app.exception_handler(Exception)
    async def as_failure(_request: Request, _error: Exception) -> Response:
        hub.counters["failed"] += 1
        return problem(500, "the gateway failed at this; its log has more")

    @app.exception_handler(StarletteHTTPException)
    async def as_problem(_request: Request, error: StarletteHTTPException) -> Response:
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.post(wire.HOOK_PATH)
    async def hook(request: Request) -> Response:
        """One message of the signalling server that knows the secret."""
        if not knows_secret(request):
            hub.counters["unauthorised"] += 1
            raise HTTPException(404, "Not Found")
        return await taken(request, lambda body: hub.take(wire.from_post(body, hub.now_ms(), Source.WEBHOOK)))

    @app.post(wire.EVENTS_PATH)
    async def events(request: Request) -> Response:
        """One message that anybody could have sent."""
        return await taken(request, lambda body: checks.take(wire.from_post(body, hub.now_ms(), Source.OPEN_WEBHOOK)))

    @app.post(wire.ENDED_PATH)
    async def ended(request: Request) -> Response:
        """A page's word that its session was ended on chain."""
        by_keeper = knows_secret(request)
        return await taken(request, lambda body: reports.take(report_of(body), by_keeper=by_keeper))

    @app.get(wire.RECORD_PATH)
    async def record(request: Request) -> Response:
        """All rooms of the last day, for the keeper."""
        if config.token is None:
            raise HTTPException(404, "Not Found")
        if not knows_secret(request):
            hub.counters["unauthorised"] += 1
            raise HTTPException(401, "the record needs the shared token", {"WWW-Authenticate": "Bearer"})
        return JSONResponse({"now": hub.now_ms(), "sessions": hub.rooms.as_record()})

    @app.post(wire.STATEMENTS_PATH)
    async def statement(request: Request) -> Response:
        """A participant's signed word: end the session now, or it goes on."""
        return await taken(request, lambda body: signed.take(id_of(request.path_params["name"]), body), 202)

    @app.get(wire.HEALTH_PATH)
    async def health() -> dict[str, Any]:
        """Whether the gateway runs, and what it has seen."""
        counters = {**hub.counters, **{f"socket_{name}": count for name, count in sockets.counters.items()}}
        return {
            "ok": True,
            "name": wire.GATEWAY_NAME,
            "rooms": len(hub.rooms),
            "sockets": len(sockets),
            "plans": len(plans),
            "watching": plans.watched,
            "mappings": hub.mappings.where,
            "kept": hub.kept.where,
            "counters": counters,
        }

    for router in routers:
        app.include_router(router)
    openapi = document([*app.routes, *(route for router in routers for route in router.routes)], TITLE)
    app.openapi = lambda: openapi  # type: ignore[method-assign]
    return app
