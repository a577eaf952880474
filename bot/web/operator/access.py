"""Who may act: whoever knows OPERATOR_TOKEN.

Promises: without a token nobody may. The token is compared in constant time and never stored in a browser: what the
cookie holds is a time until which it is good, sealed with the token. A request that another site caused is refused.
Doesn't promise secrecy on the wire: put TLS in front where the address isn't this machine's own.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import urlsplit

from fastapi import Request, Response

from bot.feeds.posts import Limiter, address_of, same_secret

COOKIE = "keeper_operator"
GOOD_FOR_S = 8 * 3_600
TRIES_PER_MINUTE = 10


class Access:
    def __init__(self, token: str | None) -> None:
        self._token = token
        self._tries = Limiter(TRIES_PER_MINUTE)

    @property
    def possible(self) -> bool:
        """Is there a token at all?"""
        return self._token is not None

    def wait_s(self, request: Request) -> int:
        """0 when this address may try a token now, else the seconds until it may."""
        return self._tries.wait_s(address_of(request))

    def known(self, given: str) -> bool:
        return self._token is not None and same_secret(given, self._token)

    def admit(self, response: Response, *, secure: bool) -> None:
        """Lets this browser act for some hours."""
        until = str(int(time.time()) + GOOD_FOR_S)
        response.set_cookie(
            COOKIE,
            f"{until}.{self._seal(until)}",
            max_age=GOOD_FOR_S,
            httponly=True,
            samesite="strict",
            secure=secure,
        )

    def leave(self, response: Response) -> None:
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    def admitted(self, request: Request) -> bool:
        """May this request act? By the cookie, or by `Authorization: Bearer <token>`."""
        if self._token is None:
            return False
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.known(given.strip())
        until, _, seal = request.cookies.get(COOKIE, "").partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12 or int(until) < time.time():
            return False
        return same_secret(seal, self._seal(until))

    def _seal(self, until: str) -> str:
        return hmac.new((self._token or "").encode(), f"operator:{until}".encode(), hashlib.sha256).hexdigest()


def from_here(request: Request) -> bool:
    """Did a page of ours cause this request, or no page at all?"""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
