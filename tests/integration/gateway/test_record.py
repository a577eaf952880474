"""The record, `GET /api/sessions`, and how the keeper reads it."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from bot.domain.facts import Kind, Role, Source, Trust
from bot.feeds.record import read_record
from bot.web.gateway import create_gateway
from tests.support.gateway import (
    HOOK,
    MAPPING,
    OPEN,
    STUDENT,
    TOKEN,
    TUTOR,
    config,
    page,
    post,
    record,
    signal,
)
from tests.support.servers import serving


async def test_record__lesson_lost_and_hung_up__tells_it_all(url: str, http: aiohttp.ClientSession) -> None:
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
    await post(http, url, HOOK, signal("user-connected", userRole="student"))
    await post(http, url, HOOK, signal("user-connected", userRole="tutor"))
    for _ in range(3):
        await post(http, url, HOOK, signal("session-heartbeat"))
    await post(http, url, HOOK, signal("user-disconnected", userRole="student"))
    await post(http, url, HOOK, signal("session-ended", endedBy="tutor"))
    room = (await record(http, url))["req_1"]
    assert (room["studentAddress"], room["tutorAddress"], room["languageId"]) == (STUDENT, TUTOR, 1)
    assert room["startTime"] <= room["lastHeartbeat"] <= room["ended"]["at"]
    assert [(away["role"], away["trust"]) for away in room["away"]] == [("student", "secret")]
    assert [here["role"] for here in room["here"]] == ["tutor"]
    assert (room["ended"]["endedBy"], room["ended"]["trust"], room["heartbeats"]) == ("tutor", "secret", 3)


async def test_record__returned_in_time__nobody_is_away(url: str, http: aiohttp.ClientSession) -> None:
    await post(http, url, HOOK, signal("user-disconnected", userRole="student"))
    await post(http, url, HOOK, signal("user-connected", userRole="student"))
    assert (await record(http, url))["req_1"]["away"] == []


async def test_record__anonymous_return__does_not_take_back_a_real_loss(url: str, http: aiohttp.ClientSession) -> None:
    await post(http, url, HOOK, signal("user-disconnected", userRole="student"))
    await post(http, url, OPEN, signal("user-connected", userRole="student"))
    assert [away["role"] for away in (await record(http, url))["req_1"]["away"]] == ["student"]


async def test_record__anonymous_end_and_then_a_real_one__the_real_one_stands(
    url: str, http: aiohttp.ClientSession
) -> None:
    await post(http, url, OPEN, signal("session-ended", endedBy="student"))
    await post(http, url, HOOK, signal("session-ended", endedBy="tutor"))
    await post(http, url, OPEN, signal("session-ended", endedBy="student"))
    ended = (await record(http, url))["req_1"]["ended"]
    assert (ended["endedBy"], ended["trust"]) == ("tutor", "secret")


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer "])
async def test_record__without_the_token__401(url: str, http: aiohttp.ClientSession, header: str | None) -> None:
    async with http.get(url + "/api/sessions", headers={"Authorization": header} if header else {}) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.content_type == "application/problem+json"


async def test_record__no_token_configured__404(http: aiohttp.ClientSession) -> None:
    async with serving(create_gateway(config(token=None))) as url:
        async with http.get(url + "/api/sessions", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.status == 404


async def test_read_record__connection_lost_unheard__hints_in_the_order_of_events(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
    await post(http, url, HOOK, signal("user-connected", userRole="tutor"))
    for _ in range(3):
        await post(http, url, HOOK, signal("session-heartbeat"))
    await asyncio.sleep(0.3)
    await post(http, url, HOOK, signal("user-disconnected", userRole="student"))
    hints = await read_record(url, TOKEN)
    assert [hint.kind for hint in hints] == [Kind.READY, Kind.CONNECTED, Kind.HEARTBEAT, Kind.DISCONNECTED]
    assert {hint.source for hint in hints} == {Source.RECORD}
    assert {(hint.room, hint.student, hint.tutor) for hint in hints} == {("req_1", STUDENT, TUTOR)}
    by_kind = {hint.kind: hint for hint in hints}
    lost = by_kind[Kind.DISCONNECTED]
    assert (lost.trust, lost.role, by_kind[Kind.READY].trust) == (Trust.CONFIGURED, Role.STUDENT, Trust.ANONYMOUS)
    assert lost.can_return
    assert lost.received_ms - by_kind[Kind.HEARTBEAT].received_ms >= 300


async def test_read_record__lesson_hung_up_unheard__nothing_but_its_end(url: str, http: aiohttp.ClientSession) -> None:
    """Announced once more, the room of a call that is over could be taken for the same two people's next lesson."""
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
    await post(http, url, HOOK, signal("session-heartbeat"))
    await post(http, url, HOOK, signal("session-ended", endedBy="tutor"))
    [ended] = await read_record(url, TOKEN)
    assert (ended.kind, ended.trust, ended.role) == (Kind.ENDED, Trust.CONFIGURED, Role.TUTOR)
    assert (ended.room, ended.student, ended.tutor) == ("req_1", STUDENT, TUTOR)
    assert ended.said_ms is not None


async def test_read_record__only_anonymous_words__stay_anonymous(url: str, http: aiohttp.ClientSession) -> None:
    for kind in ("user-connected", "user-disconnected", "session-heartbeat", "session-ended"):
        await post(http, url, OPEN, signal(kind, userRole="tutor", endedBy="tutor"))
    hints = await read_record(url, TOKEN)
    assert len(hints) == 4
    assert {hint.trust for hint in hints} == {Trust.ANONYMOUS}


async def test_read_record__wrong_token__nothing(url: str) -> None:
    assert await read_record(url, "wrong") == []
