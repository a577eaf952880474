"""The keeper's own webhook, served for real."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from bot.domain.facts import Hint, Kind, Source, Trust
from bot.errors import Misconfigured, TryAgain
from bot.feeds.posts import Limiter
from bot.feeds.webhook import secret_in, webhook_routes
from tests.support.servers import serving

SECRET = "secret-of-the-signalling-server"
NOW_MS = 1_790_000_000_000
ENDED = {"type": "session-ended", "sessionId": "req_1", "endedBy": "student"}
HOOK = f"/hook/{SECRET}"
OPEN = "/api/webrtc-events"


class Keeper:
    """The webhook and what came in by it."""

    def __init__(
        self, open_to_all: bool = False, open_posts_per_minute: int = 100, *, by_framework: bool = False
    ) -> None:
        self.stored: list[Hint] = []
        self.posts = 0
        self.counters: Counter[str] = Counter()
        self.failure: Exception | None = None
        routes = webhook_routes(
            self._store,
            secret=SECRET,
            open_to_all=open_to_all,
            clock_ms=lambda: NOW_MS,
            on_post=self._on_post,
            counters=self.counters,
            open_posts_per_minute=open_posts_per_minute,
        )
        framework = FastAPI()
        framework.include_router(routes)
        self.app = framework if by_framework else routes.direct(framework)

    async def _store(self, hint: Hint) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.stored.append(hint)

    def _on_post(self) -> None:
        self.posts += 1


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(http: aiohttp.ClientSession, url: str, **body: Any) -> tuple[int, Any]:
    async with http.post(url, **body) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        ("session-ended", Kind.ENDED),
        ("user-disconnected", Kind.DISCONNECTED),
        ("session-heartbeat", Kind.HEARTBEAT),
        ("user-connected", Kind.CONNECTED),
    ],
)
async def test_hook__each_type__stored_before_it_is_answered(
    http: aiohttp.ClientSession, named: str, kind: Kind
) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        answer = await post(http, url + HOOK, json={"type": named, "sessionId": "req_1"})
        (hint,) = keeper.stored
    assert answer == (200, {"ok": True})
    assert (hint.kind, hint.source, hint.trust, hint.received_ms) == (kind, Source.WEBHOOK, Trust.CONFIGURED, NOW_MS)
    assert (keeper.posts, keeper.counters) == (1, {"received": 1})


@pytest.mark.parametrize("body", [ENDED, {"type": "nonsense"}, []], ids=["hint", "refused", "no-object"])
async def test_hook__both_ways_to_it__answer_the_same(http: aiohttp.ClientSession, body: Any) -> None:
    answers = []
    for by_framework in (True, False):
        keeper = Keeper(by_framework=by_framework)
        async with serving(keeper.app) as url:
            answers.append((await post(http, url + HOOK, json=body), keeper.counters, keeper.posts))
    assert answers[0] == answers[1]


async def test_hook__wrong_secret__answers_like_any_unknown_path_and_is_counted(http: aiohttp.ClientSession) -> None:
    keeper = Keeper()
    with capture_logs() as logs:
        async with serving(keeper.app) as url:
            unknown = await post(http, url + "/nothing/here", json=ENDED)
            for wrong in ("wrong", SECRET[:-1], SECRET + "x", "%00", "%ff%fe", "ü"):
                assert await post(http, f"{url}/hook/{wrong}", json=ENDED) == unknown
    assert unknown[0] == 404
    assert (keeper.stored, keeper.posts, keeper.counters) == ([], 0, {"unauthorised": 6})
    assert [line["reason"] for line in logs if line["event"] == "hook.refused"] == ["wrong-secret"] * 6


async def test_hook__any_outcome__the_secret_is_never_logged(http: aiohttp.ClientSession, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    keeper = Keeper()
    with capture_logs() as logs:
        async with serving(keeper.app) as url:
            await post(http, url + HOOK, json=ENDED)
            await post(http, url + HOOK, json={"type": "nonsense"})
            keeper.failure = TryAgain("the disk is full")
            await post(http, url + HOOK, json=ENDED)
    assert {"hook.refused", "hook.not_stored"} <= {line["event"] for line in logs}
    assert SECRET not in str(logs)
    assert SECRET not in caplog.text


async def test_open__by_default__404_like_any_unknown_path(http: aiohttp.ClientSession) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        assert await post(http, url + OPEN, json=ENDED) == await post(http, url + "/nothing/here", json=ENDED)
    assert keeper.stored == []


async def test_open__opened__stored_as_anonymous_and_no_sign_of_life_of_the_feed(http: aiohttp.ClientSession) -> None:
    keeper = Keeper(open_to_all=True)
    async with serving(keeper.app) as url:
        assert await post(http, url + OPEN, json={**ENDED, "trust": "signed"}) == (200, {"ok": True})
    (hint,) = keeper.stored
    assert (hint.source, hint.trust, keeper.posts) == (Source.OPEN_WEBHOOK, Trust.ANONYMOUS, 0)


async def test_open__too_many_from_one_address__429_and_the_secret_is_exempt(http: aiohttp.ClientSession) -> None:
    keeper = Keeper(open_to_all=True, open_posts_per_minute=3)
    async with serving(keeper.app) as url:
        for _ in range(3):
            assert (await post(http, url + OPEN, json=ENDED))[0] == 200
        async with http.post(url + OPEN, json=ENDED) as answer:
            assert (answer.status, answer.content_type) == (429, "application/problem+json")
            assert 1 <= int(answer.headers["Retry-After"]) <= 20
        for _ in range(150):
            assert (await post(http, url + HOOK, json=ENDED))[0] == 200
    assert (keeper.counters["limited"], keeper.counters["received"]) == (1, 153)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not-json"),
        (b"type=session-ended", "not-json"),
        (b"\xff", "not-json"),
        (b"Infinity", "not-json"),
        (b"9" * 5000, "not-json"),
        (b"[" * 16_000, "not-json"),
        (b"null", "not-an-object"),
        (b'"text"', "not-an-object"),
        (b"{}", "unknown-type"),
        (b'{"type":"session-begun","sessionId":"r"}', "unknown-type"),
        (b'{"type":"session-ended","sessionId":""}', "no-session-id"),
        (b'{"type":"session-ended","sessionId":[1]}', "bad-session-id"),
        (b'{"type":"session-ended","sessionId":-1}', "bad-session-id"),
        (b'{"type":"session-ended","sessionId":"a\\u0000b"}', "bad-session-id"),
    ],
)
async def test_hook__malformed__400_problem_and_nothing_stored(
    http: aiohttp.ClientSession, body: bytes, reason: str
) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        async with http.post(url + HOOK, data=body) as answer:
            assert (answer.status, answer.content_type) == (400, "application/problem+json")
            problem = await answer.json(content_type=None)
    assert (problem["status"], problem["reason"], problem["title"]) == (400, reason, "Bad Request")
    assert (keeper.stored, keeper.counters, keeper.posts) == ([], {"refused": 1}, 1)


async def test_hook__announced_too_large__413_before_the_body_came(http: aiohttp.ClientSession) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert b"413" in status
    assert keeper.stored == []


async def test_hook__endless_body_of_unknown_length__413_and_cut_off(http: aiohttp.ClientSession) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(5):
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert b"413" in status
    assert keeper.stored == []


async def test_hook__body_that_stalls__408_and_the_server_goes_on(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.feeds.posts.BODY_TIMEOUT_S", 0.2)
    keeper = Keeper()
    async with serving(keeper.app) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f'POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{{"type":'.encode())
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert (await post(http, url + HOOK, json=ENDED))[0] == 200
    assert b"408" in status


@pytest.mark.parametrize("failure", [TryAgain("the database is locked"), OSError("disk full"), RuntimeError("bug")])
async def test_hook__storing_fails__503_so_that_the_sender_may_repeat_it(
    http: aiohttp.ClientSession, failure: Exception
) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        keeper.failure = failure
        async with http.post(url + HOOK, json=ENDED) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        keeper.failure = None
        assert (await post(http, url + HOOK, json=ENDED))[0] == 200
    assert (len(keeper.stored), keeper.counters["not_stored"]) == (1, 1)


async def test_hook__get__takes_nothing(http: aiohttp.ClientSession) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        async with http.get(url + HOOK) as answer:
            assert answer.status in (404, 405)
    assert keeper.posts == 0


async def test_hook__hundred_at_once__all_stored(http: aiohttp.ClientSession) -> None:
    keeper = Keeper()
    async with serving(keeper.app) as url:
        bodies = [{"type": "session-heartbeat", "sessionId": f"r{number}"} for number in range(100)]
        answers = await asyncio.gather(*(post(http, url + HOOK, json=body) for body in bodies))
    assert {status for status, _ in answers} == {200}
    assert {hint.room for hint in keeper.stored} == {f"r{number}" for number in range(100)}


# The limiter


def test_limiter__bucket_used_up__refills_evenly_and_apart_from_others() -> None:
    now_s = 0.0
    limiter = Limiter(60, lambda: now_s)
    assert [limiter.wait_s("a") for _ in range(60)] == [0] * 60
    assert (limiter.wait_s("a"), limiter.wait_s("b")) == (1, 0)
    now_s = 1.0
    assert (limiter.wait_s("a"), limiter.wait_s("a")) == (0, 1)


def test_limiter__unused_for_long__holds_no_more_than_a_full_bucket() -> None:
    now_s = 0.0
    limiter = Limiter(2, lambda: now_s)
    limiter.wait_s("a")
    now_s = 1e6
    assert [limiter.wait_s("a") for _ in range(3)] == [0, 0, 30]


# The secret's file


def test_secret_in__no_file__made_with_mode_0600_and_the_same_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "state" / "hook.secret"
    secret, made = secret_in(path)
    assert made
    assert len(secret) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret_in(path) == (secret, False)
    assert list(path.parent.iterdir()) == [path]


def test_secret_in__many_at_once__agree_on_one(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: secret_in(path), range(64)))
    assert len({secret for secret, _ in results}) == 1
    assert sum(made for _, made in results) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666])
def test_secret_in__others_may_read_or_write_it__misconfigured(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "hook.secret"
    secret, _ = secret_in(path)
    path.chmod(mode)
    with pytest.raises(Misconfigured, match="WEBHOOK_SECRET_FILE") as error:
        secret_in(path)
    assert secret not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"with spaces in between it", b"slash/slash/slash/slash", b"\xff" * 40]
)
def test_secret_in__holds_no_secret__misconfigured(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hook.secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Misconfigured, match="WEBHOOK_SECRET_FILE"):
        secret_in(path)


def test_secret_in__path_is_a_folder__misconfigured(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="WEBHOOK_SECRET_FILE"):
        secret_in(tmp_path)


def test_secret_in__folder_cannot_be_made__misconfigured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Misconfigured, match="WEBHOOK_SECRET_FILE"):
        secret_in(tmp_path / "file" / "hook.secret")


def test_secret_in__wide_open_umask__still_0600(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret_in(tmp_path / "hook.secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "hook.secret").stat().st_mode) == 0o600
