"""`chat:message` through the Socket.IO server of the observed backends: to its target, to all, and not too often."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from bot.domain.facts import Kind, SessionKey
from bot.errors import TryAgain
from bot.feeds.socket import SocketFeed
from bot.nudges.message import Message, Purpose
from bot.nudges.nudger import Nudger
from bot.nudges.sockets import Chat
from bot.store import schema
from bot.store.db import Database, Writer
from bot.store.deliveries import Deliveries
from tests.integration.test_cli_daemon import running, settings
from tests.integration.test_run import hook_line, post
from tests.support.anvil import OWNER_KEY, langdao
from tests.support.servers import free_port, npm_server, until

ANN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BOB = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
KEY = SessionKey(7, ANN, BOB)


class Page:
    """A page in the backend, bound to an address or only looking on."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.chats: list[dict[str, Any]] = []
        self.errors: list[Any] = []
        self.sio.on("chat:message", self.chats.append)
        self.sio.on("error", self.errors.append)


@pytest.fixture
async def backend() -> AsyncIterator[str]:
    async with npm_server(free_port()) as url:
        yield url


@contextlib.asynccontextmanager
async def page(url: str, address: str | None = None) -> AsyncIterator[Page]:
    one = Page()
    await until(lambda: _connected(one, url))
    if address:
        await one.sio.emit("user:connect", {"address": address})
    try:
        yield one
    finally:
        await one.sio.disconnect()


async def _connected(one: Page, url: str) -> bool:
    with contextlib.suppress(socketio.exceptions.ConnectionError):
        await one.sio.connect(url)
    return bool(one.sio.connected)


