"""What the chain says against a word that anybody could have sent: `POST /api/webrtc-events`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from bot.chain.rpc import Rpc
from bot.chain.witness import Witness
from bot.web.gateway import create_gateway, lessons
from tests.support.anvil import World, langdao
from tests.support.gateway import HOOK, OPEN, STRANGER, client, config, page, post, record, signal
from tests.support.servers import serving

VERIFIED = (200, {"ok": True, "verified": True})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Session 1 runs between student 0 and tutor 0."""
    with langdao(students=2, tutors=2) as one:
        one.start(0, 0)
        yield one


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    rpc = Rpc([world.node.url])
    async with serving(create_gateway(config(), Witness(rpc, world.contract))) as address:
        yield address
    await rpc.close()


async def test_open__session_on_chain__verified_and_its_addresses_filled_in(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    async with client(url) as listener:
        body = signal("session-ended", 1, endedBy="student", userAddress=world.students[0])
        assert await post(http, url, OPEN, body) == VERIFIED
        said = await listener.first("webrtc:session-ended")
    assert (said["studentAddress"], said["tutorAddress"]) == (world.students[0], world.tutors[0])
    assert said["trust"] == "anonymous"


@pytest.mark.parametrize("kind", ["session-ended", "user-disconnected", "session-heartbeat", "user-connected"])
async def test_open__no_such_session__404_and_nothing_changes(url: str, http: aiohttp.ClientSession, kind: str) -> None:
    """A session that doesn't exist on chain … and nothing changes."""
    async with client(url) as listener:
        status, said = await post(http, url, OPEN, signal(kind, 99))
        assert (status, said["reason"]) == (404, "no-such-session")
        await asyncio.sleep(0.1)
        assert listener.events == []
        assert await record(http, url) == {}


@pytest.mark.parametrize(
    "fields",
    [{"userAddress": STRANGER}, {"endedBy": STRANGER}, {"studentAddress": STRANGER}, {"tutorAddress": STRANGER}],
)
async def test_open__end_by_somebody_else__403(url: str, http: aiohttp.ClientSession, fields: dict[str, Any]) -> None:
    status, said = await post(http, url, OPEN, signal("session-ended", 1, **fields))
    assert (status, said["reason"]) == (403, "not-a-participant")
    assert await record(http, url) == {}


async def test_open__room_of_a_running_session__verified_by_its_people(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    async with page(url, world.students[0]) as student:
        for room, tutor in (("req_on", 0), ("req_off", 1)):
            people = {"studentAddress": world.students[0], "tutorAddress": world.tutors[tutor]}
            assert (await student.call("session:create", {"requestId": room, **people}))["ok"]
    assert await post(http, url, OPEN, signal("user-connected", "req_on")) == VERIFIED
    status, said = await post(http, url, OPEN, signal("user-connected", "req_off"))
    assert (status, said["verified"], "on chain" in said["why"]) == (202, False, True)
    by_other = signal("session-ended", "req_off", userAddress=world.tutors[0])
    assert (await post(http, url, OPEN, by_other))[0] == 403


async def test_hook__no_such_session__accepted_all_the_same(url: str, http: aiohttp.ClientSession) -> None:
    assert await post(http, url, HOOK, signal("session-ended", 99)) == (200, {"ok": True})


async def test_open__more_looks_than_allowed__accepted_as_hints(
    world: World, url: str, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nobody makes it knock at the node without end"""
    monkeypatch.setattr(lessons, "LOOKS_PER_MINUTE", 2)
    rpc = Rpc([world.node.url])
    async with serving(create_gateway(config(), Witness(rpc, world.contract))) as url:
        statuses = [(await post(http, url, OPEN, signal("session-heartbeat", 90 + n)))[0] for n in range(4)]
    await rpc.close()
    assert statuses == [404, 404, 202, 202]
    assert rpc.calls["eth_call"] == 2
