"""How often an address may ask, and that it is told so.

Promises: every answer to a limited request carries RateLimit-Policy, -Limit, -Remaining and -Reset (the draft of the
IETF's httpapi group); one that is refused is a 429 with Retry-After, as problem details. It stands before everything
else that is served over HTTP, and holds no stream up.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bot.feeds.posts import Limiter, Quota, address_of, problem

HEADERS = ("RateLimit-Policy", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After")


class Limits:
    """ASGI middleware. `exempt` says which requests count for nothing; `limited` is called at each refusal."""

    def __init__(
        self, app: ASGIApp, per_minute: int, exempt: Callable[[Request], bool], limited: Callable[[], None]
    ) -> None:
        self._app = app
        self._limiter = Limiter(per_minute)
        self._exempt = exempt
        self._limited = limited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive) if scope["type"] == "http" else None
        if request is None or self._exempt(request):
            await self._app(scope, receive, send)
            return
        quota = self._limiter.take(address_of(request))

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers_of(quota))
            await send(message)

        if quota.wait_s:
            self._limited()
            detail = "too many requests from this address"
            refusal = problem(429, detail, reason="limited", retry_after_s=quota.wait_s)
            await refusal(scope, receive, told)
        else:
            await self._app(scope, receive, told)


def headers_of(quota: Quota) -> dict[str, str]:
    return {
        "RateLimit-Policy": f"{quota.limit};w=60",
        "RateLimit-Limit": str(quota.limit),
        "RateLimit-Remaining": str(quota.remaining),
        "RateLimit-Reset": str(quota.reset_s),
    }
