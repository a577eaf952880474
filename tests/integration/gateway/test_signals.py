"""What is posted, and what everybody hears of it."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.support.gateway import (
    HOOK,
    MAPPING,
    OPEN,
    STRANGER,
    STUDENT,
    TUTOR,
    client,
    page,
    post,
    signal,
)
from tests.support.servers import until


@pytest.mark.parametrize(("path", "trust"), [(HOOK, "secret"), (OPEN, "anonymous")])
async def test_session_ended__posted__emitted_as_documented_with_its_trust(
    url: str, http: aiohttp.ClientSession, path: str, trust: str
) -> None:
    async with client(url) as listener:
        lesson = {"studentAddress": STUDENT.lower(), "tutorAddress": TUTOR}
        body = signal("session-ended", endedBy="student", userAddress=STUDENT, session=lesson, reason="hangup")
        status, answer = await post(http, url, path, body)
        assert (status, answer["ok"]) == (200 if path == HOOK else 202, True)
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
