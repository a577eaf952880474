"""The operator's pages and probes: `/`, `/session/<id>`, `/settlements`, `/health`, `/ready`, `/metrics`.

Promises: reading needs no token and changes nothing. What acts (settle, pause, resume, release) needs OPERATOR_TOKEN,
comes from a page of ours or with a bearer token, and goes the way of the command line: through the daemon's inbox, so
that it is recorded. The pages work without JavaScript, load nothing from elsewhere and refresh themselves.
What another site's name leads here (`hosts`) reads nothing.
Doesn't promise TLS, or that strangers can't read: HTTP_BIND is this machine's own address unless it is changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape

from bot.errors import TryAgain
from bot.feeds.posts import problem
from bot.web.operator.access import Access, from_here
from bot.web.operator.hosts import Hosts

T = TypeVar("T")

HERE = Path(__file__).parent
REFRESH_S = 5
MAX_FORM_BYTES = 4_096
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    # With `no-referrer` a browser calls its own page's form `Origin: null`, which is nobody's.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
ACTS = ("settle", "pause", "resume", "release")


class Desk(Protocol):
    """What the pages show and ask for; the keeper gives it."""

    def not_ready(self) -> Sequence[Mapping[str, str]]: ...
    async def metrics(self) -> bytes: ...
    async def status(self) -> dict[str, Any]: ...
    async def explained(self, asked: str) -> dict[str, Any] | None: ...
    async def settlements(self, before: int | None) -> list[dict[str, Any]]: ...
    async def ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]: ...


def operator_routes(desk: Desk, access: Access, hosts: Hosts, words: Mapping[str, Callable[..., str]]) -> APIRouter:
    """The routes. `words` are the templates' filters: how amounts, times and addresses are written."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(hosts.check)])
    pages = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= dict(words)
    style_sheet = (HERE / "style.css").read_text()

    def page(name: str, request: Request, code: int = 200, **values: Any) -> Response:
        text = pages.get_template(name).render(
            admitted=access.admitted(request),
            can_act=access.possible,
            refresh_s=None if "still" in request.query_params else REFRESH_S,
            **values,
        )
        return Response(text, code, HEADERS, "text/html; charset=utf-8")

    async def read(ask: Awaitable[T]) -> T:
        """What the desk answers; while it can't, that is a 503."""
        try:
            return await ask
        except TryAgain as error:
            raise HTTPException(503, str(error), {"Retry-After": "2"}) from None

    # Probes

    @router.get("/health")
    async def health() -> dict[str, bool]:
        """Answers as long as the loop lives."""
        return {"ok": True}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """200 when the keeper can do its job, else 503 with the reasons."""
        reasons = list(desk.not_ready())
        body = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(body, 503 if reasons else 200, {"Cache-Control": "no-store"})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(await desk.metrics(), media_type=METRICS_TYPE)

    # Pages

    @router.get("/")
    async def index(request: Request) -> Response:
        return page("status.html", request, data=await read(desk.status()), not_ready=desk.not_ready())

    @router.get("/session/{asked}")
    async def session(request: Request, asked: str) -> Response:
        found = await read(desk.explained(asked[:200]))
        if found is None:
            return page("message.html", request, 404, title="Not found", text="No such session and no such room.")
        return page("session.html", request, found=found)

    @router.get("/settlements")
    async def settlements(request: Request, before: int | None = None) -> Response:
        return page("settlements.html", request, rows=await read(desk.settlements(before)))

    @router.get("/style.css")
    async def style() -> Response:
        return Response(style_sheet, headers={"Cache-Control": "max-age=3600"}, media_type="text/css")

    # Acting

    @router.get("/operator")
    async def who(request: Request) -> Response:
        return page("operator.html", request, wrong=False)

    @router.post("/operator")
    async def enter(request: Request) -> Response:
        if not access.possible:
            return problem(403, "OPERATOR_TOKEN is not set: nothing can be changed over HTTP", reason="read-only")
        if not from_here(request):
            return problem(403, "the form wasn't ours", reason="cross-site")
        form = await _form(request)
        tried = access.try_token(request, form.get("token", ""))
        if tried.wait_s:
            return too_often(tried.wait_s)
        if not tried.good:
            return page("operator.html", request, 403, wrong=True)
        answer = RedirectResponse("/", 303)
        access.admit(answer, secure=request.url.scheme == "https")
        return answer

    @router.post("/operator/leave")
    async def leave(request: Request) -> Response:
        answer = RedirectResponse("/", 303)
        if from_here(request):
            access.leave(answer)
        return answer

    @router.post("/act/{kind}")
    async def act(request: Request, kind: str) -> Response:
        if not access.possible:
            return problem(403, "OPERATOR_TOKEN is not set: nothing can be changed over HTTP", reason="read-only")
        tried = access.try_request(request)
        if tried.wait_s:
            return too_often(tried.wait_s)
        if not tried.good:
            return problem(401, "OPERATOR_TOKEN is wanted, as a bearer token or at /operator", reason="unauthorised")
        if not from_here(request):
            return problem(403, "the form wasn't ours", reason="cross-site")
        if kind not in ACTS:
            return problem(404, f"{kind[:20]!r} is none of {', '.join(ACTS)}", reason="unknown")
        form = await _form(request)
        payload: dict[str, Any] = {"by": "operator", "over": "http"}
        if (number := form.get("session_id")) is not None:
            if not number.isascii() or not number.isdigit() or len(number) > 18:
                return problem(400, "session_id is not a session's number", reason="malformed")
            payload["session_id"] = int(number)
        said = await read(desk.ask(kind, payload))
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(said, 200 if said.get("ok") else 409)
        if said.get("ok"):
            return RedirectResponse("/", 303)
        return page("message.html", request, 409, title="Not done", text=str(said.get("error")))

    @router.get("/robots.txt")
    async def robots() -> PlainTextResponse:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    return router


def too_often(wait_s: int) -> Response:
    return problem(429, "too many wrong tokens from this address", reason="rate-limited", retry_after_s=wait_s)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form; what is too large is no form."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return {}
    said = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8) if body.count(b"&") < 8 else {}
    return {name: values[0] for name, values in said.items()}
