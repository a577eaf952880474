"""A proxy before a real node that can twist what is asked and answered, call by call.

Promises: it listens on loopback, and forwards what it isn't told to change, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, web

Twist = Callable[[Any, Any], Any]


class Proxy:
    """`before(body)` may answer instead of the node (JSON, or a response of its own); `after(body, reply)` change what
    it answered.
    """

    def __init__(self, node_url: str) -> None:
        self.node_url = node_url
        self.url = ""
        self.before: Callable[[Any], Any] = lambda body: None
        self.after: Twist = lambda body, reply: reply

    async def __aenter__(self) -> Proxy:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/", self._handle)
        self._http = ClientSession()
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._http.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        reply = self.before(body)
        if hasattr(reply, "__await__"):
            reply = await reply
        if reply is None:
            async with self._http.post(self.node_url, json=body) as answer:
                reply = await answer.json()
        if not isinstance(reply, web.StreamResponse):
            reply = self.after(body, reply)
        return reply if isinstance(reply, web.StreamResponse) else web.json_response(reply)


def each_call(method: str, change: Twist) -> Twist:
    """`change(call, reply)` for each call of this method, in batches too."""

    def after(body: Any, reply: Any) -> Any:
        if isinstance(body, list):
            by_id = {one["id"]: one for one in body}
            return [change(by_id[one["id"]], one) if by_id[one["id"]]["method"] == method else one for one in reply]
        return change(body, reply) if body["method"] == method else reply

    return after
