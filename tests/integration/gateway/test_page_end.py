"""A page's report of its end, `POST /api/webrtc-session-ended`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aredis
from structlog.testing import capture_logs

from bot.chain.rpc import Rpc
from bot.chain.witness import Witness
from bot.web.gateway import create_gateway, reports
from bot.web.gateway.config import wall_ms
from tests.support.anvil import World, langdao
from tests.support.gateway import (
    HASH,
    MAPPING,
    STRANGER,
    STUDENT,
    TOKEN,
    client,
    config,
    page,
    post,
    record,
)
from tests.support.servers import RedisServer, forwarded, free_port, serving, until

ENDED = "/api/webrtc-session-ended"


@pytest.fixture
def world() -> Iterator[World]:
    """Session 1 runs between student 0 and tutor 0."""
    with langdao(students=2, tutors=2) as one:
        one.start(0, 0)
        yield one


@pytest.fixture
async def witness(world: World) -> AsyncIterator[Witness]:
    rpc = Rpc([world.node.url])
    yield Witness(rpc, world.contract)
    await rpc.close()


def body(world: World, tx_hash: str, room: Any = 1, student: int = 0) -> dict[str, Any]:
    return {"sessionId": room, "userAddress": world.students[student].lower(), "transactionHash": tx_hash}


def mapping(world: World, room: str = "req_end", student: int = 0, tutor: int = 0) -> dict[str, Any]:
    return {"requestId": room, "studentAddress": world.students[student], "tutorAddress": world.tutors[tutor]}


VERIFIED = (200, {"ok": True, "verified": True})


async def test_page_end__mined_and_of_this_session__verified_emitted_and_mapping_cleaned(
    world: World, witness: Witness, redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    app = create_gateway(config(redis_url=redis_server.url), witness)
    async with serving(app) as url, page(url, world.students[0]) as student:
        store = aredis.from_url(redis_server.url)
        assert (await student.call("session:create", mapping(world)))["ok"]
        assert await store.exists("session:req_end")
        tx_hash = world.end(0, by=world.students[0])
        assert await post(http, url, ENDED, body(world, tx_hash, "req_end")) == VERIFIED
        said = await student.first("session:ended")
        assert not await store.exists("session:req_end")
        await store.aclose()
    assert (said["sessionId"], said["transactionHash"], said["trust"]) == ("req_end", tx_hash, "anonymous")
    assert (said["endedBy"], said["tutorAddress"]) == (world.students[0], world.tutors[0])


async def test_page_end__by_its_number__verified_and_emitted_as_a_number(
    world: World, witness: Witness, http: aiohttp.ClientSession
) -> None:
    async with serving(create_gateway(config(), witness)) as url, client(url) as listener:
        assert await post(http, url, ENDED, body(world, world.end(0))) == VERIFIED
        said = await listener.first("session:ended")
    assert (said["sessionId"], said["studentAddress"]) == (1, world.students[0])


@pytest.mark.parametrize("room", [1, "req_end", "req_unknown"])
async def test_page_end__transaction_of_something_else__422_and_nothing_changes(
    world: World, witness: Witness, http: aiohttp.ClientSession, room: Any
) -> None:
    """its transaction must contain `SessionEnded` of that very session"""
    world.start(1, 1)
    others = [world.end(1), world.deposit(0), world.deposit(1)]
    app = create_gateway(config(), witness)
    async with serving(app) as url, page(url, world.students[0]) as student:
        await student.call("session:create", mapping(world))
        student.events.clear()
        for tx_hash in others:
            status, said = await post(http, url, ENDED, body(world, tx_hash, room))
            assert (status, said["reason"]) == (422, "wrong-transaction")
        await asyncio.sleep(0.1)
        assert student.events == []
        assert (await record(http, url))["req_end"]["ended"] is None


async def test_page_end__transaction_of_the_same_peoples_last_lesson__422(
    world: World, witness: Witness, http: aiohttp.ClientSession
) -> None:
    old = world.end(0)
    later = config(clock_ms=lambda: wall_ms() + 60_000)
    async with serving(create_gateway(later, witness)) as url, page(url, world.students[0]) as student:
        world.start(0, 0)
        await student.call("session:create", mapping(world))
        assert (await post(http, url, ENDED, body(world, old, "req_end")))[0] == 422
        assert (await post(http, url, ENDED, body(world, old, 2)))[0] == 422


async def test_page_end__session_that_doesnt_exist_or_of_others__404_and_403(
    world: World, witness: Witness, http: aiohttp.ClientSession
) -> None:
    async with serving(create_gateway(config(), witness)) as url, client(url) as listener:
        assert (await post(http, url, ENDED, body(world, HASH, 7)))[1]["reason"] == "no-such-session"
        assert (await post(http, url, ENDED, body(world, HASH, 1, student=1)))[1]["reason"] == "not-a-participant"
        await asyncio.sleep(0.1)
        assert listener.events == []
        assert await record(http, url) == {}


async def test_page_end__pending__202_told_as_a_hint_and_watched_until_it_is_mined(
    world: World, witness: Witness, http: aiohttp.ClientSession
) -> None:
    async with serving(create_gateway(config(), witness)) as url, page(url, world.students[0]) as student:
        await student.call("session:create", mapping(world))
        world.stop_mining()
        tx_hash = world.end(0, by=world.students[0])
        status, said = await post(http, url, ENDED, body(world, tx_hash, "req_end"))
        assert (status, said["verified"]) == (202, False)
        hint = await student.first("webrtc:session-ended")
        assert (hint["endedBy"], hint["reason"], hint["trust"]) == (world.students[0], "paying", "anonymous")
        assert student.named("session:ended") == []
        world.node.mine()
        assert (await student.first("session:ended", timeout_s=15))["transactionHash"] == tx_hash


async def test_page_end__pending_and_then_of_something_else__never_told(
    world: World, witness: Witness, http: aiohttp.ClientSession
) -> None:
    async with serving(create_gateway(config(), witness)) as url, client(url) as listener:
        world.stop_mining()
        tx_hash = world.deposit(0)
        assert (await post(http, url, ENDED, body(world, tx_hash)))[0] == 202
        world.node.mine()
        with capture_logs() as logs:
            await until(lambda: [line for line in logs if line.get("reason") == "wrong-transaction"], 15)
        assert listener.named("session:ended") == []


async def test_page_end__never_mined__watched_no_longer_than_it_says(
    world: World, witness: Witness, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "WATCH_MS", 0)
    async with serving(create_gateway(config(), witness)) as url:
        assert (await post(http, url, ENDED, body(world, HASH)))[0] == 202
        with capture_logs() as logs:
            await until(lambda: [line for line in logs if line["event"] == "gateway.report_expired"], 15)


async def test_page_end__gateway_killed_before_it_is_mined__watched_by_the_next(
    world: World, witness: Witness, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    kept = config(state_file=tmp_path / "gateway.db")
    async with serving(create_gateway(kept, witness)) as url:
        world.stop_mining()
        tx_hash = world.end(0)
        assert (await post(http, url, ENDED, body(world, tx_hash)))[0] == 202
    async with serving(create_gateway(kept, witness)) as url, client(url) as listener:
        world.node.mine()
        assert (await listener.first("session:ended", timeout_s=15))["transactionHash"] == tx_hash


async def test_page_end__node_away__202_as_a_hint_and_verified_when_it_is_back(
    world: World, http: aiohttp.ClientSession
) -> None:
    port = free_port()
    rpc = Rpc([f"http://127.0.0.1:{port}"], timeout_s=1)
    app = create_gateway(config(), Witness(rpc, world.contract))
    async with serving(app) as url, page(url, world.students[0]) as student:
        await student.call("session:create", mapping(world))
        tx_hash = world.end(0)
        status, said = await post(http, url, ENDED, body(world, tx_hash, "req_end"))
        assert (status, said["verified"]) == (202, False)
        assert str(port) in said["why"]
        await until(lambda: len(student.named("session:ended")) == 1)
        async with forwarded(port, world.node.url):
            await until(lambda: len(student.named("session:ended")) == 2, 30)
    await rpc.close()


async def test_page_end__no_chain_configured__202_as_a_hint_and_the_mapping_stays(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    async with serving(create_gateway(config(redis_url=redis_server.url))) as url, page(url, STUDENT) as student:
        store = aredis.from_url(redis_server.url)
        await student.call("session:create", {**MAPPING, "requestId": "req_none"})
        said = {"sessionId": "req_none", "userAddress": STUDENT.lower(), "transactionHash": HASH}
        status, answer = await post(http, url, ENDED, said)
        assert (status, answer["verified"]) == (202, False)
        assert "RPC_URL" in answer["why"]
        assert (await student.first("session:ended"))["trust"] == "anonymous"
        assert await store.exists("session:req_none")
        async with http.post(url + ENDED, json=said, headers={"Authorization": f"Bearer {TOKEN}"}) as keepers:
            assert (keepers.status, await keepers.json()) == VERIFIED
        assert not await store.exists("session:req_none")
        await store.aclose()


async def test_page_end__by_a_stranger__refused_and_mapping_kept(url: str, http: aiohttp.ClientSession) -> None:
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
        body = {"sessionId": "req_1", "userAddress": STRANGER, "transactionHash": HASH}
        status, answer = await post(http, url, "/api/webrtc-session-ended", body)
        assert (status, answer["reason"]) == (403, "not-a-participant")
        assert student.named("session:ended") == []
    assert (await record(http, url))["req_1"]["ended"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"transactionHash": "0x12"},
        {"transactionHash": None},
        {"userAddress": "me"},
        {"sessionId": ""},
        {"sessionId": []},
    ],
)
async def test_page_end__malformed__400_and_no_event(
    url: str, http: aiohttp.ClientSession, change: dict[str, Any]
) -> None:
    async with client(url) as listener:
        body = {"sessionId": "req_1", "userAddress": STUDENT, "transactionHash": HASH, **change}
        assert (await post(http, url, "/api/webrtc-session-ended", body))[0] == 400
        await asyncio.sleep(0.1)
        assert listener.events == []
