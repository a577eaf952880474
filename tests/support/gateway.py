"""The bundled backend for tests: its configuration, pages and listeners that speak to it, posts and the record."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import socketio

from bot.domain.address import checksum
from bot.domain.statement import Binding, Said, Signable, Statement
from bot.web.gateway import GatewayConfig
from bot.web.gateway.openapi import OPERATIONS
from tests.support.anvil import World
from tests.support.servers import until

STUDENT = checksum("0x94c5" + "a1" * 18)
TUTOR = checksum("0x48c8" + "b2" * 18)
STRANGER = checksum("0x" + "cc" * 20)
TOKEN = "token-shared-with-the-keeper"
SECRET = "secret-of-the-signalling-server"
HASH = "0x" + "ab" * 32
MAPPING = {"requestId": "req_1", "studentAddress": STUDENT.lower(), "tutorAddress": TUTOR.upper(), "languageId": 1}


def config(**changes: Any) -> GatewayConfig:
    short = {"heartbeat_every_s": 0.4, "heartbeat_timeout_s": 1.2, "ack_timeout_s": 0.5}
    return GatewayConfig(**{"bind": "unused", "token": TOKEN, "hook_secret": SECRET, **short, **changes})


class Client:
    """A page, the keeper or a listener: keeps all events, and acknowledges nudges if told so."""

    def __init__(self, acknowledges: bool = True) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.events: list[tuple[str, Any]] = []
        self.acknowledges = acknowledges
        self.sio.on("*", self._any)

    async def _any(self, event: str, *args: Any) -> Any:
        self.events.append((event, args[0] if args else None))
        if event == "keeper:nudge" and not self.acknowledges:
            await asyncio.sleep(30)
        return {"ok": True}

    def named(self, event: str) -> list[Any]:
        return [said for name, said in self.events if name == event]

    async def first(self, event: str, timeout_s: float = 5) -> Any:
        return (await until(lambda: self.named(event), timeout_s))[0]

    async def call(self, event: str, said: Any) -> Any:
        return await self.sio.call(event, said, timeout=10)


@contextlib.asynccontextmanager
async def client(
    url: str, *, auth: Any = None, acknowledges: bool = True, headers: dict[str, str] | None = None
) -> AsyncIterator[Client]:
    one = Client(acknowledges)
    await one.sio.connect(url, auth=auth, headers=headers or {}, wait_timeout=5)
    try:
        yield one
    finally:
        await one.sio.disconnect()


@contextlib.asynccontextmanager
async def page(
    url: str, address: str, *, acknowledges: bool = True, world: World | None = None
) -> AsyncIterator[Client]:
    """A page bound to this address; with the world that it is an account of, it has signed for it."""
    async with client(url, acknowledges=acknowledges) as one:
        said = {"address": address} | ({} if world is None else {"proof": proof(world, address)})
        assert await one.call("user:connect", said) == {"ok": True, "verified": world is not None}
        yield one


async def post(http: aiohttp.ClientSession, url: str, path: str, body: Any) -> tuple[int, Any]:
    """Status and JSON of the answer, which is a documented one: so each test here is one of the document too."""
    async with http.post(url + path, json=body) as answer:
        assert_documented("post", path, answer.status)
        return answer.status, await answer.json(content_type=None)


def assert_documented(method: str, path: str, status: int) -> None:
    for (known, template), operation in OPERATIONS.items():
        pattern = re.sub(r"{\w+}", "[^/]+", template)
        if known == method and re.fullmatch(pattern, path):
            assert str(status) in operation["responses"], f"{method} {template} answered {status}"


async def record(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url + "/api/sessions", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 200
        return {room["room"]: room for room in (await answer.json())["sessions"]}


def signal(kind: str, room: Any = "req_1", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "sessionId": room, **fields}


HOOK = f"/hook/{SECRET}"
OPEN = "/api/webrtc-events"


# Signatures


def signed(
    world: World,
    address: str,
    action: str = "end-session",
    session_id: int = 1,
    *,
    by: str | None = None,
    **changes: Any,
) -> tuple[Statement, str]:
    """A statement about a session in this world, and its signature by an account of the node (`by`, or its address)."""
    fields: dict[str, Any] = {
        "action": Said(action),
        "chain_id": 31_337,
        "contract": world.contract,
        "session_id": session_id,
        "address": address,
        "expires_s": int(time.time()) + 600,
        "nonce": "0x" + secrets.token_hex(16),
    }
    statement = Statement(**{**fields, **changes})
    return statement, _signature(world, statement, by or address)


def proof(world: World, address: str, *, by: str | None = None, **changes: Any) -> dict[str, Any]:
    """What a page gives with `user:connect`: signed by an account of the node (`by`, or this address)."""
    fields: dict[str, Any] = {
        "chain_id": 31_337,
        "contract": world.contract,
        "address": address,
        "expires_s": int(time.time()) + 600,
        "nonce": "0x" + secrets.token_hex(16),
    }
    binding = Binding(**{**fields, **changes})
    signature = _signature(world, binding, by or address)
    return {"expires": binding.expires_s, "nonce": binding.nonce, "signature": signature}


def _signature(world: World, what: Signable, by: str) -> str:
    return str(world.node.rpc("personal_sign", "0x" + what.text().encode().hex(), by))


def statement_body(statement: Statement, signature: str) -> dict[str, Any]:
    """What a page posts."""
    return {
        "action": statement.action,
        "address": statement.address,
        "expires": statement.expires_s,
        "nonce": statement.nonce,
        "signature": signature,
    }
