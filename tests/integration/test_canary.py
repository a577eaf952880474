"""The canary against a real signalling server and a real webhook."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from fastapi import FastAPI

from bot.domain.facts import Hint, Kind, Source
from bot.feeds.canary import Canary
from bot.feeds.webhook import webhook_routes
from bot.store.tables import DecisionRow
from tests.support.keeper import KEY
from tests.support.keeper import Keeper as Reconciling
from tests.support.servers import free_port, serving, until
from tests.support.sessions import STUDENT, T0, TUTOR
from tests.support.signalling import SignallingServer

SECRET = "secret-of-the-signalling-server"
SILENCE_S = 0.9


class Keeper:
    """A webhook with a canary, and what of both reaches the rest."""

    def __init__(self) -> None:
        self.heard = self.posts = 0
        self.stored: list[Hint] = []
        self.passed_on: list[Hint] = []
        self.lost: list[str] = []
        self.canary: Canary | None = None

    async def _store(self, hint: Hint) -> None:
        self.stored.append(hint)

    async def _tee(self, hint: Hint) -> None:
        self.passed_on.append(hint)

    async def _lost(self, text: str) -> None:
        self.lost.append(text)

    def _heard(self) -> None:
        self.heard += 1

    def _posted(self) -> None:
        self.posts += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[SignallingServer, Canary]]:
        routes = webhook_routes(
            self._store,
            secret=SECRET,
            open_to_all=True,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            on_post=self._posted,
            tee=self._tee,
            own=lambda hint: self.canary is not None and self.canary.takes(hint),
        )
        app = FastAPI()
        app.include_router(routes)
        async with serving(routes.direct(app)) as url:
            server = SignallingServer(f"{url}/hook/{SECRET}")
            async with server.serving() as address:
                canary = self.canary = Canary(
                    address,
                    silence_s=SILENCE_S,
                    on_heard=self._heard,
                    on_lost=self._lost,
                    clock_ms=lambda: time.time_ns() // 1_000_000,
                )
                task = asyncio.create_task(canary.run())
                try:
                    yield server, canary
                finally:
                    task.cancel()
                    await asyncio.wait([task])


async def test_canary__signalling_server_posts_to_us__is_up_and_leaves_no_trace() -> None:
    """opens a room there every few seconds and expects its own `user-connected` post at the webhook; nothing of that
    room is taken for a lesson, stored, or passed on"""
    keeper = Keeper()
    async with keeper.running() as (server, canary):
        await until(lambda: keeper.heard >= 3)
        assert canary.up
        assert set(server.rooms) == {canary.room}
        await until(lambda: keeper.posts > keeper.heard)  # that it left came too
    assert (keeper.stored, keeper.passed_on, keeper.lost) == ([], [], [])


async def test_canary__a_lessons_posts__go_their_way() -> None:
    keeper = Keeper()
    async with keeper.running() as (server, _), aiohttp.ClientSession() as http:
        async with http.ws_connect(f"ws://127.0.0.1:{server.port}/?room=req_1&role=student"):
            await until(lambda: keeper.stored)
    assert {hint.room for hint in keeper.stored} == {"req_1"}
    assert keeper.passed_on == keeper.stored[: len(keeper.passed_on)]


@pytest.mark.provokes("alert.canary")
async def test_canary__server_stops_posting__is_down_and_tells_once_each_time() -> None:
    """`on_lost` is called once for each time that no post came for `silence_s`"""
    keeper = Keeper()
    async with keeper.running() as (server, canary):
        await until(lambda: canary.up)
        server.posting = False
        await until(lambda: keeper.lost)
        assert not canary.up
        await asyncio.sleep(2 * SILENCE_S)
        assert len(keeper.lost) == 1
        assert "langdao-keeper webhook" in keeper.lost[0]
        server.posting = True
        await until(lambda: canary.up)
        server.posting = False
        await until(lambda: len(keeper.lost) == 2)


async def test_canary__server_is_down_and_comes_back__is_tried_for_ever() -> None:
    """A server that can't be reached is tried again for ever."""
    keeper = Keeper()
    async with keeper.running() as (server, canary):
        address, canary._url = canary._url, f"ws://127.0.0.1:{free_port()}/"
        await until(lambda: keeper.lost)
        canary._url = address
        await until(lambda: canary.up)
        assert server.rooms


async def test_canary__somebody_posts_without_the_secret_in_its_name__isnt_heard() -> None:
    keeper = Keeper()
    async with keeper.running() as (server, canary), aiohttp.ClientSession() as http:
        await until(lambda: canary.up)
        server.posting = False
        forged = {"type": "user-connected", "sessionId": canary.room}
        url = server.backend_url.partition("/hook/")[0] + "/api/webrtc-events"
        heard = keeper.heard
        for _ in range(5):
            assert (await http.post(url, json=forged)).status == 200
        assert keeper.heard == heard


# What it is good for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("canary_until_s", "ended_s"), [(None, 400), (300, 190), (110, None)], ids=["none", "up", "lost with the room"]
)
async def test_silence__of_the_only_room__ends_it_soon_only_while_the_canary_is_heard(
    tmp_path: Path, canary_until_s: int | None, ended_s: int | None
) -> None:
    """with a single room and no canary, silence nudges, and ends only after SOLE_ROOM_TIMEOUT_S"""
    keeper = Reconciling(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.start(KEY)
    await keeper.say(keeper.hint(Kind.READY, Source.WEBHOOK, student=STUDENT, tutor=TUTOR))
    for second in range(0, 1_000, 5):
        await keeper.at(second)
        if second <= 100 and second % 10 == 0:
            await keeper.say(keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK))
        if canary_until_s is not None and second <= canary_until_s and second % 15 == 5:
            await keeper.reconciler.posted()
            await keeper.reconciler.canary_heard()
    ends = [(row.at_ms - T0) // 1000 for row in keeper.rows(DecisionRow) if row.action == "end"]
    assert ends == ([] if ended_s is None else [ended_s])
    keeper.writer.close()
