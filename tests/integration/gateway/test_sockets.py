"""Pages and the keeper on their sockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aredis
import socketio

from bot.web.gateway import create_gateway
from tests.support.gateway import (
    MAPPING,
    STRANGER,
    STUDENT,
    TOKEN,
    TUTOR,
    client,
    config,
    page,
    record,
)
from tests.support.servers import RedisServer, serving, until


async def test_session_create__by_a_bound_participant__ready_is_broadcast(url: str) -> None:
    async with client(url) as listener, page(url, STUDENT) as student:
        assert await student.call("session:create", MAPPING) == {"ok": True, "sessionId": "req_1"}
        said = await listener.first("session:ready")
    assert said == {
        "requestId": "req_1",
        "sessionId": "req_1",
        "studentAddress": STUDENT,
        "tutorAddress": TUTOR,
        "languageId": 1,
        "trust": "anonymous",
    }


async def test_session_create__with_redis__mapping_in_the_documented_format(redis_server: RedisServer) -> None:
    async with serving(create_gateway(config(redis_url=redis_server.url))) as url, page(url, TUTOR) as tutor:
        await tutor.call("session:create", {**MAPPING, "studentUrl": "https://a.example/1"})
        store = aredis.from_url(redis_server.url, decode_responses=True)
        mapping, ttl_s = await store.hgetall("session:req_1"), await store.ttl("session:req_1")
        await store.aclose()
    assert mapping.pop("startTime").isdigit()
    assert mapping == {
        "sessionId": "req_1",
        "studentAddress": STUDENT.lower(),
        "tutorAddress": TUTOR.lower(),
        "languageId": "1",
        "studentUrl": "https://a.example/1",
    }
    assert 86_300 < ttl_s <= 86_400


@pytest.mark.parametrize(
    ("bind", "said", "reason"),
    [
        (None, MAPPING, "not-a-participant"),
        (STRANGER, MAPPING, "not-a-participant"),
        (STUDENT, {**MAPPING, "tutorAddress": "nobody"}, "bad-address"),
        (STUDENT, {**MAPPING, "requestId": ""}, "no-session-id"),
        (STUDENT, {**MAPPING, "languageId": 255}, "bad-language"),
        (STUDENT, {**MAPPING, "languageId": "x"}, "bad-language"),
        (STUDENT, "text", "not-an-object"),
        (STUDENT, None, "not-an-object"),
        (STUDENT, {**MAPPING, "x": "y" * 17_000}, "oversized"),
    ],
)
async def test_session_create__not_allowed_or_malformed__refused_and_no_event(
    url: str, http: aiohttp.ClientSession, bind: str | None, said: Any, reason: str
) -> None:
    async with client(url) as one:
        if bind:
            await one.call("user:connect", {"address": bind})
        answer = await one.call("session:create", said)
        assert (answer["ok"], answer["reason"]) == (False, reason)
        assert one.named("session:ready") == []
    assert await record(http, url) == {}


async def test_session_create__room_of_others__refused(url: str) -> None:
    async with page(url, STUDENT) as student, page(url, STRANGER) as stranger:
        assert (await student.call("session:create", MAPPING))["ok"]
        answer = await stranger.call("session:create", {**MAPPING, "studentAddress": STRANGER})
        assert answer["reason"] == "taken"


async def test_session_create__again_by_the_same__ok_and_the_start_stays(url: str, http: aiohttp.ClientSession) -> None:
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
        started = (await record(http, url))["req_1"]["startTime"]
        assert (await student.call("session:create", MAPPING))["ok"]
    assert (await record(http, url))["req_1"]["startTime"] == started


@pytest.mark.parametrize("said", [{}, {"address": "me"}, {"address": 5}, [], None, "0x" + "11" * 20])
async def test_user_connect__no_address__refused(url: str, said: Any) -> None:
    async with client(url) as one:
        answer = await one.call("user:connect", said)
        assert answer["ok"] is False


async def test_events_of_clients__documented_names__are_not_relayed(url: str) -> None:
    async with client(url) as listener, client(url) as spoofer:
        for name in ("webrtc:session-ended", "session:ended", "session:ready", "chat:message", "keeper:x"):
            await spoofer.sio.emit(name, {"sessionId": "req_1"})
        await spoofer.call("user:connect", {"address": STRANGER})
        await asyncio.sleep(0.1)
        assert listener.events == []


async def test_events_of_clients__eleventh_in_a_minute__rate_limit_error(url: str) -> None:
    async with client(url) as one:
        for _ in range(10):
            assert (await one.call("user:connect", {"address": STUDENT}))["ok"]
        assert (await one.call("user:connect", {"address": STUDENT}))["ok"] is False
        assert await one.first("error") == {"message": "Rate limit exceeded"}


async def test_events_of_clients__named_like_the_librarys_own__do_not_reset_the_limit(url: str) -> None:
    async with client(url) as one:
        for _ in range(10):
            await one.call("user:connect", {"address": STUDENT})
        for name in ("disconnect", "connect", "*"):
            packet = one.sio.packet_class(2, namespace="/", data=[name, {}])
            await one.sio._send_packet(packet)
        assert (await one.call("user:connect", {"address": STUDENT}))["ok"] is False


async def test_events_of_clients__named_star_after_another_socket__count_for_the_sender(url: str) -> None:
    async with client(url) as victim, client(url) as one:
        for _ in range(10):
            await one.sio.emit("*", (victim.sio.get_sid(), {"address": STUDENT}))
        assert (await one.call("user:connect", {"address": STUDENT}))["ok"] is False
        assert (await victim.call("user:connect", {"address": STUDENT}))["ok"] is True


async def test_frames__no_packets_at_all__the_gateway_goes_on(url: str, http: aiohttp.ClientSession) -> None:
    async with client(url) as hostile:
        for frame in ("2[]", '2[{"a":1}]', "2[[1]]", "9", "2", "5", '2["user:connect"', "4", '2["x",' + "[" * 5000):
            with contextlib.suppress(Exception):
                await hostile.sio.eio.send(frame)
        await asyncio.sleep(0.2)
    async with page(url, STUDENT) as student:
        assert (await student.call("session:create", MAPPING))["ok"]


# Nudges


async def test_nudge__to_pages_that_signed_nothing__unverified_where_they_acknowledge(url: str) -> None:
    async with (
        page(url, STUDENT) as student,
        page(url, TUTOR, acknowledges=False),
        client(url, auth={"token": TOKEN}) as keeper,
    ):
        message = {
            "id": "n1",
            "sessionId": 5,
            "room": "req_1",
            "to": [STUDENT.lower(), TUTOR, STRANGER, "x"],
            "t": "hi",
        }
        answer = await keeper.call("keeper:nudge", message)
        assert student.named("keeper:nudge") == [{"id": "n1", "sessionId": 5, "room": "req_1", "t": "hi"}]
    assert answer == {
        "delivered": [],
        "unverified": [STUDENT],
        "undelivered": {TUTOR: "no-ack", STRANGER: "not-connected", "x": "not-an-address"},
    }


async def test_nudge__in_several_languages__each_page_gets_its_browsers(url: str) -> None:
    """never the lesson's language: by the browser's `Accept-Language`"""
    texts = {"en": "Hello", "de": "Hallo"}
    async with (
        client(url, headers={"Accept-Language": "de-AT,en;q=0.5"}) as student,
        page(url, TUTOR) as tutor,
        client(url, auth={"token": TOKEN}) as keeper,
    ):
        await student.call("user:connect", {"address": STUDENT})
        await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT, TUTOR], "text": "Hello", "texts": texts})
        assert student.named("keeper:nudge") == [{"id": "n1", "text": "Hallo", "locale": "de"}]
        assert tutor.named("keeper:nudge") == [{"id": "n1", "text": "Hello"}]


async def test_nudge__address_bound_by_two_pages__one_acknowledgement_is_enough(url: str) -> None:
    async with (
        page(url, STUDENT) as live,
        page(url, STUDENT, acknowledges=False) as dead,
        client(url, auth={"token": TOKEN}) as keeper,
    ):
        answer = await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT]})
        assert answer == {"delivered": [], "unverified": [STUDENT], "undelivered": {}}
        await until(lambda: live.named("keeper:nudge") and dead.named("keeper:nudge"))


async def test_nudge__page_gone__not_connected(url: str) -> None:
    async with client(url, auth={"token": TOKEN}) as keeper:
        async with page(url, STUDENT):
            pass

        async def answered_gone() -> bool:
            answer = await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT]})
            return answer == {"delivered": [], "unverified": [], "undelivered": {STUDENT: "not-connected"}}

        await until(answered_gone)


async def test_nudge__page_bound_to_another_address_since__not_connected(url: str) -> None:
    async with page(url, STUDENT) as one, client(url, auth={"token": TOKEN}) as keeper:
        await one.call("user:connect", {"address": STRANGER})
        answer = await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT, STRANGER]})
    assert answer == {"delivered": [], "unverified": [STRANGER], "undelivered": {STUDENT: "not-connected"}}


async def test_nudge__without_the_token__refused_and_not_relayed(url: str) -> None:
    async with page(url, STUDENT) as student, client(url) as stranger:
        answer = await stranger.call("keeper:nudge", {"id": "n1", "to": [STUDENT]})
        assert (answer["ok"], answer["reason"]) == (False, "not-the-keeper")
        assert student.events == []


@pytest.mark.parametrize("own", [None, 5, [], "link"])
async def test_nudge__malformed_own_part__refused(url: str, own: Any) -> None:
    async with client(url, auth={"token": TOKEN}) as keeper:
        assert (await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT], "own": own}))["reason"] == "bad-own"


@pytest.mark.parametrize("to", [None, [], "0x", [5], [STUDENT] * 17])
async def test_nudge__malformed_recipients__refused(url: str, to: Any) -> None:
    async with client(url, auth={"token": TOKEN}) as keeper:
        assert (await keeper.call("keeper:nudge", {"id": "n1", "to": to}))["reason"] == "bad-recipients"


async def test_nudge__more_than_ten_a_minute__the_keeper_is_not_limited(url: str) -> None:
    async with page(url, STUDENT), client(url, auth={"token": TOKEN}) as keeper:
        for number in range(15):
            answer = await keeper.call("keeper:nudge", {"id": str(number), "to": [STUDENT]})
            assert answer["unverified"] == [STUDENT]


@pytest.mark.parametrize("auth", [{"token": "wrong"}, {"token": ""}, {"token": 5}, {"token": [TOKEN]}, "text"])
async def test_handshake__wrong_token__connection_refused(url: str, auth: Any) -> None:
    with pytest.raises(socketio.exceptions.ConnectionError):
        async with client(url, auth=auth):
            pass


async def test_handshake__token_given_but_none_configured__connection_refused() -> None:
    async with serving(create_gateway(config(token=None))) as url:
        with pytest.raises(socketio.exceptions.ConnectionError):
            async with client(url, auth={"token": TOKEN}):
                pass
