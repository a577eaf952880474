"""The gateway's side of the pages: plans that the keeper told, one session by GET and live by Server-Sent Events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bot.feeds.wire import Refused
from bot.web.gateway import create_gateway
from bot.web.gateway.plans import Plans
from tests.integration.gateway.conftest import http, url
from tests.support.gateway import MAPPING, STRANGER, STUDENT, TOKEN, TUTOR, client, config, page
from tests.support.servers import serving, until

__all__ = ["http", "url"]
CONTRACT = STRANGER
HASH = "0x" + "ab" * 32


def plan(session_id: int = 5, **more: Any) -> dict[str, Any]:
    said = {"sessionId": session_id, "chainId": 31337, "contract": CONTRACT, "student": STUDENT, "tutor": TUTOR}
    return said | {"rooms": ["req_1"], "state": "running", "startedAt": 1_800_000_000, "rate": "1000"} | more


BILL = {"paid": "62000", "seconds": 62, "endedAt": 1_800_000_062, "endedBy": "keeper", "txHash": HASH}


async def state(http: aiohttp.ClientSession, url: str, name: str) -> tuple[int, Any]:
    async with http.get(f"{url}/api/sessions/{name}") as answer:
        return answer.status, await answer.json(content_type=None)


async def keeper_says(url: str, *plans: dict[str, Any]) -> list[Any]:
    async with client(url, auth={"token": TOKEN}) as one:
        return [await one.call("keeper:session", each) for each in plans]


# What the keeper may tell -----------------------------------------------------------------------------------------


async def test_plan__by_the_keeper__found_by_chain_id_and_by_room(http: aiohttp.ClientSession, url: str) -> None:
    """A session is found by its chain id or by any room that was joined to it."""
    async with client(url, auth={"token": TOKEN}) as one:
        assert await one.call("keeper:session", plan(skewMs=2_000, nowMs=None)) == {"ok": True}
        for name in ("5", "req_1"):
            status, said = await state(http, url, name)
            assert (status, said["id"], said["keeper"]) == (200, name, "up")
            assert said["session"]["sessionId"] == 5
            assert said["chainNow"] == (said["nowMs"] + 2_000) // 1000


async def test_plan__by_anybody_else__refused(http: aiohttp.ClientSession, url: str) -> None:
    """only the keeper's word gets in here"""
    async with page(url, STUDENT) as one:
        answer = await one.call("keeper:session", plan())
        assert answer["reason"] == "not-the-keeper"
    assert (await state(http, url, "5"))[0] == 404


@pytest.mark.parametrize(
    "change",
    [
        {"sessionId": "5"},
        {"sessionId": 0},
        {"tutor": "0xnobody"},
        {"state": "fine"},
        {"rate": "-1"},
        {"rate": "1" * 79},
        {"bill": {"paid": "1", "seconds": 1, "txHash": "0x12"}},
        {"why": "x" * 401},
        {"dueMs": "soon"},
    ],
    ids=str,
)
async def test_plan__malformed__refused_and_changes_nothing(
    http: aiohttp.ClientSession, url: str, change: dict[str, Any]
) -> None:
    """a malformed one is refused and changes nothing"""
    good, bad = await keeper_says(url, plan(), plan(state="due") | change)
    assert good == {"ok": True}
    assert bad["reason"] == "bad-plan"
    assert (await state(http, url, "5"))[1]["session"]["state"] == "running"


def test_take__clocks_differ__due_times_are_by_ours() -> None:
    """`…Ms` are epoch ms by the keeper's clock when it comes in, by ours in here."""
    plans = Plans()
    taken = plans.take(plan(state="due", dueMs=1_000_500, nowMs=1_000_000, skewMs=100), now_ms=2_000_000)
    assert taken.dueMs == 2_000_500
    assert 2_000_000 + taken.skewMs == 1_000_000 + 100


