"""Rooms that nobody knows are looked up in a real Redis before what was said of them is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis as sync_redis

from bot.domain.facts import Hint, Kind, SessionKey, Source
from bot.feeds import wire
from bot.feeds.lookup import AGAIN_MS, Lookup
from bot.feeds.mapping import MappingFeed
from tests.support.record import address
from tests.support.servers import RedisServer, until

STUDENT, TUTOR = address(0x51), address(0x70)
NOW_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Taken:
    """A look-up and all that came through it."""

    def __init__(self, server: RedisServer) -> None:
        self.hints: list[Hint] = []
        self.joined: dict[str, SessionKey] = {}
        self.lookup = Lookup(self.hints.append, self._store, self.joined.get)
        self.mapping = MappingFeed(server.url, self.hints.append, clock_ms=lambda: NOW_MS)
        self.lookup.mapping = self.mapping

    async def _store(self, hint: Hint) -> None:
        self.hints.append(hint)

    def said(self) -> list[tuple[Kind, str | None]]:
        return [(hint.kind, hint.room) for hint in self.hints]


@pytest.fixture
async def taken(redis_server: RedisServer) -> AsyncIterator[Taken]:
    client = sync_redis.Redis.from_url(redis_server.url)
    client.flushall()
    client.hset("session:req_1", mapping={"studentAddress": STUDENT.lower(), "tutorAddress": TUTOR.lower()})
    one = Taken(redis_server)
    yield one
    await one.mapping.close()


def post(kind: str, room: str = "req_1", at_ms: int = NOW_MS, **more: object) -> Hint:
    return wire.from_post({"type": kind, "sessionId": room, **more}, at_ms, Source.WEBHOOK)


async def test_take__unknown_room__its_mapping_comes_first_and_the_order_stays(taken: Taken) -> None:
    for kind in ("user-connected", "user-disconnected", "session-ended"):
        taken.lookup.take(post(kind))
    taken.lookup.take(post("session-ended", "req_2"))
    assert taken.hints == []
    await until(lambda: len(taken.hints) == 5)
    of_the_room = [kind for kind, room in taken.said() if room == "req_1"]
    assert of_the_room == [Kind.MAPPING, Kind.CONNECTED, Kind.DISCONNECTED, Kind.ENDED]


async def test_store__unknown_room__its_mapping_comes_first(taken: Taken) -> None:
    await taken.lookup.store(post("session-ended"))
    assert taken.said() == [(Kind.MAPPING, "req_1"), (Kind.ENDED, "req_1")]


async def test_take__known_or_named__nothing_is_looked_up(taken: Taken) -> None:
    taken.joined["req_1"] = SessionKey(1, STUDENT, TUTOR)
    taken.lookup.take(post("session-ended"))
    both = {"studentAddress": STUDENT, "tutorAddress": TUTOR}
    taken.lookup.take(post("session-ended", "req_2", **both))
    assert taken.said() == [(Kind.ENDED, "req_1"), (Kind.ENDED, "req_2")]


async def test_take__looked_up_a_moment_ago__not_again_until_a_minute_later(taken: Taken) -> None:
    await taken.lookup.store(post("session-heartbeat"))
    await taken.lookup.store(post("session-heartbeat", at_ms=NOW_MS + AGAIN_MS - 1))
    await taken.lookup.store(post("session-heartbeat", at_ms=NOW_MS + AGAIN_MS))
    assert [kind for kind, _ in taken.said()].count(Kind.MAPPING) == 2


async def test_take__redis_answers_nothing__the_hint_waits_a_second_at_most(
    taken: Taken, redis_server: RedisServer
) -> None:
    redis_server.freeze()
    try:
        taken.lookup.take(post("session-ended"))
        await until(lambda: taken.said() == [(Kind.ENDED, "req_1")])
    finally:
        redis_server.thaw()


async def test_take__redis_is_down__taken_at_once_and_looked_up_when_it_is_back(
    taken: Taken, redis_server: RedisServer
) -> None:
    redis_server.stop()
    taken.lookup.take(post("user-connected"))
    await until(lambda: taken.said() == [(Kind.CONNECTED, "req_1")])
    redis_server.start()
    sync_redis.Redis.from_url(redis_server.url).hset("session:req_1", mapping={"tutorAddress": TUTOR})
    taken.lookup.take(post("session-ended", at_ms=NOW_MS + AGAIN_MS))
    await until(lambda: len(taken.hints) == 3)
    assert [kind for kind, _ in taken.said()] == [Kind.CONNECTED, Kind.MAPPING, Kind.ENDED]
    await asyncio.sleep(0)
