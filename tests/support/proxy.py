"""A proxy before a real node that can twist what is asked and answered, call by call.

Promises: it listens on loopback, and forwards what it isn't told to change, unchanged.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, web

Twist = Callable[[Any, Any], Any]
DROP = object()  # instead of an answer: the connection ends, without a byte


class Proxy:
    """`before(body)` may answer instead of the node (JSON, a response of its own, or DROP); `after(body, reply)` change
    what it answered.
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
        if reply is DROP:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
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


@contextmanager
def relay(url: str) -> Iterator[Proxy]:
    """A proxy in a thread of its own, for a test that waits for another process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(url)

    def done(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(10)

    done(proxy.__aenter__())
    try:
        yield proxy
    finally:
        done(proxy.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