def test_take__gone_but_others_have_the_id_by_now__theirs_stays() -> None:
    plans = Plans()
    plans.take(plan(student=STRANGER), 0)
    plans.take(plan(state="gone"), 0)
    assert plans.find("5") is not None
    plans.take(plan(student=STRANGER, state="gone"), 0)
    assert plans.find("5") is None
    assert plans.find("req_1") is None


def test_take__more_than_fit__the_oldest_that_are_over_give_way_first() -> None:
    """Bounded: the oldest that are over give way first, then the oldest."""
    plans = Plans(max_plans=2)
    plans.take(plan(1, rooms=["a"]), 0)
    plans.take(plan(2, rooms=["b"], state="ended"), 0)
    plans.take(plan(3, rooms=["c"]), 0)
    assert [plans.find(name) is not None for name in ("1", "2", "b", "3")] == [True, False, False, True]
    plans.take(plan(4, rooms=["d"]), 0)
    assert [plans.find(name) is not None for name in ("1", "a", "3", "4")] == [False, False, True, True]


def test_find__name_that_is_no_room__refused() -> None:
    with pytest.raises(Refused):
        Plans().find("\n")


# One session ------------------------------------------------------------------------------------------------------


async def test_state__room_that_no_keeper_knows__told_as_far_as_it_is_known(
    http: aiohttp.ClientSession, url: str
) -> None:
    async with page(url, STUDENT) as one:
        await one.call("session:create", MAPPING)
    status, said = await state(http, url, "req_1")
    assert (status, said["session"], said["keeper"]) == (200, None, "down")
    assert said["rooms"][0]["studentAddress"] == STUDENT


@pytest.mark.parametrize("name", ["7", "req_nobody", "%0a", "x" * 300])
async def test_state__nobody_knows_it__404_as_problem_details(http: aiohttp.ClientSession, url: str, name: str) -> None:
    status, said = await state(http, url, name)
    assert (status, said["reason"]) == (404, "unknown")


# Live -------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def stream(http: aiohttp.ClientSession, url: str, name: str) -> AsyncIterator[asyncio.Queue[Any]]:
    """The states that a page would hear."""
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with http.get(f"{url}/api/sessions/{name}/events") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")

        async def read() -> None:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    heard.put_nowait(json.loads(line[6:]))

        task = asyncio.create_task(read())
        try:
            yield heard
        finally:
            task.cancel()


async def next_state(heard: asyncio.Queue[Any]) -> Any:
    return await asyncio.wait_for(heard.get(), 5)


async def test_events__each_change__is_heard_at_once(http: aiohttp.ClientSession, url: str) -> None:
    """A stream begins with the state as it is and tells each change"""
    async with client(url, auth={"token": TOKEN}) as keeper:
        await keeper.call("keeper:session", plan())
        async with stream(http, url, "req_1") as by_room, stream(http, url, "5") as by_id:
            for heard in (by_room, by_id):
                assert (await next_state(heard))["session"]["state"] == "running"
            await keeper.call("keeper:session", plan(state="due", reason="ended", dueMs=1))
            for heard in (by_room, by_id):
                assert (await next_state(heard))["session"]["reason"] == "ended"
            await keeper.call("keeper:session", plan(state="ended", bill=BILL))
            for heard in (by_room, by_id):
                assert (await next_state(heard))["session"]["bill"]["paid"] == "62000"
            await keeper.sio.disconnect()
            assert (await next_state(by_id))["keeper"] == "down"


async def test_events__nobody_knows_it__404(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(f"{url}/api/sessions/9/events") as answer:
        assert answer.status == 404


async def test_events__page_is_closed__its_place_is_free_again(http: aiohttp.ClientSession) -> None:
    app = create_gateway(config())
    async with serving(app) as address:
        async with client(address, auth={"token": TOKEN}) as keeper:
            await keeper.call("keeper:session", plan())

            async def watching() -> int:
                async with http.get(address + "/health") as answer:
                    return int((await answer.json())["watching"])

            async with stream(http, address, "5") as heard:
                await next_state(heard)
                assert await watching() == 1

            async def nobody() -> bool:
                await keeper.call("keeper:session", plan(state="due"))
                return await watching() == 0

            await until(nobody)
