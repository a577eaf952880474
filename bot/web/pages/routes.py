"""`/s/<id>` and the files it is made of.

Promises: nothing is loaded from elsewhere, no script or style stands in the page, it can't be framed, isn't cached and
tells its address to nobody. Without a script the page says how the session stands, and asks again by itself. The files
under `/static/` may be used by host pages of any origin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from bot.web.pages import words
from bot.web.pages.view import clock, moment, money, short, view

HERE = Path(__file__).parent
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

StateOf = Callable[[str], Awaitable[dict[str, Any] | None]]


def environment() -> Environment:
    """The templates, with the filters that they use."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"clock": clock, "money": money, "short": short, "moment": moment, "embedded": _embedded}
    return made


def page_routes(state_of: StateOf, *, explorer_url: str | None = None, test_wallet: bool = False) -> APIRouter:
    """`state_of` gives what `GET /api/sessions/{id}` gives, or None. `test_wallet`: as on the devnet."""
    routes = APIRouter(include_in_schema=False)
    templates = environment()
    files = {path.name: path.read_bytes() for path in (HERE / "static").iterdir() if path.suffix in TYPES}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in files.items()}

    @routes.get("/s")
    @routes.get("/s/")
    async def find() -> HTMLResponse:
        """The session that this tab was in, found by the script."""
        page = templates.get_template("find.html").render(words=words, said=words.for_script())
        return HTMLResponse(page, headers=PAGE_HEADERS)

    @routes.get("/s/{name:path}")
    async def session(name: str) -> HTMLResponse:
        """One session, by chain id or room."""
        state = await state_of(name)
        page = templates.get_template("session.html").render(
            name=name,
            state=state,
            words=words,
            said=words.for_script(),
            explorer=(explorer_url or "").rstrip("/"),
            test_wallet=test_wallet,
            **{"view": view(state)},
        )
        return HTMLResponse(page, 404 if state is None else 200, PAGE_HEADERS)

    @routes.get("/static/{name}")
    async def static(name: str, request: Request) -> Response:
        """A script, style or picture."""
        if name not in files:
            raise HTTPException(404, "Not Found")
        headers = {
            "Cache-Control": "public, max-age=300",
            "ETag": tags[name],
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(files[name], media_type=TYPES[Path(name).suffix], headers=headers)

    return routes


def _embedded(value: object) -> Markup:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