@pytest.fixture
async def feed(backend: str) -> AsyncIterator[SocketFeed]:
    one = SocketFeed(backend, lambda _: None, on_state=lambda _: None, clock_ms=lambda: time.time_ns() // 10**6)
    task = asyncio.create_task(one.run())
    await until(lambda: one.up)
    yield one
    await one.close()
    await asyncio.wait([task])


class Told:
    """What there is to say about session 7, with a link for each participant, and what came of it."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def compose(self, key: SessionKey, action_id: int, payload: dict[str, Any]) -> Message | None:
        return Message(action_id, key, Purpose.ASK, "contradiction", "req_1", 60, 1_000, 60_000, page="https://k/s/7")

    def locale(self, _: str) -> str | None:
        return None

    async def answer_link(self, message: Message, to: str) -> str | None:
        return f"https://k/v/token-of-{to}"

    async def report(self, key: SessionKey, kind: Kind, payload: dict[str, Any], action_id: int | None) -> None:
        self.results.append(payload)


@pytest.fixture
async def said(feed: SocketFeed, tmp_path: Path) -> AsyncIterator[tuple[Nudger, Told]]:
    database = Database(f"sqlite:///{tmp_path}/keeper.db")
    schema.upgrade(database)
    told = Told()
    nudger = Nudger(
        [Chat(feed, CONTRACT)],
        told,
        Deliveries(Writer(database)),
        told.report,
        window_ms=60_000,
        clock_ms=lambda: time.time_ns() // 10**6,
    )
    yield nudger, told
    await nudger.close()


def nudge(nudger: Nudger, number: int) -> None:
    nudger.nudge(number, KEY, {"reason": "contradiction", "ask": True}, time.time_ns() // 10**6)


async def test_chat__both_are_there__each_gets_their_own_and_nobody_else_any(
    backend: str, said: tuple[Nudger, Told]
) -> None:
    """`chat:message` with `targetAddress` on backends that relay it"""
    nudger, told = said
    async with page(backend, ANN.lower()) as ann, page(backend, BOB) as bob, page(backend) as other:
        await asyncio.sleep(0.2)  # a binding isn't acknowledged
        nudge(nudger, 1)
        await until(lambda: ann.chats and bob.chats and told.results)
        await asyncio.sleep(0.2)
        assert [one["targetAddress"] for one in ann.chats + bob.chats] == [ANN, BOB]
        assert other.chats == []
        assert ann.chats[0]["sessionId"] == "req_1"
        assert "Is the lesson still going on?" in ann.chats[0]["message"]
    [result] = told.results
    assert (result["outcome"], result["ask"], result["delivered"]) == ("sent", False, None)


async def test_chat__one_is_not_there__everybody_gets_it_and_nothing_in_it_is_secret(
    backend: str, said: tuple[Nudger, Told]
) -> None:
    """without a connected target it is broadcast, so it carries nothing secret and never a veto link"""
    nudger, _ = said
    async with page(backend, ANN) as ann, page(backend) as other:
        await asyncio.sleep(0.2)
        nudge(nudger, 1)
        await until(lambda: other.chats and len(ann.chats) == 2)
        assert [one["targetAddress"] for one in other.chats] == [BOB]
        assert "/v/" not in json.dumps(ann.chats + other.chats)
        assert "https://k/s/7" in other.chats[0]["message"]


async def test_chat__eleven_by_a_client_that_does_not_count__the_server_refuses_the_last(backend: str) -> None:
    """10 events a minute per socket: what the next test is safe from"""
    async with page(backend) as rude, page(backend, ANN) as ann:
        await asyncio.sleep(0.2)
        for _ in range(11):
            await rude.sio.emit("chat:message", {"targetAddress": ANN})
        await until(lambda: rude.errors)
        assert rude.errors == [{"message": "Rate limit exceeded"}]
        assert len(ann.chats) == 10


async def test_chat__more_nudges_than_the_backend_takes__held_back_and_never_refused(
    backend: str, feed: SocketFeed, said: tuple[Nudger, Told]
) -> None:
    """Own limiter below the server's limits (10 events a minute per socket)"""
    nudger, _ = said
    async with page(backend, ANN) as ann, page(backend, BOB) as bob:
        await asyncio.sleep(0.2)
        errors: list[Any] = []
        assert feed._client is not None
        feed._client.on("error", errors.append)
        for number in range(8):
            nudge(nudger, number)
        await until(lambda: len(ann.chats) + len(bob.chats) == 9 and feed.counters["held_back"] >= 7)
        with pytest.raises(TryAgain):
            await feed.emit("chat:message", {})
        await asyncio.sleep(0.3)
        assert (len(ann.chats) + len(bob.chats), errors) == (9, [])


async def test_run__nudge_chat_on_an_observed_backend__the_students_page_shows_it(backend: str, tmp_path: Path) -> None:
    with langdao(students=1, tutors=1) as world:
        world.node.rpc("evm_setIntervalMining", 1)
        given = settings(
            world,
            tmp_path,
            BACKEND_PRIVATE_KEY=OWNER_KEY,
            SOCKET_URL=backend,
            NUDGE_CHAT=1,
            PUBLIC_URL="https://keeper.example",
            NUDGE_WINDOW_S=6,
            DISCONNECT_GRACE_S=1,
            POLL_INTERVAL_S=0.2,
        )
        async with page(backend, world.students[0]) as student, page(backend) as other:
            with running(tmp_path, "run", **given):
                hook = await asyncio.to_thread(hook_line, tmp_path, given)
                hook = hook.replace("https://keeper.example", f"http://{given['HTTP_BIND']}")
                world.start(0, 0)
                await until(lambda: world.is_active(0), 20)
                said = {"type": "session-ended", "sessionId": 1, "endedBy": "student"}
                await asyncio.to_thread(post, hook, said)
                await until(lambda: student.chats, 30)
                await until(lambda: not world.is_active(0), 30)
                await until(lambda: "has ended" in json.dumps(student.chats), 30)
            mine = [one for one in student.chats if one["targetAddress"] == world.students[0]]
            assert "Session 1 has run for" in mine[0]["message"]
            assert {one["targetAddress"] for one in other.chats} == {world.tutors[0]}, "who isn't there is told aloud"
            assert "/v/" not in json.dumps(student.chats + other.chats)
