"""The socket feed against real Socket.IO servers: our gateway, and plain ones that speak the observed dialect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import socketio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from structlog.testing import capture_logs

from bot.domain.address import checksum
from bot.domain.facts import Hint, Kind, Source, Trust
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.record import read_record
from bot.feeds.socket import SocketFeed
from bot.web.gateway import GatewayConfig, create_gateway
from tests.support.servers import HANGS_S, free_port, npm_server, serving, until

STUDENT = checksum("0x94c5" + "a1" * 18)
TUTOR = checksum("0x48c8" + "b2" * 18)
TOKEN = "token-shared-with-the-keeper"
SECRET = "secret-of-the-signalling-server"
READY = {"requestId": "req_1", "sessionId": "req_1", "studentAddress": STUDENT, "tutorAddress": TUTOR, "languageId": 1}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Plain:
    """A plain Socket.IO server, as the observed backends are: no record, no nudges, no authentication."""

    def __init__(self) -> None:
        self.server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
        self.auth: list[Any] = []
        self.server.on("connect", self._connect)
        self.app = socketio.ASGIApp(self.server)

    async def _connect(self, sid: str, environ: Any, auth: Any = None) -> None:
        self.auth.append(auth)

    async def say(self, event: str, said: Any = None) -> None:
        await self.server.emit(event, said)


class Heard:
    """A running feed and all that came of it."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self.states: list[bool] = []
        self.returns = 0
        self.feed: SocketFeed

    def saw_return(self) -> None:
        self.returns += 1

    async def kinds(self, *kinds: Kind) -> list[Hint]:
        await until(lambda: len(self.hints) >= len(kinds))
        assert [hint.kind for hint in self.hints] == list(kinds)
        return self.hints


@contextlib.asynccontextmanager
async def listening(url: str, *, wait: bool = True, **options: Any) -> AsyncIterator[Heard]:
    heard = Heard()
    heard.feed = SocketFeed(
        url,
        heard.hints.append,
        on_state=heard.states.append,
        on_can_return=heard.saw_return,
        clock_ms=now_ms,
        first_delay_s=0.05,
        max_delay_s=0.2,
        **options,
    )
    task = asyncio.create_task(heard.feed.run())
    try:
        if wait:
            await until(lambda: heard.feed.up)
        yield heard
    finally:
        await heard.feed.close()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def plain() -> Plain:
    return Plain()


@pytest.fixture
async def gateway() -> AsyncIterator[str]:
    config = GatewayConfig(bind="unused", token=TOKEN, hook_secret=SECRET, heartbeat_every_s=0.3, ack_timeout_s=0.5)
    async with serving(create_gateway(config)) as url:
        yield url


async def post(url: str, path: str, **body: Any) -> None:
    async with aiohttp.ClientSession() as http, http.post(url + path, json=body) as answer:
        assert answer.status in (200, 202)  # 202: taken, and not held against the chain


HOOK = f"/hook/{SECRET}"


