"""*Still in the lesson*: the links, their page, and what an answer does; served for real."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import structlog
from fastapi.routing import APIRoute
from sqlalchemy.exc import IntegrityError

from bot.domain.facts import Kind, Role, SessionKey, Source, Trust
from bot.ops.logging import Redactor
from bot.ops.questions import Questions
from bot.store.tables import FactRow, LinkRow
from bot.web.app import keeper_app
from bot.web.gateway import GatewayConfig
from bot.web.gateway.server import create_gateway
from bot.web.still_here import still_here_routes
from tests.support.keeper import KEY, Keeper
from tests.support.servers import serving
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, STUDENT, TUTOR

PUBLIC = "https://keeper.example/base/"


class Asking:
    """A reconciler with a lesson that was reported as over and goes on, its questions, and their page's path."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.questions = self.made()
        self.app = keeper_app(still_here_routes(self))

    def made(self) -> Questions:
        return Questions(self.keeper.writer, self.keeper.reconciler, PUBLIC, lambda: self.keeper.now)

    def asked(self, token: str) -> Any:
        return self.questions.asked(token)

    async def answer(self, token: str) -> Any:
        return await self.questions.answer(token)

    async def path(self, address: str | None = STUDENT) -> str:
        link = await self.questions.link(KEY, 1, address)
        assert link is not None
        assert link.startswith(PUBLIC + "v/")
        return link.removeprefix(PUBLIC.rstrip("/"))

    def facts(self) -> list[FactRow]:
        return [row for row in self.keeper.rows(FactRow) if row.kind == Kind.STILL_HERE]


