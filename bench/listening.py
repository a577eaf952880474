"""A proxy before the node that notes who asked what, and when.

Promises: an exchange begins when its last byte has come from the daemon, and ends when the node's answer is here.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from aiohttp import web

from scripts.world.rpc_proxy import JSON, RpcProxy

QUIET_S = 0.15


@dataclass(slots=True)
class Exchange:
    """One HTTP exchange of the daemon, epoch seconds."""

    body: bytes
    methods: tuple[str, ...]
    began: float
    ended: float = 0.0

    @property
    def sends(self) -> bool:
        return "eth_sendRawTransaction" in self.methods


class Listening(RpcProxy):
    """Forwards, and notes who asked what and when."""

    def __init__(self, target: str) -> None:
        super().__init__(target, kill=lambda: None)
        self.exchanges: list[Exchange] = []

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        document = json.loads(body)
        calls = document if isinstance(document, list) else [document]
        exchange = Exchange(body, tuple(call["method"] for call in calls), time.time())
        self.exchanges.append(exchange)
        assert self._http is not None
        async with self._http.post(self.target, data=body, headers=JSON) as answer:
            content = await answer.read()
        exchange.ended = time.time()
        return web.Response(body=content, status=answer.status, content_type="application/json")

    async def quiet(self) -> None:
        """Return when the daemon has asked nothing for a moment: each measurement begins from rest."""
        while time.time() - max((one.began for one in self.exchanges[-50:]), default=0.0) < QUIET_S:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def grouped(exchanges: list[Exchange]) -> list[list[Exchange]]:
    """What the daemon asked at the same time is one group."""
    groups: list[list[Exchange]] = []
    for one in exchanges:
        if groups and one.began < max(other.ended for other in groups[-1]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups
