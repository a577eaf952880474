"""What every request to the bundled backend can count on."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from bot.web.gateway import create_gateway
from bot.web.gateway.events import Hub
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


def headers(answer: aiohttp.ClientResponse) -> dict[str, int]:
    return {name: int(answer.headers[f"RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset")}


async def test_limit__requests_of_one_address__told_in_headers_and_429_except_with_a_secret(
    http: aiohttp.ClientSession,
) -> None:
    """every answer to a limited request carries RateLimit-Policy, -Limit, -Remaining and -Reset"""
    async with serving(create_gateway(config(http_requests_per_minute=5))) as url:
        for remaining in (4, 3, 2, 1, 0):
            async with http.post(url + OPEN, json=signal("user-connected")) as answer:
                assert (answer.status, answer.headers["RateLimit-Policy"]) == (202, "5;w=60")
                assert headers(answer) == {"Limit": 5, "Remaining": remaining, "Reset": 60 - 12 * remaining}
        for method, path in (
            ("POST", OPEN),
            ("GET", "/api/sessions/1"),
            ("GET", "/nothing/here"),
            ("POST", "/hook/no"),
        ):
            async with http.request(method, url + path) as answer:
                assert (answer.status, answer.content_type) == (429, "application/problem+json")
                assert (await answer.json(content_type=None))["reason"] == "limited"
                assert 1 <= int(answer.headers["Retry-After"]) <= 12
                assert (headers(answer)["Limit"], headers(answer)["Remaining"]) == (5, 0)
        for _ in range(10):
            async with http.post(url + HOOK, json=signal("user-connected")) as answer:
                assert answer.status == 200
                assert "RateLimit-Limit" not in answer.headers
        assert (await record(http, url))["req_1"]
        async with http.get(url + "/health") as answer:
            assert (answer.status, (await answer.json())["counters"]["limited"]) == (200, 4)


async def test_limit__page_of_another_origin__may_read_the_headers(url: str, http: aiohttp.ClientSession) -> None:
    async with http.get(url + "/api/sessions/1", headers={"Origin": "https://app.example"}) as answer:
        assert {"RateLimit-Remaining", "Retry-After"} <= set(
            answer.headers["Access-Control-Expose-Headers"].split(", ")
        )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing/here", 404), ("PUT", OPEN, 405), ("GET", HOOK, 405), ("POST", "/api/sessions/", 404)],
)
async def test_errors__whatever_they_are__problem_details(
    url: str, http: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with http.request(method, url + path) as answer:
        said = await answer.json(content_type=None)
        assert (answer.status, answer.content_type, said["status"]) == (status, "application/problem+json", status)


async def test_errors__of_the_gateways_own__500_as_problem_details_that_tell_nothing(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(Hub, "take", broken)
    async with serving(create_gateway(config())) as url:
        async with http.post(url + HOOK, json=signal("user-connected")) as answer:
            assert (answer.status, answer.content_type) == (500, "application/problem+json")
            assert "hunter2" not in await answer.text()


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
