"""One keeper's way to the chain, where its crash windows are made.

The keeper has no hooks for tests. Its transactions pass through here, and `kill_on_settlement` names
the tutor whose next settlement becomes the moment of the crash:

    before  the signed transaction is stored, and never leaves the machine
    after   the node has the transaction, and the keeper never learns it

Promises: everything else is forwarded unchanged, single requests and batches. The keeper is dead, not just
dying, before anything else happens to its request. Each order works once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import aiohttp
from aiohttp import web

from scripts.world.processes import LOOPBACK

JSON = {"content-type": "application/json"}


class When(StrEnum):
    BEFORE = "before"  # forwarding: stored, not broadcast
    AFTER = "after"  # forwarding, before answering: broadcast, no receipt


class RpcProxy:
    """Forwards JSON-RPC over HTTP to `target`. `kill` must SIGKILL the keeper."""

    def __init__(self, target: str, kill: Callable[[], Any]) -> None:
        self.target = target
        self.port = 0
        self.sent: list[str] = []  # raw transactions that reached the node
        self.held_back: list[str] = []  # those whose sender was killed first
        self._kill = kill
        self._orders: dict[bytes, tuple[When, asyncio.Future[str]]] = {}
        self._http: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_post("/", self._forward)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    def kill_on_settlement(self, tutor: str, when: When) -> asyncio.Future[str]:
        """Kill the keeper at its next transaction that names `tutor`. The future gives that transaction."""
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._orders[bytes.fromhex(tutor.removeprefix("0x"))] = (when, done)
        return done

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        raw = _transactions(body)
        order = self._order_for(raw)
        if order and order[0] is When.BEFORE:
            self.held_back += raw
            return await self._crash(order[1], raw[0])
        self.sent += raw
        assert self._http is not None
        try:
            async with self._http.post(self.target, data=body, headers=JSON) as answer:
                content = await answer.read()
        except aiohttp.ClientError:
            return web.Response(status=502)
        if order:
            return await self._crash(order[1], raw[0])
        return web.Response(body=content, status=answer.status, content_type="application/json")

    def _order_for(self, raw: list[str]) -> tuple[When, asyncio.Future[str]] | None:
        # The tutor's address stands in the calldata as it is, whichever function is called.
        for transaction in raw:
            content = bytes.fromhex(transaction.removeprefix("0x"))
            for tutor in self._orders:
                if tutor in content:
                    return self._orders.pop(tutor)
        return None

    async def _crash(self, done: asyncio.Future[str], raw: str) -> web.Response:
        self._kill()
        # The kernel needs a moment to take it down; until then its socket would still take an answer.
        await asyncio.sleep(0.2)
        if not done.done():
            done.set_result(raw)
        return web.Response(status=503)


def _transactions(body: bytes) -> list[str]:
    """The raw transactions in a request or batch."""
    try:
        document = json.loads(body)
    except ValueError:
        return []
    calls = document if isinstance(document, list) else [document]
    return [
        call["params"][0]
        for call in calls
        if isinstance(call, dict) and call.get("method") == "eth_sendRawTransaction" and call.get("params")
    ]
