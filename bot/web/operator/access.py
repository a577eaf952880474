"""Who may act: whoever knows OPERATOR_TOKEN.

Promises: without a token nobody may. The token is compared in constant time and never stored in a browser: what the
cookie holds is a time until which it is good, sealed with the token. An address that was wrong TRIES_PER_MINUTE times
in a minute waits, whatever it says then, and however it says it. A request that another site caused is refused.
Doesn't promise secrecy on the wire: put TLS in front where the address isn't this machine's own.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from fastapi import Request, Response

from bot.feeds.posts import Limiter, address_of, same_secret

COOKIE = "keeper_operator"
GOOD_FOR_S = 8 * 3_600
TRIES_PER_MINUTE = 10


class Tried(NamedTuple):
    """`wait_s`: how long this address has to wait before it may try again."""

    good: bool
    wait_s: int


class Access:
    def __init__(self, token: str | None) -> None:
        self._token = token
        self._tries = Limiter(TRIES_PER_MINUTE)

    @property
    def possible(self) -> bool:
        """Is there a token at all?"""
        return self._token is not None

    def try_token(self, request: Request, given: str) -> Tried:
        """Is this the token? Nothing is compared for an address that has to wait."""
        address = address_of(request)
        if wait_s := self._tries.look(address).wait_s:
            return Tried(False, wait_s)
        good = self._token is not None and same_secret(given, self._token)
        if not good:
            self._tries.take(address)
        return Tried(good, 0)

    def try_request(self, request: Request) -> Tried:
        """May this request act? By `Authorization: Bearer <token>`, or by the cookie."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.try_token(request, given.strip())
        return Tried(self.admitted(request), 0)

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
        """Was this browser admitted?"""
        if self._token is None:
            return False
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