async def test_run__observed_dialect__hints_in_order_with_the_sockets_trust(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        before_ms = now_ms()
        await plain.say("session:ready", READY)
        await plain.say("session:ended", {"sessionId": 5, "tutorAddress": TUTOR, "endedBy": "tutor"})
        ready, ended = await heard.kinds(Kind.READY, Kind.ENDED)
    assert (ready.room, ready.student, ready.tutor, ready.source) == ("req_1", STUDENT, TUTOR, Source.SOCKET)
    assert (ended.session_id, ended.trust) == (5, Trust.CONFIGURED)
    assert before_ms <= ready.received_ms <= ended.received_ms <= now_ms()


async def test_run__documented_dialect__all_three_events(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        await plain.say("webrtc:user-disconnected", {"sessionId": "r", "disconnectedUser": "tutor"})
        await plain.say("webrtc:heartbeat-timeout", {"sessionId": "r", "lastHeartbeat": 1, "timeoutDuration": 2})
        await plain.say("webrtc:session-ended", {"sessionId": "r", "endedBy": "student"})
        await heard.kinds(Kind.DISCONNECTED, Kind.TIMEOUT, Kind.ENDED)
        assert heard.feed.counters["received"] == 3


async def test_run__five_hundred_events_at_once__all_taken_in_order(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        for number in range(500):
            await plain.say("session:ready", {**READY, "sessionId": f"req_{number}"})
        await until(lambda: len(heard.hints) == 500)
    assert [hint.room for hint in heard.hints] == [f"req_{number}" for number in range(500)]


async def test_run__chatter__counted_and_ignored(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        for name in ("student:in-room", "chat:message", "tutor:available-updated", "*"):
            await plain.say(name, {"sessionId": "r"})
        await until(lambda: heard.feed.counters["ignored"] == 4)
        assert (heard.hints, heard.feed.counters["refused"]) == ([], 0)


@pytest.mark.parametrize(
    "said",
    [
        None,
        5,
        "text",
        [],
        {},
        {"sessionId": None},
        {"sessionId": []},
        {"sessionId": True},
        {"sessionId": "x" * 201},
        {"sessionId": "r", "x": "y" * 17_000},
        {"sessionId": "r", "x": b"binary"},
        (1, 2, 3),
    ],
)
async def test_run__malformed_event__counted_and_logged_and_the_next_one_is_taken(plain: Plain, said: Any) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        with capture_logs() as logs:
            await plain.say("session:ended", said)
            await plain.say("session:ready", READY)
            await heard.kinds(Kind.READY)
        assert heard.feed.counters["refused"] == 1
    (line,) = [line for line in logs if line["event"] == "socket.refused"]
    assert line["said"] == "session:ended"
    assert line["reason"]


async def test_run__backend_down_at_start__connects_when_it_comes(plain: Plain) -> None:
    port = free_port()
    async with listening(f"http://127.0.0.1:{port}", wait=False) as heard:
        await until(lambda: heard.feed.counters["failed"] >= 2)
        assert heard.states == []
        async with serving(plain.app, port):
            await until(lambda: heard.feed.up)
            assert heard.states == [True]


async def test_run__backend_restarts__state_goes_down_and_up_and_events_come_again() -> None:
    port = free_port()
    async with serving(Plain().app, port) as url:
        running = listening(url)
        heard = await running.__aenter__()
    try:
        await until(lambda: not heard.feed.up)
        again = Plain()
        async with serving(again.app, port):
            await until(lambda: heard.feed.up)
            await again.say("session:ready", READY)
            await heard.kinds(Kind.READY)
            assert heard.states == [True, False, True]
            assert heard.feed.counters["connects"] == 2
    finally:
        await running.__aexit__(None, None, None)


async def test_run__server_disconnects_politely__connects_again(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        for sid, _ in list(plain.server.manager.get_participants("/", None)):
            await plain.server.disconnect(sid)
        await until(lambda: heard.feed.counters["connects"] == 2)
        await until(lambda: heard.feed.up)
        await plain.say("session:ready", READY)
        await heard.kinds(Kind.READY)


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_run__no_socketio_server_there__keeps_trying(status: int) -> None:
    app = FastAPI()

    @app.get("/socket.io/")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>hello", status)

    async with serving(app) as url, listening(url, wait=False) as heard:
        await until(lambda: heard.feed.counters["failed"] >= 3)
        assert heard.states == []


async def test_run__server_stops_answering_pings__noticed_and_connected_again() -> None:
    server = socketio.AsyncServer(async_mode="asgi", ping_interval=0.3, ping_timeout=0.3)
    async with serving(socketio.ASGIApp(server)) as url, listening(url) as heard:
        for one in list(server.eio.sockets.values()):
            one.schedule_ping = lambda: None  # it goes on living, but pings no more
        await until(lambda: heard.states[:2] == [True, False])
        await until(lambda: heard.feed.counters["connects"] >= 2)


@pytest.mark.parametrize(("token", "auth"), [(TOKEN, {"token": TOKEN}), (None, None)])
async def test_run__token__is_the_handshakes_auth(plain: Plain, token: str | None, auth: Any) -> None:
    async with serving(plain.app) as url, listening(url, token=token):
        assert plain.auth == [auth]


async def test_run__auth_and_headers__are_in_the_handshake(plain: Plain) -> None:
    given = {"auth": {"user": "keeper"}, "headers": {"X-Api-Key": "hunter2"}}
    with capture_logs() as logs:
        async with serving(plain.app) as url, listening(url, token=TOKEN, **given):
            assert plain.auth == [{"user": "keeper", "token": TOKEN}]
            [environ] = [plain.server.get_environ(sid) for sid, _ in plain.server.manager.get_participants("/", None)]
            assert environ["HTTP_X_API_KEY"] == "hunter2"
    assert "hunter2" not in str(logs)


async def test_run__names_are_configured__heard_beside_the_others(plain: Plain) -> None:
    """Names are configuration, and both dialects are on by default."""
    events = wire.events_with({"call:over": "ended", "session:ready": ""})
    async with serving(plain.app) as url, listening(url, events=events) as heard:
        await plain.server.emit("session:ready", {"sessionId": "req_1"})
        await plain.server.emit("call:over", {"requestId": "req_2", "endedBy": "student"})
        await plain.server.emit("webrtc:session-ended", {"sessionId": "req_3"})
        hints = await heard.kinds(Kind.ENDED, Kind.ENDED)
    assert [hint.room for hint in hints] == ["req_2", "req_3"]
    assert heard.feed.counters["ignored"] == 1


async def test_run__connection_lost__is_counted(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        for sid, _ in list(plain.server.manager.get_participants("/", None)):
            await plain.server.disconnect(sid)
        await until(lambda: heard.feed.counters["connects"] == 2)
        assert heard.feed.counters["lost"] == 1


async def test_emit__more_than_the_backend_allows__held_back(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url, emits_per_minute=1) as heard:
        await heard.feed.emit("chat:message", {"message": "hello"})
        for say in (heard.feed.emit("chat:message", {}), heard.feed.call("keeper:nudge", {}, 0.2)):
            with pytest.raises(TryAgain):
                await say
        assert heard.feed.counters["held_back"] == 2


async def test_run__wrong_token_at_the_gateway__stays_down_and_the_log_has_no_token(gateway: str) -> None:
    with capture_logs() as logs:
        async with listening(gateway, wait=False, token="hunter2") as heard:
            await until(lambda: heard.feed.counters["failed"] >= 2)
            assert True not in heard.states
    assert "hunter2" not in str(logs)


async def test_run__url_with_credentials__only_scheme_and_host_are_logged() -> None:
    with capture_logs() as logs:
        async with listening(f"http://user:hunter2@127.0.0.1:{free_port()}/?k=hunter2", wait=False) as heard:
            await until(lambda: heard.feed.counters["failed"] >= 1)
    assert "hunter2" not in str(logs)


async def test_can_return__before_and_after_the_first_return__loss_can_be_taken_back_only_after(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        await plain.say("webrtc:user-disconnected", {"sessionId": "r"})
        await plain.say("webrtc:user-connected", {"sessionId": "r"})
        await plain.say("webrtc:user-connected", {"sessionId": "r"})
        await plain.say("webrtc:user-disconnected", {"sessionId": "r"})
        hints = await heard.kinds(Kind.DISCONNECTED, Kind.CONNECTED, Kind.CONNECTED, Kind.DISCONNECTED)
        assert [hint.can_return for hint in hints] == [False, False, False, True]
        assert heard.returns == 1


async def test_can_return__remembered_from_earlier__from_the_first_event_on(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url, can_return=True) as heard:
        await plain.say("webrtc:user-disconnected", {"sessionId": "r"})
        await plain.say("webrtc:user-connected", {"sessionId": "r"})
        hints = await heard.kinds(Kind.DISCONNECTED, Kind.CONNECTED)
        assert (hints[0].can_return, heard.returns) == (True, 0)


# With the gateway


async def test_gateway__signals_with_and_without_the_secret__trust_is_the_posts(gateway: str) -> None:
    async with listening(gateway, token=TOKEN) as heard:
        await post(gateway, HOOK, type="user-connected", sessionId="req_1", userRole="student")
        await post(gateway, HOOK, type="session-heartbeat", sessionId="req_1")
        await post(gateway, "/api/webrtc-events", type="session-ended", sessionId="req_1", endedBy="tutor")
        hints = await heard.kinds(Kind.CONNECTED, Kind.HEARTBEAT, Kind.ENDED)
        assert [hint.trust for hint in hints] == [Trust.CONFIGURED, Trust.CONFIGURED, Trust.ANONYMOUS]


async def test_call__page_acknowledges__answer_is_the_gateways(gateway: str) -> None:
    page = socketio.AsyncClient()

    async def nudged(said: Any) -> dict[str, bool]:
        return {"ok": True}

    page.on("keeper:nudge", nudged)
    await page.connect(gateway)
    await page.call("user:connect", {"address": STUDENT})
    async with listening(gateway, token=TOKEN) as heard:
        answer = await heard.feed.call(
            "keeper:nudge", {"id": "n1", "sessionId": 5, "room": "r", "to": [STUDENT, TUTOR]}, 5
        )
    await page.disconnect()
    assert answer == {"delivered": [], "unverified": [STUDENT], "undelivered": {TUTOR: "not-connected"}}


async def test_call__never_connected__try_again() -> None:
    def ignore(_: Any) -> None:
        pass

    feed = SocketFeed(f"http://127.0.0.1:{free_port()}", ignore, on_state=ignore, clock_ms=now_ms)
    with pytest.raises(TryAgain):
        await feed.call("keeper:nudge", {"id": "n1"}, 1)
    with pytest.raises(TryAgain):
        await feed.emit("chat:message", {})


async def test_call__backend_that_never_acknowledges__nothing_after_the_timeout(plain: Plain) -> None:
    async with serving(plain.app) as url, listening(url) as heard:
        async with asyncio.timeout(HANGS_S):
            assert await heard.feed.call("keeper:nudge", {"id": "n1"}, 0.3) is None


async def test_call__connection_lost_meanwhile__nothing_at_once(plain: Plain) -> None:
    async def hang_up(sid: str, said: Any) -> None:
        await plain.server.disconnect(sid)
        await asyncio.sleep(2 * HANGS_S)

    plain.server.on("keeper:nudge", hang_up)
    async with serving(plain.app) as url, listening(url) as heard, asyncio.timeout(HANGS_S):
        assert await heard.feed.call("keeper:nudge", {"id": "n1"}, 2 * HANGS_S) is None


async def test_close__while_trying_to_connect__ends_at_once() -> None:
    async with listening(f"http://127.0.0.1:{free_port()}", wait=False) as heard:
        await until(lambda: heard.feed.counters["failed"] >= 1)
        async with asyncio.timeout(HANGS_S):
            await heard.feed.close()
            await heard.feed.close()


# The server that the observed backends use


async def test_run__npm_server_killed_and_started_again__heard_both_times() -> None:
    port = free_port()
    async with listening(f"http://127.0.0.1:{port}", wait=False) as heard:
        async with npm_server(port):
            ready, ended = await heard.kinds(Kind.READY, Kind.ENDED)
            assert (ready.room, ended.session_id, ended.role) == ("req_1", 5, None)
        await until(lambda: not heard.feed.up)
        async with npm_server(port):
            await until(lambda: len(heard.hints) == 4)
            assert await heard.feed.call("keeper:nudge", {"id": "n1"}, 0.3) is None
        assert heard.feed.counters["ignored"] == 2


# The record of strange backends


def record_app(answer: Callable[[], Any]) -> FastAPI:
    app = FastAPI()

    @app.get("/api/sessions")
    async def sessions() -> Any:
        return answer()

    return app


async def test_read_record__plain_backend__empty(plain: Plain) -> None:
    async with serving(plain.app) as url:
        assert await read_record(url, TOKEN) == []


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_read_record__backend_cannot_just_now__try_again(status: int) -> None:
    async with serving(record_app(lambda: JSONResponse({}, status))) as url:
        with pytest.raises(TryAgain):
            await read_record(url, TOKEN)


async def test_read_record__backend_down__try_again() -> None:
    with pytest.raises(TryAgain):
        await read_record(f"http://127.0.0.1:{free_port()}", TOKEN)


@pytest.mark.parametrize(
    "body",
    [[], "text", None, {}, {"sessions": None}, {"sessions": {}}, {"sessions": [None, 5, [], "x", {}, {"room": []}]}],
)
async def test_read_record__another_shape__empty(body: Any) -> None:
    async with serving(record_app(lambda: JSONResponse(body))) as url:
        assert await read_record(url, TOKEN) == []


async def test_read_record__page_of_html__empty() -> None:
    async with serving(record_app(lambda: HTMLResponse("<p>hello"))) as url:
        assert await read_record(url, TOKEN) == []


async def test_read_record__odd_entries_in_a_room__the_rest_is_read() -> None:
    room = {
        "room": "req_1",
        "studentAddress": STUDENT,
        "tutorAddress": 5,
        "trust": None,
        "away": [None, {"role": "tutor", "at": "x"}],
        "here": "nobody",
        "beats": [{"last": None}, 7],
        "ended": {"at": None, "endedBy": 5},
    }
    async with serving(record_app(lambda: JSONResponse({"now": "x", "sessions": [room]}))) as url:
        hints = await read_record(url, TOKEN)
    assert [hint.kind for hint in hints] == [Kind.READY, Kind.DISCONNECTED, Kind.ENDED]
    assert {hint.trust for hint in hints} == {Trust.ANONYMOUS}


async def test_read_record__backends_clock_is_off__heartbeat_keeps_its_age() -> None:
    off_ms = now_ms() - 3_600_000
    beats = [{"trust": "secret", "count": 9, "first": off_ms - 90_000, "last": off_ms - 7_000}]
    room = {"room": "req_1", "trust": "secret", "beats": beats, "ended": None}
    async with serving(record_app(lambda: JSONResponse({"now": off_ms, "sessions": [room]}))) as url:
        _, beat = await read_record(url, TOKEN, clock_ms=lambda: 1_790_000_000_000)
    assert (beat.kind, beat.received_ms) == (Kind.HEARTBEAT, 1_790_000_000_000 - 7_000)
