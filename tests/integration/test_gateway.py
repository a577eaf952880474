"""The bundled backend, served for real and spoken to by real Socket.IO and HTTP clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aredis
import socketio
from structlog.testing import capture_logs

from bot.domain.address import checksum
from bot.domain.facts import Kind, Role, Source, Trust
from bot.errors import Misconfigured
from bot.feeds.record import read_record
from bot.web.gateway import GatewayConfig, create_gateway, serve
from tests.support.servers import RedisServer, free_port, serving, until

STUDENT = checksum("0x94c5" + "a1" * 18)
TUTOR = checksum("0x48c8" + "b2" * 18)
STRANGER = checksum("0x" + "cc" * 20)
TOKEN = "token-shared-with-the-keeper"
SECRET = "secret-of-the-signalling-server"
HASH = "0x" + "ab" * 32
MAPPING = {"requestId": "req_1", "studentAddress": STUDENT.lower(), "tutorAddress": TUTOR.upper(), "languageId": 1}


def config(**changes: Any) -> GatewayConfig:
    short = {"heartbeat_every_s": 0.4, "heartbeat_timeout_s": 1.2, "ack_timeout_s": 0.5}
    return GatewayConfig(**{"bind": "unused", "token": TOKEN, "hook_secret": SECRET, **short, **changes})


class Client:
    """A page, the keeper or a listener: keeps all events, and acknowledges nudges if told so."""

    def __init__(self, acknowledges: bool = True) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.events: list[tuple[str, Any]] = []
        self.acknowledges = acknowledges
        self.sio.on("*", self._any)

    async def _any(self, event: str, *args: Any) -> Any:
        self.events.append((event, args[0] if args else None))
        if event == "keeper:nudge" and not self.acknowledges:
            await asyncio.sleep(30)
        return {"ok": True}

    def named(self, event: str) -> list[Any]:
        return [said for name, said in self.events if name == event]

    async def first(self, event: str, timeout_s: float = 5) -> Any:
        return (await until(lambda: self.named(event), timeout_s))[0]

    async def call(self, event: str, said: Any) -> Any:
        return await self.sio.call(event, said, timeout=10)


@contextlib.asynccontextmanager
async def client(url: str, *, auth: Any = None, acknowledges: bool = True) -> AsyncIterator[Client]:
    one = Client(acknowledges)
    await one.sio.connect(url, auth=auth, wait_timeout=5)
    try:
        yield one
    finally:
        await one.sio.disconnect()


@contextlib.asynccontextmanager
async def page(url: str, address: str, *, acknowledges: bool = True) -> AsyncIterator[Client]:
    async with client(url, acknowledges=acknowledges) as one:
        assert await one.call("user:connect", {"address": address}) == {"ok": True}
        yield one


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serving(create_gateway(config())) as address:
        yield address


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def post(http: aiohttp.ClientSession, url: str, path: str, body: Any) -> tuple[int, Any]:
    async with http.post(url + path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def record(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url + "/api/sessions", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 200
        return {room["room"]: room for room in (await answer.json())["sessions"]}


def signal(kind: str, room: Any = "req_1", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "sessionId": room, **fields}


HOOK = f"/hook/{SECRET}"
OPEN = "/api/webrtc-events"


# Signals in, events out


@pytest.mark.parametrize(("path", "trust"), [(HOOK, "secret"), (OPEN, "anonymous")])
async def test_session_ended__posted__emitted_as_documented_with_its_trust(
    url: str, http: aiohttp.ClientSession, path: str, trust: str
) -> None:
    async with client(url) as listener:
        lesson = {"studentAddress": STUDENT.lower(), "tutorAddress": TUTOR}
        body = signal("session-ended", endedBy="student", userAddress=STUDENT, session=lesson, reason="hangup")
        assert await post(http, url, path, body) == (200, {"ok": True})
        said = await listener.first("webrtc:session-ended")
    said.pop("timestamp")
    assert said == {
        "sessionId": "req_1",
        "tutorAddress": TUTOR,
        "studentAddress": STUDENT,
        "endedBy": "student",
        "reason": "hangup",
        "trust": trust,
    }


async def test_session_ended__without_addresses__filled_in_from_the_mapping(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
        await post(http, url, HOOK, signal("session-ended"))
        said = await student.first("webrtc:session-ended")
    assert (said["studentAddress"], said["tutorAddress"], said["endedBy"]) == (STUDENT, TUTOR, "user")


async def test_session_ended__anonymous_with_other_addresses__the_mappings_are_emitted(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with page(url, STUDENT) as student:
        await student.call("session:create", MAPPING)
        await post(http, url, OPEN, signal("session-ended", studentAddress=STRANGER, tutorAddress=STRANGER))
        said = await student.first("webrtc:session-ended")
    assert (said["studentAddress"], said["tutorAddress"], said["trust"]) == (STUDENT, TUTOR, "anonymous")


async def test_user_disconnected__posted__emitted_at_once_as_connection_lost(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with client(url) as listener:
        await post(http, url, HOOK, signal("user-disconnected", userRole="student", reason="connection-closed"))
        said = await listener.first("webrtc:user-disconnected", timeout_s=1)
    assert (said["sessionId"], said["disconnectedUser"], said["reason"]) == ("req_1", "student", "connection-lost")
    assert said["trust"] == "secret"


async def test_user_connected__posted_without_role__emitted_as_user(url: str, http: aiohttp.ClientSession) -> None:
    async with client(url) as listener:
        await post(http, url, HOOK, signal("user-connected"))
        said = await listener.first("webrtc:user-connected")
    assert (said["sessionId"], said["userRole"], said["trust"]) == ("req_1", "user", "secret")


async def test_heartbeats__many_at_once__coalesced_and_none_lost(url: str, http: aiohttp.ClientSession) -> None:
    async with client(url) as listener:
        for _ in range(12):
            await post(http, url, HOOK, signal("session-heartbeat"))
        await until(lambda: sum(beat["count"] for beat in listener.named("webrtc:session-heartbeat")) == 12)
        beats = listener.named("webrtc:session-heartbeat")
    assert len(beats) <= 4
    assert {beat["sessionId"] for beat in beats} == {"req_1"}
    assert {beat["trust"] for beat in beats} == {"secret"}


async def test_heartbeats__a_series_stops__timeout_once_until_life_returns(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with client(url) as listener:
        for _ in range(3):
            await post(http, url, HOOK, signal("session-heartbeat"))
        said = await listener.first("webrtc:heartbeat-timeout")
        await asyncio.sleep(1.5)
        assert len(listener.named("webrtc:heartbeat-timeout")) == 1
        await post(http, url, HOOK, signal("session-heartbeat"))
        await until(lambda: len(listener.named("webrtc:heartbeat-timeout")) == 2)
    assert set(said) == {"sessionId", "lastHeartbeat", "timeoutDuration", "trust"}
    assert (said["sessionId"], said["timeoutDuration"], said["trust"]) == ("req_1", 1200, "secret")


async def test_heartbeats__fewer_than_a_series__no_timeout(url: str, http: aiohttp.ClientSession) -> None:
    async with client(url) as listener:
        for _ in range(2):
            await post(http, url, HOOK, signal("session-heartbeat"))
        await asyncio.sleep(1.8)
        assert listener.named("webrtc:heartbeat-timeout") == []


async def test_heartbeats__stop_after_the_end__no_timeout(url: str, http: aiohttp.ClientSession) -> None:
    async with client(url) as listener:
        for _ in range(3):
            await post(http, url, HOOK, signal("session-heartbeat"))
        await post(http, url, HOOK, signal("session-ended"))
        await asyncio.sleep(1.8)
        assert listener.named("webrtc:heartbeat-timeout") == []


async def test_heartbeats__anonymous_ones_go_on__do_not_hide_that_the_real_ones_stopped(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with client(url) as listener:
        for _ in range(3):
            await post(http, url, HOOK, signal("session-heartbeat"))
        for _ in range(10):
            await post(http, url, OPEN, signal("session-heartbeat"))
            await asyncio.sleep(0.2)
        assert (await listener.first("webrtc:heartbeat-timeout"))["trust"] == "secret"


async def test_heartbeats__anonymous_end__does_not_hide_that_the_real_ones_stopped(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with client(url) as listener:
        for _ in range(3):
            await post(http, url, HOOK, signal("session-heartbeat"))
        await post(http, url, OPEN, signal("session-ended"))
        assert (await listener.first("webrtc:heartbeat-timeout"))["trust"] == "secret"


# A page's report of its end


async def test_page_end__by_a_participant__emitted_as_anonymous_and_mapping_cleaned(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    async with serving(create_gateway(config(redis_url=redis_server.url))) as url, page(url, STUDENT) as student:
        store = aredis.from_url(redis_server.url)
        assert (await student.call("session:create", {**MAPPING, "requestId": "req_end"}))["ok"]
        assert await store.exists("session:req_end")
        body = {"sessionId": "req_end", "userAddress": STUDENT.lower(), "transactionHash": HASH}
        assert await post(http, url, "/api/webrtc-session-ended", body) == (200, {"ok": True})
        said = await student.first("session:ended")
        assert not await store.exists("session:req_end")
        await store.aclose()
    assert (said["sessionId"], said["transactionHash"], said["trust"]) == ("req_end", HASH, "anonymous")
    assert (said["endedBy"], said["tutorAddress"]) == (STUDENT, TUTOR)


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


# Pages


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


async def test_nudge__to_two_pages__delivered_to_those_that_acknowledge(url: str) -> None:
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
        "delivered": [STUDENT],
        "undelivered": {TUTOR: "no-ack", STRANGER: "not-connected", "x": "not-an-address"},
    }


async def test_nudge__address_bound_by_two_pages__one_acknowledgement_is_enough(url: str) -> None:
    async with (
        page(url, STUDENT) as live,
        page(url, STUDENT, acknowledges=False) as dead,
        client(url, auth={"token": TOKEN}) as keeper,
    ):
        answer = await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT]})
        assert answer == {"delivered": [STUDENT], "undelivered": {}}
        await until(lambda: live.named("keeper:nudge") and dead.named("keeper:nudge"))


async def test_nudge__page_gone__not_connected(url: str) -> None:
    async with client(url, auth={"token": TOKEN}) as keeper:
        async with page(url, STUDENT):
            pass

        async def answered_gone() -> bool:
            answer = await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT]})
            return answer == {"delivered": [], "undelivered": {STUDENT: "not-connected"}}

        await until(answered_gone)


async def test_nudge__page_bound_to_another_address_since__not_connected(url: str) -> None:
    async with page(url, STUDENT) as one, client(url, auth={"token": TOKEN}) as keeper:
        await one.call("user:connect", {"address": STRANGER})
        answer = await keeper.call("keeper:nudge", {"id": "n1", "to": [STUDENT, STRANGER]})
    assert answer == {"delivered": [STRANGER], "undelivered": {STUDENT: "not-connected"}}


async def test_nudge__without_the_token__refused_and_not_relayed(url: str) -> None:
    async with page(url, STUDENT) as student, client(url) as stranger:
        answer = await stranger.call("keeper:nudge", {"id": "n1", "to": [STUDENT]})
        assert (answer["ok"], answer["reason"]) == (False, "not-the-keeper")
        assert student.events == []


@pytest.mark.parametrize("to", [None, [], "0x", [5], [STUDENT] * 17])
async def test_nudge__malformed_recipients__refused(url: str, to: Any) -> None:
    async with client(url, auth={"token": TOKEN}) as keeper:
        assert (await keeper.call("keeper:nudge", {"id": "n1", "to": to}))["reason"] == "bad-recipients"


async def test_nudge__more_than_ten_a_minute__the_keeper_is_not_limited(url: str) -> None:
    async with page(url, STUDENT), client(url, auth={"token": TOKEN}) as keeper:
        for number in range(15):
            answer = await keeper.call("keeper:nudge", {"id": str(number), "to": [STUDENT]})
            assert answer["delivered"] == [STUDENT]


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


# The record


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


# HTTP manners


@pytest.mark.parametrize("path", [HOOK, OPEN])
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not-json"),
        (b"{", 400, "not-json"),
        (b"\xff\xfe", 400, "not-json"),
        (b'{"type":"session-ended","sessionId":NaN}', 400, "not-json"),
        (b"[" * 16_000, 400, "not-json"),
        (b"[]", 400, "not-an-object"),
        (b'{"type":"session-started","sessionId":"r"}', 400, "unknown-type"),
        (b'{"type":"session-ended"}', 400, "no-session-id"),
        (b'{"type":"session-ended","sessionId":"r","x":"' + b"y" * 17_000 + b'"}', 413, "oversized"),
    ],
)
async def test_post__malformed__problem_details_and_no_change(
    url: str, http: aiohttp.ClientSession, path: str, body: bytes, status: int, reason: str
) -> None:
    async with client(url) as listener:
        async with http.post(url + path, data=body) as answer:
            assert (answer.status, answer.content_type) == (status, "application/problem+json")
            assert (await answer.json(content_type=None))["reason"] == reason
        assert listener.events == []
    assert await record(http, url) == {}


async def test_hook__wrong_secret__answers_like_any_unknown_path(url: str, http: aiohttp.ClientSession) -> None:
    with capture_logs() as logs:
        wrong = await post(http, url, "/hook/wrong", signal("session-ended"))
        unknown = await post(http, url, "/nothing/here", signal("session-ended"))
    assert wrong == unknown
    assert wrong[0] == 404
    assert SECRET not in str(logs)
    assert await record(http, url) == {}


async def test_limit__requests_of_one_address__429_with_retry_after_except_with_a_secret(
    http: aiohttp.ClientSession,
) -> None:
    async with serving(create_gateway(config(http_requests_per_minute=5))) as url:
        for _ in range(5):
            assert (await post(http, url, OPEN, signal("user-connected")))[0] == 200
        async with http.post(url + OPEN, json=signal("user-connected")) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 12
        for _ in range(10):
            assert (await post(http, url, HOOK, signal("user-connected")))[0] == 200
        assert (await record(http, url))["req_1"]
        async with http.get(url + "/health") as answer:
            assert answer.status == 200


async def test_health__after_some_traffic__counts_without_secrets(url: str, http: aiohttp.ClientSession) -> None:
    async with client(url):
        await post(http, url, HOOK, signal("session-ended"))
        await post(http, url, HOOK, {"type": "nonsense"})
        async with http.get(url + "/health") as answer:
            health = await answer.json()
            text = await answer.text()
    assert (health["ok"], health["rooms"], health["sockets"], health["mappings"]) == (True, 1, 1, "memory")
    assert (health["counters"]["ended"], health["counters"]["refused"]) == (1, 1)
    assert SECRET not in text
    assert TOKEN not in text


async def test_pages_of_other_origins__may_post(url: str, http: aiohttp.ClientSession) -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with http.options(url + "/api/webrtc-session-ended", headers=asks) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


# Redis and life


async def test_redis__killed_and_back__the_gateway_goes_on_and_stores_again(http: aiohttp.ClientSession) -> None:
    with RedisServer() as server:
        async with serving(create_gateway(config(redis_url=server.url))) as url, page(url, STUDENT) as student:
            server.stop()
            assert (await student.call("session:create", MAPPING))["ok"]
            await post(http, url, HOOK, signal("session-ended"))
            said = await student.first("webrtc:session-ended")
            assert said["tutorAddress"] == TUTOR
            server.start()
            store = aredis.from_url(server.url)

            async def stored() -> bool:
                async with http.get(url + "/health") as answer:
                    return (await answer.json())["mappings"] == "redis"

            await until(stored, timeout_s=10, every_s=0.2)
            assert (await student.call("session:create", {**MAPPING, "requestId": "req_2"}))["ok"]
            assert await store.exists("session:req_2")
            await store.aclose()


async def test_redis__mapping_of_another_backend__fills_in_addresses(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    store = aredis.from_url(redis_server.url)
    await store.hset("session:req_else", mapping={"studentAddress": STUDENT.lower(), "tutorAddress": TUTOR.lower()})
    await store.aclose()
    async with serving(create_gateway(config(redis_url=redis_server.url))) as url, client(url) as listener:
        await post(http, url, HOOK, signal("session-ended", "req_else"))
        said = await listener.first("webrtc:session-ended")
    assert (said["studentAddress"], said["tutorAddress"]) == (STUDENT, TUTOR)


async def test_serve__until_cancelled__listens_and_lets_go_of_the_port(http: aiohttp.ClientSession) -> None:
    port = free_port()
    ready = asyncio.Event()
    task = asyncio.create_task(serve(config(bind=f"127.0.0.1:{port}"), on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    async with client(f"http://127.0.0.1:{port}"):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with serving(create_gateway(config()), port=port):
        pass


async def test_serve__port_taken__misconfigured_names_the_setting() -> None:
    async with serving(create_gateway(config())) as url:
        with pytest.raises(Misconfigured, match="GATEWAY_BIND"):
            await serve(config(bind=url.removeprefix("http://")))


def test_config__repr__shows_no_secret() -> None:
    text = repr(config(redis_url="redis://:hunter2@127.0.0.1/0"))
    assert TOKEN not in text
    assert SECRET not in text
    assert "hunter2" not in text
