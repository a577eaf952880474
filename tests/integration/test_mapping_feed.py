"""The mapping feed against a real Redis, stopped, frozen and filled with nonsense."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio as aredis
from structlog.testing import capture_logs

from bot.domain.address import checksum
from bot.domain.facts import Hint, Kind, Source, Trust
from bot.errors import TryAgain
from bot.feeds.mapping import MappingFeed
from tests.support.servers import HANGS_S, RedisServer, free_port, until

STUDENT = checksum("0x94c5" + "a1" * 18)
TUTOR = checksum("0x48c8" + "b2" * 18)
NOW_MS = 1_790_000_000_000
MAPPING = {
    "sessionId": "req_1",
    "studentAddress": STUDENT.lower(),
    "tutorAddress": TUTOR.lower(),
    "languageId": "1",
    "startTime": str(NOW_MS - 5_000),
}


class Fed:
    """A feed and all that came of it."""

    def __init__(self, url: str) -> None:
        self.hints: list[Hint] = []
        self.states: list[bool] = []
        self.feed = MappingFeed(
            url, self.hints.append, clock_ms=lambda: NOW_MS, on_state=self.states.append, watch_every_s=0.1
        )

    def rooms(self) -> list[str | None]:
        return sorted(hint.room or "" for hint in self.hints)


@contextlib.asynccontextmanager
async def feeding(url: str, *, run: bool = False) -> AsyncIterator[Fed]:
    fed = Fed(url)
    task = asyncio.create_task(fed.feed.run()) if run else None
    try:
        yield fed
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await fed.feed.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as one:
        yield one


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Any]:
    client = aredis.from_url(server.url)
    await client.flushall()
    yield client
    await client.aclose()


async def put(store: Any, room: str = "req_1", **changes: Any) -> None:
    await store.hset(f"session:{room}", mapping={**MAPPING, "sessionId": room, **changes})


async def test_look__documented_mapping__hint_with_the_trust_of_a_mapping(server: RedisServer, store: Any) -> None:
    await put(store)
    async with feeding(server.url) as fed:
        hint = await fed.feed.look("req_1")
        assert fed.hints == [hint]
    assert hint is not None
    assert (hint.kind, hint.source, hint.trust) == (Kind.MAPPING, Source.REDIS, Trust.MAPPING)
    assert (hint.room, hint.student, hint.tutor, hint.said_ms) == ("req_1", STUDENT, TUTOR, NOW_MS - 5_000)
    assert (hint.received_ms, hint.payload) == (NOW_MS, MAPPING)


async def test_look__no_mapping__none(server: RedisServer, store: Any) -> None:
    async with feeding(server.url) as fed:
        assert await fed.feed.look("req_1") is None
        assert (fed.hints, fed.feed.counters["missing"]) == ([], 1)


async def test_look__expired_mapping__none(server: RedisServer, store: Any) -> None:
    await put(store)
    await store.pexpire("session:req_1", 1)
    await asyncio.sleep(0.05)
    async with feeding(server.url) as fed:
        assert await fed.feed.look("req_1") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"studentAddress": "", "tutorAddress": "nobody"}, "no-address"),
        ({"studentAddress": b"\xff\xfe"}, "not-text"),
        ({"studentAddress": "x" * 100_000}, "oversized"),
        ({"sessionId": "y" * 1_000_000}, "oversized"),
    ],
)
async def test_look__hostile_values__refused_and_logged(
    server: RedisServer, store: Any, changes: dict[str, Any], reason: str
) -> None:
    await put(store, **changes)
    async with feeding(server.url) as fed:
        with capture_logs() as logs:
            assert await fed.feed.look("req_1") is None
        assert (fed.hints, fed.feed.counters["refused"]) == ([], 1)
    assert [(line["event"], line["reason"]) for line in logs] == [("mapping.refused", reason)]


@pytest.mark.parametrize("wrong", ["string", "list", "set", "stream"])
async def test_look__key_of_another_type__refused(server: RedisServer, store: Any, wrong: str) -> None:
    await {
        "string": lambda: store.set("session:req_1", "x"),
        "list": lambda: store.rpush("session:req_1", "x"),
        "set": lambda: store.sadd("session:req_1", "x"),
        "stream": lambda: store.xadd("session:req_1", {"a": "b"}),
    }[wrong]()
    async with feeding(server.url) as fed:
        with capture_logs() as logs:
            assert await fed.feed.look("req_1") is None
    assert [line["reason"] for line in logs] == ["wrong-type"]


async def test_look__odd_optional_values__hint_without_them(server: RedisServer, store: Any) -> None:
    await put(store, tutorAddress="?", startTime="soon", languageId="🙂")
    async with feeding(server.url) as fed:
        hint = await fed.feed.look("req_1")
    assert hint is not None
    assert (hint.student, hint.tutor, hint.said_ms) == (STUDENT, None, None)


async def test_look__redis_down__none_and_said_once() -> None:
    with capture_logs() as logs:
        async with feeding(f"redis://:hunter2@127.0.0.1:{free_port()}/0") as fed:
            for _ in range(3):
                assert await fed.feed.look("req_1") is None
    assert [line["event"] for line in logs] == ["mapping.down"]
    assert "hunter2" not in str(logs)


async def test_run__mappings_there_at_start__all_sane_ones_are_taken(server: RedisServer, store: Any) -> None:
    for number in range(1500):
        await put(store, f"req_{number}")
    await store.set("session:wrong", "x")
    await store.hset("session:\x00", mapping=MAPPING)
    await store.hset(b"session:\xff", mapping=MAPPING)
    await store.hset("session:", mapping=MAPPING)
    await store.hset("other:req", mapping=MAPPING)
    async with feeding(server.url, run=True) as fed:
        await until(lambda: fed.feed.up)
        assert set(fed.rooms()) == {f"req_{number}" for number in range(1500)}
        assert fed.feed.counters["refused"] == 4
        assert fed.states == [True]


async def test_run__redis_killed_and_back__degraded_and_then_scanned_again() -> None:
    with RedisServer() as server:
        async with feeding(server.url, run=True) as fed:
            await until(lambda: fed.feed.up)
            server.stop()
            await until(lambda: not fed.feed.up)
            server.start()
            store = aredis.from_url(server.url)
            await put(store, "req_new")
            await until(lambda: fed.rooms() == ["req_new"])
            await until(lambda: fed.states == [True, False, True])
            await store.aclose()


async def test_scan_soon__mapping_made_unheard__is_taken_at_once(server: RedisServer, store: Any) -> None:
    """when somebody asks for it: `scan_soon`, after the socket was lost"""
    async with feeding(server.url, run=True) as fed:
        await until(lambda: fed.feed.up)
        await put(store, "req_unheard")
        await asyncio.sleep(0.3)
        assert fed.rooms() == []
        fed.feed.scan_soon()
        await until(lambda: fed.rooms() == ["req_unheard"])
        assert fed.feed.counters["scans"] == 2


async def test_run__redis_down_at_start__up_when_it_comes() -> None:
    with RedisServer() as server:
        server.stop()
        async with feeding(server.url, run=True) as fed:
            await asyncio.sleep(0.3)
            assert fed.states == []
            server.start()
            await until(lambda: fed.states == [True])


async def test_look__redis_frozen__gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.feeds.mapping.TIMEOUT_S", 0.3)
    with RedisServer() as server:
        async with feeding(server.url) as fed:
            server.freeze()
            async with asyncio.timeout(HANGS_S):
                assert await fed.feed.look("req_1") is None
            server.thaw()


async def test_run__no_redis_but_something_else__stays_degraded() -> None:
    async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(chat, "127.0.0.1", port := free_port())
    async with other, feeding(f"redis://127.0.0.1:{port}/0", run=True) as fed:
        await asyncio.sleep(0.5)
        assert (fed.feed.up, fed.hints) == (False, [])


async def test_forget__after_an_end__the_mapping_is_gone(server: RedisServer, store: Any) -> None:
    await put(store, "req_1")
    await put(store, "req_2")
    async with feeding(server.url) as fed:
        await fed.feed.forget("req_1")
        await fed.feed.forget("req_1")
    assert await store.keys("*") == [b"session:req_2"]


async def test_forget__redis_down__try_again() -> None:
    async with feeding(f"redis://127.0.0.1:{free_port()}/0") as fed:
        with pytest.raises(TryAgain):
            await fed.feed.forget("req_1")
