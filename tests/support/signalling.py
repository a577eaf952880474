"""A signalling server as docs/PROTOCOL.md describes it: rooms over WebSocket, posts about them to its `BACKEND_URL`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import WSMsgType, web


class SignallingServer:
    """`posting` false: it goes on serving rooms and posts nothing, as if its `BACKEND_URL` were wrong."""

    def __init__(self, backend_url: str) -> None:
        self.backend_url = backend_url
        self.posting = True
        self.rooms: Counter[str] = Counter()
        self.port = 0
        self._http: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its address, ws://…/"""
        app = web.Application()
        app.router.add_get("/", self._room)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as self._http:
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            try:
                yield f"ws://127.0.0.1:{self.port}/"
            finally:
                await runner.cleanup()

    async def _room(self, request: web.Request) -> web.WebSocketResponse:
        room, role = request.query["room"], request.query.get("role", "user")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.rooms[room] += 1
        await self._post({"type": "user-connected", "sessionId": room, "userRole": role})
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and message.json().get("type") == "heartbeat":
                    await self._post({"type": "session-heartbeat", "sessionId": room})
        finally:
            gone = {"type": "user-disconnected", "sessionId": room, "userRole": role, "reason": "connection-closed"}
            await asyncio.shield(self._post(gone))
        return socket

    async def _post(self, message: dict[str, str]) -> None:
        if not self.posting or self._http is None:
            return
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            body = message | {"timestamp": int(time.time() * 1000)}
            async with self._http.post(self.backend_url, json=body):
                pass
