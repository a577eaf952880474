"""What the backend is told after an end: real Redis, a real gateway, a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot.backend import aftermath
from bot.domain.facts import SessionKey
from bot.feeds import wire
from bot.feeds.aftermath import Aftermath, Verifier
from bot.feeds.limits import Window
from bot.feeds.mapping import MappingFeed
from bot.settings import Settings
from bot.store.aftermath import EndedRooms
from bot.store.db import Writer
from bot.web.gateway import GatewayConfig, create_gateway
from tests.support.record import NOW_MS, Record, record
from tests.support.servers import RedisServer, serving, until

TOKEN = "token-of-the-keeper-and-the-gateway"


class Backend:
    """Whatever backend: remembers what it was told, answers 404 to the rest."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.app = Starlette(routes=[Route(wire.ENDED_PATH, self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.told.append(await request.json())
        return JSONResponse({}, self.status, self.headers)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Ended:
    """A keeper's database in which one lesson, of room `req_1`, is over."""

    def __init__(self, folder: Path) -> None:
        self.record: Record = record(folder / "keeper.db")
        self.writer = Writer(self.record.database)
        self.rooms = EndedRooms(self.writer)

    def lesson(self, room: str, number: int = 1, finality: str = "confirmed") -> SessionKey:
        key = self.record.session(number)
        self.record.end(key, finality=finality)
        self.record.room(room, key)
        return key


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Ended]:
    one = Ended(tmp_path)
    yield one
    one.writer.close()


def made(ended: Ended, verifier: Verifier | None, mapping: MappingFeed | None, **more: Any) -> Aftermath:
    return Aftermath(ended.rooms, verifier, mapping, clock_ms=lambda: NOW_MS, look_every_s=0.05, between_s=0, **more)


@asynccontextmanager
async def working(one: Aftermath) -> AsyncIterator[None]:
    task = asyncio.create_task(one.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def feed(server: RedisServer) -> MappingFeed:
    return MappingFeed(server.url, lambda _hint: None, clock_ms=lambda: NOW_MS)


def put(server: RedisServer, room: str, key: SessionKey, start_ms: int) -> sync_redis.Redis:
    client = sync_redis.Redis.from_url(server.url)
    fields = {"sessionId": room, "studentAddress": key.student.lower(), "tutorAddress": key.tutor.lower()}
    client.hset(wire.MAPPING_PREFIX + room, mapping=fields | {"startTime": str(start_ms)})
    return client


async def test_aftermath__backend_that_verifies__is_told_once(ended: Ended) -> None:
    key = ended.lesson("req_1")
    backend = Backend()
    async with serving(backend.app) as url:
        one = made(ended, Verifier(url), None)
        async with working(one):
            await until(lambda: one.counters["told"])
            await asyncio.sleep(0.3)
    [said] = backend.told
    assert (said["sessionId"], said["userAddress"]) == ("req_1", key.student)
    assert said["transactionHash"].startswith("0x")


async def test_aftermath__merely_seen__waits_for_its_confirmation(ended: Ended) -> None:
    ended.lesson("req_1", finality="seen")
    assert await ended.rooms.waiting(0) == []


async def test_aftermath__token_but_another_backend__is_never_told(ended: Ended) -> None:
    """`POST /api/webrtc-session-ended` goes only to a backend that verifies what it is told."""
    ended.lesson("req_1")
    backend = Backend()
    async with serving(backend.app) as url:
        one = made(ended, Verifier(url, TOKEN), None)
        async with working(one):
            await until(lambda: one.counters["left"])
    assert backend.told == []


async def test_aftermath__bundled_backend__is_told_by_its_name(ended: Ended) -> None:
    ended.lesson("req_1")
    config = GatewayConfig(bind="127.0.0.1:0", token=TOKEN, hook_secret="secret-of-the-hook")
    async with serving(create_gateway(config)) as url:
        one = made(ended, Verifier(url, TOKEN), None)
        async with working(one):
            await until(lambda: one.counters["told"])


@pytest.mark.parametrize("status", [429, 500])
async def test_aftermath__backend_in_trouble__is_told_later(ended: Ended, status: int) -> None:
    ended.lesson("req_1")
    backend = Backend()
    backend.status = status
    async with serving(backend.app) as url:
        one = made(ended, Verifier(url), None)
        async with working(one):
            await until(lambda: one.counters["again"])
            backend.status = 200
            await until(lambda: one.counters["told"])


async def test_aftermath__backend_asks_for_patience__has_it(ended: Ended) -> None:
    """`Retry-After` respected"""
    ended.lesson("req_1")
    backend = Backend()
    backend.status, backend.headers = 429, {"Retry-After": "2"}
    async with serving(backend.app) as url:
        async with working(made(ended, Verifier(url), None)):
            await until(lambda: backend.told)
            await asyncio.sleep(1)
    assert len(backend.told) == 1


async def test_aftermath__the_tee_has_used_the_limit__waits_for_its_turn(ended: Ended) -> None:
    """Requests count against the same limit as the tee's, where the backend is the same."""
    clock_s = [0.0]
    window = Window(1, lambda: clock_s[0])
    window.use()
    ended.lesson("req_1")
    backend = Backend()
    async with serving(backend.app) as url:
        one = made(ended, Verifier(url), None, window=window)
        async with working(one):
            await until(lambda: one.counters["again"])
            assert backend.told == []
            clock_s[0] = 60.0
            await until(lambda: one.counters["told"])


async def test_aftermath__backend_that_does_not_verify__only_its_mapping_is_deleted(
    ended: Ended, redis_server: RedisServer
) -> None:
    key = ended.lesson("req_1")
    client = put(redis_server, "req_1", key, NOW_MS - 100_000)
    one = made(ended, None, feed(redis_server))
    async with working(one):
        await until(lambda: one.counters["cleaned"])
    assert client.keys() == []


async def test_aftermath__rooms_name_was_used_again__the_new_mapping_stays(
    ended: Ended, redis_server: RedisServer
) -> None:
    key = ended.lesson("req_1")
    client = put(redis_server, "req_1", key, NOW_MS)
    other = ended.lesson("req_2", 2)
    put(redis_server, "req_2", SessionKey(9, other.tutor, other.tutor), NOW_MS - 100_000)
    one = made(ended, None, feed(redis_server))
    async with working(one):
        await until(lambda: one.counters["left"] == 2)
    assert len(client.keys()) == 2


async def test_aftermath__redis_stopped_and_started__is_done_when_it_is_back(
    ended: Ended, redis_server: RedisServer
) -> None:
    key = ended.lesson("req_1")
    redis_server.stop()
    one = made(ended, None, feed(redis_server))
    async with working(one):
        await until(lambda: one.counters["again"])
        redis_server.start()
        client = put(redis_server, "req_1", key, NOW_MS - 100_000)
        await until(lambda: one.counters["cleaned"])
    assert client.keys() == []


def test_settings__who_is_told(ended: Ended) -> None:
    def told(**given: Any) -> str | None:
        one = aftermath(Settings(_env_file=None, **given), ended.writer, None, Window(90), lambda: NOW_MS)
        return one._verifier.url if one is not None and one._verifier is not None else None

    assert told() is None
    assert told(socket_url="http://a:1", backend_events_url="http://b:2/x") is None
    assert told(socket_url="http://a:1", backend_events_url="http://b:2/x", backend_verifies_ends=True) == "http://b:2"
    assert told(socket_url="http://a:1/", gateway_token="t", backend_events_url="http://b:2/x") == "http://a:1"
