"""What survives a restart: the bundled backend as a process, killed in the middle, with its file or with Redis."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aredis

from bot.feeds.record import read_record
from bot.feeds.statements import as_fields
from tests.support.anvil import World, langdao
from tests.support.gateway import (
    MAPPING,
    STUDENT,
    TOKEN,
    TUTOR,
    client,
    page,
    post,
    record,
    signal,
    signed,
    statement_body,
)
from tests.support.record import environment
from tests.support.servers import RedisServer, free_port, until

SECRET = "a-secret-of-the-signalling-server"
HOOK = f"/hook/{SECRET}"


class Process:
    """`langdao-keeper gateway`, which can be killed and started again as it was."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (home / "secret").write_text(SECRET)
        (home / "secret").chmod(0o600)
        given = {
            "GATEWAY_BIND": f"127.0.0.1:{self.port}",
            "GATEWAY_TOKEN": TOKEN,
            "GATEWAY_SECRET_FILE": home / "secret",
        }
        self.environment = environment(home, **{**given, **settings})
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.home / "log").open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bot.cli", "gateway", env=self.environment, cwd=self.home, stdout=log, stderr=log
            )
        await until(self._answers, timeout_s=40, every_s=0.1)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self.home / "log").read_text()
        async with aiohttp.ClientSession() as http:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(self.url + "/health") as answer:
                    return answer.status == 200
        return False


@pytest.fixture(params=["file", "redis"])
async def process(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Process]:
    """With times that leave room for a restart in the middle of them."""
    times = {"DISCONNECT_GRACE_S": 3, "HEARTBEAT_TIMEOUT_S": 4}
    with contextlib.ExitStack() as stack:
        redis = {"REDIS_URL": stack.enter_context(RedisServer()).url} if request.param == "redis" else {}
        one = Process(tmp_path, **times, **redis)
        await one.start()
        yield one
        await one.kill()


async def test_killed_in_the_middle_of_a_grace__the_grace_goes_on_and_ends_once(
    process: Process, http: aiohttp.ClientSession
) -> None:
    await post(http, process.url, HOOK, signal("user-connected", userRole="student"))
    await post(http, process.url, HOOK, signal("user-disconnected", userRole="student"))
    await post(http, process.url, HOOK, signal("user-disconnected", userRole="tutor"))
    await process.kill()
    await process.start()
    async with client(process.url) as listener:
        await post(http, process.url, HOOK, signal("user-connected", userRole="tutor"))
        said = await listener.first("webrtc:grace-over", timeout_s=20)
        await asyncio.sleep(2)
        assert len(listener.named("webrtc:grace-over")) == 1
    assert (said["sessionId"], said["disconnectedUser"], said["trust"]) == ("req_1", "student", "secret")
    assert said["graceDuration"] == 3_000
    await process.kill()
    await process.start()
    async with client(process.url) as listener:
        await asyncio.sleep(4)
        assert listener.named("webrtc:grace-over") == []


async def test_killed_in_the_middle_of_a_series__its_silence_is_reported_from_the_start_on(
    process: Process, http: aiohttp.ClientSession
) -> None:
    for _ in range(3):
        await post(http, process.url, HOOK, signal("session-heartbeat"))
    await until(lambda: _beats(http, process), every_s=0.2)
    await asyncio.sleep(1.5)  # heartbeats are written with the next tick
    await process.kill()
    await process.start()
    async with client(process.url) as listener:
        said = await listener.first("webrtc:heartbeat-timeout", timeout_s=20)
        now_ms = await _now_ms(http, process)
        assert now_ms - said["lastHeartbeat"] > 4_000
        await asyncio.sleep(1.5)
        assert len(listener.named("webrtc:heartbeat-timeout")) == 1
    await process.kill()
    await process.start()
    async with client(process.url) as listener:
        await asyncio.sleep(5)
        assert listener.named("webrtc:heartbeat-timeout") == []


async def test_killed__mapping_room_and_record_are_as_they_were(process: Process, http: aiohttp.ClientSession) -> None:
    async with page(process.url, STUDENT) as student:
        assert (await student.call("session:create", MAPPING))["ok"]
        assert (await student.call("session:create", {**MAPPING, "requestId": "req_2"}))["ok"]
    await post(http, process.url, HOOK, signal("user-disconnected", userRole="student"))
    await post(http, process.url, HOOK, signal("session-ended", "req_2", endedBy="tutor"))
    before = await record(http, process.url)
    await process.kill()
    await process.start()
    assert await record(http, process.url) == before
    assert before["req_2"]["ended"]["endedBy"] == "tutor"
    kinds = [hint.kind for hint in await read_record(process.url, TOKEN)]
    assert kinds == ["ready", "disconnected", "ended"]
    async with page(process.url, STUDENT) as student:
        others = {**MAPPING, "tutorAddress": "0x" + "cc" * 20}
        assert (await student.call("session:create", others))["reason"] == "taken"
        await post(http, process.url, HOOK, signal("session-ended"))
        assert (await student.first("webrtc:session-ended"))["tutorAddress"] == TUTOR


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=1, tutors=1) as one:
        one.start(0, 0)
        yield one


