"""A page's report of its end, `POST /api/webrtc-session-ended`."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aredis

from bot.web.gateway import create_gateway
from tests.support.gateway import (
    HASH,
    MAPPING,
    STRANGER,
    STUDENT,
    TUTOR,
    client,
    config,
    page,
    post,
    record,
)
from tests.support.servers import RedisServer, serving


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
