"""What every request to the bundled backend can count on."""

from __future__ import annotations

import aiohttp
import pytest
from structlog.testing import capture_logs

from bot.web.gateway import create_gateway
from tests.support.gateway import (
    HOOK,
    OPEN,
    SECRET,
    TOKEN,
    client,
    config,
    post,
    record,
    signal,
)
from tests.support.servers import serving


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
            assert (await post(http, url, OPEN, signal("user-connected")))[0] == 202
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
