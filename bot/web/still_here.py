"""`/v/<token>`: a participant says *still in the lesson*.

Promises: GET and HEAD show a plain page and change nothing, whoever opens it, mail scanners and prefetchers included;
only the page's button (POST) answers, once. The page loads nothing, runs no script, can't be framed, isn't cached, and
passes its address on to nobody. A token that can't be answered looks the same whatever the reason. Nothing here logs.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path
from typing import Final, Protocol

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from bot.domain.question import Asked

# As all pages look, but in the page itself: the keeper's own server has no /static/.
STYLE: Final = (Path(__file__).parent / "pages" / "static" / "pages.css").read_text()
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Answers(Protocol):
    """Who knows the questions."""

    def asked(self, token: str) -> Asked | None: ...
    async def answer(self, token: str) -> Asked | None: ...


def still_here_routes(answers: Answers, *, pages: bool = False) -> APIRouter:
    """The route, for the keeper's app and for the gateway's. `pages`: the session's own page is beside it."""
    router = APIRouter(tags=["questions"])

    @router.api_route("/v/{token}", methods=["GET", "HEAD"], response_class=HTMLResponse)
    async def question(token: str) -> HTMLResponse:
        """The question, with a button. Changes nothing."""
        asked = answers.asked(token)
        return _gone() if asked is None else _page(200, "Still in the lesson?", _question(asked, pages))

    @router.post("/v/{token}", response_class=HTMLResponse)
    async def answer(token: str) -> HTMLResponse:
        """The answer: the lesson goes on. Good once."""
        asked = await answers.answer(token)
        if asked is None:
            return _gone()
        return _page(
            200, "Thank you", f"<p>Noted: the lesson {asked.key.session_id} goes on. You can close this page.</p>"
        )

    return router


def _question(asked: Asked, pages: bool) -> str:
    over = "there is nothing to do here"
    if pages:
        over = f'<a href="/s/{asked.key.session_id}">see what it costs, and end it</a>'
    who = {asked.key.student: "its student", asked.key.tutor: "its tutor"}.get(asked.address or "")
    return (
        f"<p>Lesson {asked.key.session_id} was reported as over, and is ended and paid soon, unless one of its "
        f"participants says that it goes on.{f' You are asked as {who}.' if who else ''}</p>"
        f"<p>Student {escape(asked.key.student)}<br>Tutor {escape(asked.key.tutor)}</p>"
        '<form method="post"><button type="submit" class="button main">Yes, still in the lesson</button></form>'
        f"<p>If it is over, {over}.</p>"
    )


def _gone() -> HTMLResponse:
    return _page(
        410,
        "This link is no longer good",
        "<p>It was used already, has expired, or the lesson has ended. "
        "If the lesson goes on and you are asked again, use the newest link.</p>",
    )


def _page(status: int, title: str, body: str) -> HTMLResponse:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{title}</title><style>{STYLE}</style></head><body><main class="card">'
        f'<header class="top"><span class="brand">LangDAO</span></header><h1>{title}</h1>{body}</main></body></html>'
    )
    return HTMLResponse(html, status, HEADERS)