@pytest.mark.parametrize("shelf", ["file", "redis"])
async def test_killed_after_a_signature__it_is_used_and_on_record(
    world: World, tmp_path: Path, http: aiohttp.ClientSession, shelf: str
) -> None:
    """A signature … is used once."""
    statement, signature = signed(world, world.students[0])
    where = "/api/sessions/1/statements"
    with contextlib.ExitStack() as stack:
        redis = {"REDIS_URL": stack.enter_context(RedisServer()).url} if shelf == "redis" else {}
        process = Process(tmp_path, RPC_URL=world.node.url, CONTRACT_ADDRESS=world.contract, **redis)
        await process.start()
        assert (await post(http, process.url, where, statement_body(statement, signature)))[0] == 202
        await process.kill()
        await process.start()
        assert (await post(http, process.url, where, statement_body(statement, signature)))[1]["reason"] == "used"
        [hint] = [hint for hint in await read_record(process.url, TOKEN) if "statement" in hint.payload]
        await process.kill()
    said = dict(hint.payload["statement"])
    assert (said.pop("signature"), said.pop("at") > 0) == (signature, True)
    assert said == as_fields(statement)


async def test_redis_emptied_while_it_was_down__all_is_there_again_and_survives_a_kill(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """once it is back everything is written anew, because it may have lost what it had"""
    with RedisServer() as server:
        process = Process(tmp_path, REDIS_URL=server.url, DISCONNECT_GRACE_S=600)
        await process.start()
        async with page(process.url, STUDENT) as student:
            await student.call("session:create", MAPPING)
        await post(http, process.url, HOOK, signal("user-disconnected", userRole="student"))
        server.stop()
        await post(http, process.url, HOOK, signal("user-disconnected", "req_2", userRole="tutor"))
        assert (await _health(http, process))["kept"] == "redis, down"
        server.start()  # without anything in it
        await until(lambda: _kept_again(http, process), timeout_s=30, every_s=0.3)
        store = aredis.from_url(server.url)
        assert await store.exists("session:req_1")
        await store.aclose()
        before = await record(http, process.url)
        await process.kill()
        await process.start()
        assert await record(http, process.url) == before
        assert {name: len(room["away"]) for name, room in before.items()} == {"req_1": 1, "req_2": 1}
        await process.kill()


async def test_redis_down_at_the_start__served_anyway_and_made_up_for_later(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with RedisServer() as server:
        process = Process(tmp_path, REDIS_URL=server.url, DISCONNECT_GRACE_S=600)
        await process.start()
        await post(http, process.url, HOOK, signal("user-disconnected", userRole="student"))
        await process.kill()
        server.freeze()
        await process.start()
        await post(http, process.url, HOOK, signal("session-ended", "req_2"))
        server.thaw()
        await until(lambda: _kept_again(http, process), timeout_s=30, every_s=0.3)
        rooms = await record(http, process.url)
        assert [away["role"] for away in rooms["req_1"]["away"]] == ["student"]
        assert rooms["req_2"]["ended"]["trust"] == "secret"
        await process.kill()


async def test_redis_written_by_others__what_they_put_under_our_names_isnt_read(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """others write to this Redis too, and what they write under our names isn't read"""
    with RedisServer() as server:
        process = Process(tmp_path, REDIS_URL=server.url)
        await process.start()
        await post(http, process.url, HOOK, signal("session-ended"))
        await process.kill()
        store = aredis.from_url(server.url)
        sealed = await store.get("langdao-gateway:room:req_1")
        await store.set("langdao-gateway:room:req_9", sealed)
        await store.set("langdao-gateway:room:req_8", sealed.partition(b" ")[2])
        await store.aclose()
        await process.start()
        assert set(await record(http, process.url)) == {"req_1"}
        await process.kill()


async def _health(http: aiohttp.ClientSession, process: Process) -> dict[str, Any]:
    async with http.get(process.url + "/health") as answer:
        return dict(await answer.json())


async def _kept_again(http: aiohttp.ClientSession, process: Process) -> bool:
    health = await _health(http, process)
    return (health["kept"], health["mappings"]) == ("redis", "redis")


async def _beats(http: aiohttp.ClientSession, process: Process) -> bool:
    rooms = await record(http, process.url)
    return bool(rooms["req_1"]["heartbeats"] == 3)


async def _now_ms(http: aiohttp.ClientSession, process: Process) -> int:
    async with http.get(process.url + "/api/sessions", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        return int((await answer.json())["now"])
