"""What every HTTP intake needs: a bounded body, secrets compared in constant time, limits, problem details.

Promises: no more than MAX_PAYLOAD_BYTES of a body is ever held, whatever its length says; a slow body ends in
BODY_TIMEOUT_S; errors are RFC 9457 problem details and never quote the body.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from bot.feeds.wire import MAX_PAYLOAD_BYTES, Refused

BODY_TIMEOUT_S = 10.0
_MAX_ADDRESSES = 10_000


def same_secret(given: str, secret: str) -> bool:
    """Compares in a time that doesn't depend on where the two differ."""
    # surrogatepass: what came in a path may be no text at all
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())


def problem(status: int, detail: str, *, reason: str | None = None, retry_after_s: int | None = None) -> JSONResponse:
    """An RFC 9457 answer. `reason` is the refusal's slug."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if reason is not None:
        body["reason"] = reason
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_of(refused: Refused) -> int:
    """413 for what is too large, 408 for what is too slow, 400 for every other refusal."""
    return {"oversized": 413, "too-slow": 408}.get(refused.reason, 400)


async def json_body(request: Request) -> Any:
    """The request's JSON. Raises Refused (oversized, too-slow, not-json) without reading further than it must."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await _bounded(request)
    except TimeoutError:
        raise Refused("too-slow", f"the body took longer than {BODY_TIMEOUT_S:.0f} s") from None
    except ClientDisconnect:
        raise Refused("cut-off", "the body ended early") from None
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused("not-json", "the body is not JSON") from None


async def _bounded(request: Request) -> bytes:
    too_large = Refused("oversized", f"the body is larger than {MAX_PAYLOAD_BYTES} bytes")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 9 or int(length) > MAX_PAYLOAD_BYTES):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_PAYLOAD_BYTES:
            raise too_large
    return bytes(body)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Quota(NamedTuple):
    """What an address may ask. `remaining` at once, all of it again in `reset_s`; `wait_s` is 0 for a request that
    may pass, else the whole seconds until one may."""

    limit: int
    remaining: int
    reset_s: int
    wait_s: int


class Limiter:
    """A token bucket per address: `per_minute` at once, then as many evenly over each minute.

    Remembers the 10,000 addresses used last; one that was forgotten starts with a full bucket.
    """

    def __init__(self, per_minute: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._size = per_minute
        self._rate = per_minute / 60
        self._clock_s = clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address: (tokens, when)

    def take(self, address: str) -> Quota:
        """Counts one request, if it may pass."""
        tokens, now = self._filled(address)
        passes = tokens >= 1
        self._buckets.pop(address, None)
        self._buckets[address] = (tokens - passes, now)
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return self._quota(tokens - passes, passes)

    def look(self, address: str) -> Quota:
        """What `take` would say of a request, but for what it counts."""
        tokens, _ = self._filled(address)
        return self._quota(tokens, tokens >= 1)

    def _filled(self, address: str) -> tuple[float, float]:
        now = self._clock_s()
        tokens, then = self._buckets.get(address, (float(self._size), now))
        return min(self._size, tokens + (now - then) * self._rate), now

    def _quota(self, tokens: float, passes: bool) -> Quota:
        wait_s = 0 if passes else max(1, math.ceil((1 - tokens) / self._rate))
        return Quota(self._size, int(tokens), math.ceil((self._size - tokens) / self._rate), wait_s)

    def wait_s(self, address: str) -> int:
        """Counts one request: 0 when it may pass, else the whole seconds until one may."""
        return self.take(address).wait_s


def address_of(request: Request) -> str:
    """The peer's IP address; all peers that have none share one name."""
    return request.client.host if request.client else "unknown"