@pytest.fixture
async def asking(tmp_path: Path) -> AsyncIterator[Asking]:
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    await keeper.start(KEY)
    await keeper.say(keeper.hint(Kind.READY, student=STUDENT, tutor=TUTOR))
    await keeper.beats(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    yield Asking(keeper)
    keeper.writer.close()
    keeper.database.dispose()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_link__opened_by_anything__changes_nothing(asking: Asking, http: aiohttp.ClientSession) -> None:
    """GET and HEAD show a plain page and change nothing, whoever opens it, mail scanners and prefetchers included.
    Looking changes nothing, so that a program which opens links ahead of people answers for nobody."""
    path = await asking.path()
    before = [row.model_dump() for table in (FactRow, LinkRow) for row in asking.keeper.rows(table)]
    async with serving(asking.app) as url:
        for method in ("GET", "HEAD", "GET"):
            async with http.request(method, url + path) as answer:
                assert answer.status == 200
                page = await answer.text()
        assert '<form method="post">' in page
        assert STUDENT in page
        assert path not in page, "the page doesn't repeat its own token"
    assert [row.model_dump() for table in (FactRow, LinkRow) for row in asking.keeper.rows(table)] == before
    assert asking.keeper.session().ended_hint is not None


async def test_link__answered__withdraws_the_hint_and_is_used_up(asking: Asking, http: aiohttp.ClientSession) -> None:
    """single-use … bound to chain, contract, session and expiry: … POST answers"""
    path = await asking.path()
    async with serving(asking.app) as url:
        said = [(await http.post(url + path)).status for _ in range(3)]
        again = (await http.get(url + path)).status
    assert (said, again) == ([200, 410, 410], 410)
    [fact] = asking.facts()
    assert (fact.trust, fact.source, fact.role) == (Trust.PROVEN, Source.PARTICIPANT, Role.STUDENT)
    assert fact.session_key == str(KEY)
    assert asking.keeper.session().ended_hint is None


async def test_link__two_clicks_at_once__one_counts(asking: Asking, http: aiohttp.ClientSession) -> None:
    path = await asking.path()
    async with serving(asking.app) as url:
        answers = await asyncio.gather(*[http.post(url + path) for _ in range(8)])
    assert sorted(answer.status for answer in answers) == [200] + [410] * 7
    assert len(asking.facts()) == 1


async def test_link__one_of_two_used__the_others_is_still_good(asking: Asking) -> None:
    """one token per participant and question"""
    first, second = await asking.path(), await asking.path(TUTOR)
    assert first != second
    assert await asking.questions.answer(first.removeprefix("/v/"))
    assert await asking.questions.answer(second.removeprefix("/v/"))
    assert [fact.role for fact in asking.facts()] == [Role.STUDENT, Role.TUTOR]


async def test_link__keeper_restarted__unused_is_good_and_used_is_not(asking: Asking) -> None:
    """until it expires or the session ends; a restart changes nothing of that"""
    used, unused = [(await asking.path()).removeprefix("/v/") for _ in range(2)]
    assert await asking.questions.answer(used)
    await asking.keeper.restart()
    asking.questions = asking.made()
    await asking.questions.load()
    assert await asking.questions.answer(used) is None
    assert await asking.questions.answer(unused)


async def test_link__database_fails_in_the_answer__neither_word_nor_use_is_stored_and_it_may_be_said_again(
    asking: Asking,
) -> None:
    """An answer and the use of its link are one transaction: a crash loses neither, and nothing is used twice."""
    token = (await asking.path()).removeprefix("/v/")
    broken = "CREATE TRIGGER broken BEFORE UPDATE ON links BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
    await asking.keeper.writer(lambda tx: tx.connection().exec_driver_sql(broken))
    with pytest.raises(IntegrityError):
        await asking.questions.answer(token)
    assert asking.facts() == []
    assert asking.keeper.session().ended_hint is not None
    await asking.keeper.writer(lambda tx: tx.connection().exec_driver_sql("DROP TRIGGER broken"))
    assert await asking.questions.answer(token)
    assert len(asking.facts()) == 1


async def test_link__another_process_of_the_same_record_used_it__nothing_is_stored(asking: Asking) -> None:
    """nothing is used twice"""
    token = (await asking.path()).removeprefix("/v/")
    stale = asking.made()
    await stale.load()
    assert await asking.questions.answer(token)
    assert await stale.answer(token) is None
    assert len(asking.facts()) == 1


async def test_link__expired__not_good(asking: Asking) -> None:
    token = (await asking.path()).removeprefix("/v/")
    asking.keeper.now += 660_000 - 1
    assert asking.questions.asked(token)
    asking.keeper.now += 1
    assert asking.questions.asked(token) is None
    assert await asking.questions.answer(token) is None
    asking.keeper.now += 86_400_001
    await asking.questions.forget_expired()
    assert asking.keeper.rows(LinkRow) == []


async def test_link__session_over__not_good(asking: Asking) -> None:
    token = (await asking.path()).removeprefix("/v/")
    await asking.keeper.end(KEY, 120)
    assert asking.questions.asked(token) is None
    assert await asking.questions.answer(token) is None
    assert asking.facts() == []


async def test_link__id_given_to_others_by_a_reorg__not_good(asking: Asking) -> None:
    """its student and tutor included: a reorg makes it void"""
    token = (await asking.path()).removeprefix("/v/")
    taken = await asking.keeper.reorg(0)
    theirs = SessionKey(1, OTHER_STUDENT, OTHER_TUTOR)
    await asking.keeper.start(theirs, 0, tell=False)
    await asking.keeper.reconciler.chain_changed(started=[theirs], ended=[], retracted=list(taken))
    assert await asking.questions.answer(token) is None
    assert asking.facts() == []


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("token", ["x", "A" * 32, "A" * 4000, "%00%ff"])
async def test_link__made_up__looks_like_a_used_one_and_touches_no_database(
    asking: Asking, http: aiohttp.ClientSession, token: str, method: str
) -> None:
    """What isn't a token that we gave costs one hash, and no look at the database."""
    asking.keeper.writer.close()
    async with serving(asking.app) as url, getattr(http, method)(f"{url}/v/{token}") as answer:
        assert answer.status == 410


async def test_link__any_answer__headers_keep_it_from_leaking(asking: Asking, http: aiohttp.ClientSession) -> None:
    """The page loads nothing, runs no script, can't be framed, isn't cached, and passes its address on to nobody."""
    path = await asking.path()
    async with serving(asking.app) as url:
        for answer in (await http.get(url + path), await http.post(url + path), await http.post(url + path)):
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "script" not in policy
            assert "unsafe" not in policy
            for part in ("form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
                assert part in policy
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert not re.search("<script|src=|href=|@import|url\\(", await answer.text())


async def test_link__minted__only_its_hash_is_stored_and_no_log_shows_it(asking: Asking) -> None:
    """Only a token's hash is stored, and nothing here logs or returns a token but `link` itself."""
    with structlog.testing.capture_logs() as logged:
        token = (await asking.path()).removeprefix("/v/")
        returned = [asking.questions.asked(token), await asking.questions.answer(token)]
        returned += [asking.questions.asked(token), await asking.questions.answer(token)]
    assert any(returned)
    assert token not in f"{logged} {returned}"
    for file in asking.keeper.database.path.parent.iterdir():  # type: ignore[union-attr]
        assert token.encode() not in file.read_bytes()
    assert token not in Redactor()(f"GET {PUBLIC}v/{token} HTTP/1.1")


async def test_link__no_public_url__none(asking: Asking) -> None:
    questions = Questions(asking.keeper.writer, asking.keeper.reconciler, None, lambda: asking.keeper.now)
    assert await questions.link(KEY, 1, STUDENT) is None
    assert asking.keeper.rows(LinkRow) == []


async def test_link__served_by_the_gateways_app__answers_there_too(asking: Asking, http: aiohttp.ClientSession) -> None:
    """mountable in the keeper's app and, within `run` with GATEWAY=1, in the gateway's app"""
    path = await asking.path()
    app = create_gateway(
        GatewayConfig(bind="127.0.0.1:0", token=None, hook_secret="a-secret-of-the-gateway"),
        routers=[still_here_routes(asking)],
    )
    async with serving(app) as url:
        assert (await http.get(url + path)).status == 200
        assert (await http.post(url + path)).status == 200
    assert len(asking.facts()) == 1


def test_routes__all__are_the_link_and_nothing_else() -> None:
    routes = [route for route in still_here_routes(None).routes if isinstance(route, APIRoute)]  # type: ignore[arg-type]
    assert {route.path for route in routes} == {"/v/{token}"}
    assert urlsplit(PUBLIC).scheme == "https"
