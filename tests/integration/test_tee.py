"""What is passed on to the backend, by a real queue to a real server, and on a real chain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot.domain.facts import Hint, Kind, SessionKey, Source
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.limits import Window, retry_after_ms
from bot.feeds.tee import BEAT_WITHIN_MS, Tee
from bot.store import schema
from bot.store.db import Database, Writer
from bot.store.tee import TeeQueue
from tests.integration.test_cli_daemon import running, settings
from tests.integration.test_cli_daemon import until as wait_for
from tests.integration.test_run import hook_line, post
from tests.support.anvil import World, langdao
from tests.support.record import address, inside
from tests.support.servers import free_port, serving, until

STUDENT, TUTOR = address(0x51), address(0x70)
KEY = SessionKey(7, STUDENT, TUTOR)


class Backend:
    """Answers what it is told to: the next of `answers`, or 200. Remembers what it was sent."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.app = Starlette(routes=[Route(wire.EVENTS_PATH, self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.got.append(await request.json())
        await self.hold.wait()
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        return JSONResponse({}, status, headers)

    @property
    def types(self) -> list[str]:
        return [said["type"] for said in self.got]


@dataclass
class Known:
    """What the keeper knows of sessions, as a test says it."""

    rooms: dict[str, SessionKey] = field(default_factory=lambda: {"req_1": KEY})
    over: set[SessionKey] = field(default_factory=set)
    slot: SessionKey | None = KEY
    began_ms: int = 0
    node_is_down: bool = False

    def joined(self, room: str) -> SessionKey | None:
        return self.rooms.get(room)

    def running(self, key: SessionKey) -> bool:
        return key not in self.over

    async def in_slot(self, key: SessionKey, began_by_ms: int | None) -> bool:
        if self.node_is_down:
            raise TryAgain("no node")
        return key == self.slot and (began_by_ms is None or self.began_ms <= began_by_ms)


class Line:
    """A tee to `backend`, with its database and a clock that tests move."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.database = Database(f"sqlite:///{folder}/keeper.db")
        schema.upgrade(self.database)
        self.writer = Writer(self.database)
        self.backend = Backend()
        self.known = Known()
        self.alerts: list[str] = []
        self.ahead_ms = 0
        self.options = options

    def clock_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def tee(self, url: str) -> Tee:
        async def starved(text: str) -> None:
            self.alerts.append(text)

        return Tee(
            url + wire.EVENTS_PATH, TeeQueue(self.writer), self.known, starved, clock_ms=self.clock_ms, **self.options
        )

    def said(self, kind: str, room: str = "req_1", **more: Any) -> Hint:
        return wire.from_post({"type": kind, "sessionId": room, **more}, self.clock_ms(), Source.WEBHOOK)


@asynccontextmanager
async def passing_on(tee: Tee) -> AsyncIterator[None]:
    task = asyncio.create_task(tee.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    one = Line(tmp_path)
    yield one
    one.writer.close()
    one.database.dispose()


async def test_tee__each_type__arrives_as_it_was_sent(line: Line) -> None:
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            sent = [{"type": kind, "sessionId": "req_1", "odd": [1, None]} for kind in wire.POST_TYPES]
            for count, body in enumerate(sent, 1):
                await tee.take(wire.from_post(body, line.clock_ms(), Source.WEBHOOK))
                await until(lambda count=count: tee.counters["passed"] == count)  # type: ignore[misc]
    assert sorted(line.backend.got, key=str) == sorted(sent, key=str)


async def test_tee__backend_is_down__waits_in_the_database_and_ends_go_first(line: Line) -> None:
    """Stored: a restart loses no end, loss or return; ends go first."""
    port = free_port()
    line.known.rooms["req_2"] = KEY
    tee = line.tee(f"http://127.0.0.1:{port}")
    async with passing_on(tee):
        await tee.take(line.said("user-connected"))
        await tee.take(line.said("session-heartbeat"))
        await tee.take(line.said("session-ended", "req_2"))
        await until(lambda: tee.counters["again"])
    line.backend.hold.clear()  # so that their order can be seen
    async with serving(line.backend.app, port) as url:
        reborn = line.tee(url)
        async with passing_on(reborn):
            await until(lambda: len(line.backend.got) == 2)
            line.backend.hold.set()
            await until(lambda: reborn.counters["passed"] == 2)
    assert line.backend.types == ["session-ended", "user-connected"]
    assert await TeeQueue(line.writer).load() == []


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_tee__refused_for_now__is_sent_again(line: Line, status: int) -> None:
    line.backend.answers = [(status, {"Retry-After": "1"})]
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended"))
            began = time.monotonic()
            await until(lambda: tee.counters["passed"])
    assert line.backend.types == ["session-ended"] * 2
    assert time.monotonic() - began >= 1  # Retry-After


async def test_tee__never_answers__is_tried_again_and_the_others_go_on(tmp_path: Path) -> None:
    line = Line(tmp_path, timeout_s=0.3)
    line.known.rooms["req_2"] = KEY
    line.backend.hold.clear()
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended"))
            await until(lambda: tee.counters["again"])
            line.backend.hold.set()
            await tee.take(line.said("user-connected", "req_2"))
            await until(lambda: tee.counters["passed"] == 2)
    line.writer.close()


async def test_tee__backend_is_slow__several_at_once_and_none_lost(line: Line) -> None:
    """a backend that is slow with one end doesn't hold up the others"""
    for number in range(8):
        line.known.rooms[f"req_{number}"] = KEY
    line.backend.hold.clear()
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            for number in range(8):
                await tee.take(line.said("session-ended", f"req_{number}"))
            await until(lambda: len(line.backend.got) == 4)
            line.backend.hold.set()
            await until(lambda: tee.counters["passed"] == 8)
    assert sorted(said["sessionId"] for said in line.backend.got) == [f"req_{number}" for number in range(8)]


async def test_tee__refused_for_good__is_not_sent_again(line: Line) -> None:
    line.backend.answers = [(404, {})]
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended"))
            await until(lambda: tee.counters["refused"])
            await tee.take(line.said("user-connected"))
            await until(lambda: tee.counters["passed"])
    assert line.backend.types == ["session-ended", "user-connected"]


# Never through the back door ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["session-ended", "user-disconnected"])
@pytest.mark.parametrize(
    "change",
    [
        lambda known: setattr(known, "slot", SessionKey(8, address(0x52), TUTOR)),
        lambda known: setattr(known, "slot", None),
        lambda known: known.over.add(KEY),
    ],
    ids=["next-lesson", "empty-slot", "over-in-the-index"],
)
async def test_tee__slot_is_not_that_sessions__end_and_loss_are_not_passed_on(
    line: Line, kind: str, change: Callable[[Known], None]
) -> None:
    """An end or a loss is passed on only while the newest block shows the very session of its room."""
    change(line.known)
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said(kind))
            await until(lambda: tee.counters["over"])
    assert line.backend.got == []
    assert tee.waiting == 0


async def test_tee__slot_changes_between_two_tries__is_looked_at_again(line: Line) -> None:
    line.backend.answers = [(503, {})]
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended"))
            await until(lambda: line.backend.got)
            line.known.slot = SessionKey(8, address(0x52), TUTOR)
            await until(lambda: tee.counters["over"])
    assert len(line.backend.got) == 1


async def test_tee__room_is_joined_later_to_a_lesson_that_began_later__is_not_passed_on(line: Line) -> None:
    line.known.rooms.clear()
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended"))
            await until(lambda: tee.counters["again"])
            line.known.began_ms = line.clock_ms()
            line.known.rooms["req_1"] = KEY
            await until(lambda: tee.counters["over"])
    assert line.backend.got == []


@pytest.mark.parametrize(
    "more",
    [{"tutorAddress": address(0x71)}, {"session": {"tutorAddress": address(0x71)}}, {"studentAddress": address(1)}],
    ids=["tutor", "inner-tutor", "student"],
)
async def test_tee__post_names_somebody_else_too__is_not_passed_on(line: Line, more: dict[str, Any]) -> None:
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended", **more))
            await until(lambda: tee.counters["over"])
    assert line.backend.got == []


async def test_tee__node_cannot_be_asked__end_waits_until_it_expires(line: Line) -> None:
    line.known.node_is_down = True
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-ended"))
            await until(lambda: tee.counters["again"])
            line.ahead_ms += 61_000
            await until(lambda: tee.counters["expired"])
            line.known.node_is_down = False
            await tee.take(line.said("user-connected"))
            await until(lambda: tee.counters["passed"])
    assert line.backend.types == ["user-connected"]
    assert await TeeQueue(line.writer).load() == []


async def test_tee__heartbeat_of_a_session_that_is_over__would_begin_a_watch_and_is_not_passed_on(line: Line) -> None:
    line.known.over.add(KEY)
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            await tee.take(line.said("session-heartbeat"))
            await until(lambda: tee.counters["over"])
    assert line.backend.got == []


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("alert.backend-limit")
async def test_tee__more_rooms_than_the_limit_carries__alerts_once_and_keeps_a_part_for_ends(tmp_path: Path) -> None:
    line = Line(tmp_path, window=Window(8))
    rooms = [f"req_{number}" for number in range(1, 21)]
    for number, room in enumerate(rooms):
        line.known.rooms[room] = SessionKey(number + 1, STUDENT, TUTOR)
    line.known.slot = line.known.rooms["req_5"]
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            for _ in range(3):
                for room in rooms:
                    await tee.take(line.said("session-heartbeat", room))
            await until(lambda: len(line.backend.got) == 6)
            await until(lambda: line.alerts)
            await tee.sweep()
            await tee.take(line.said("session-ended", "req_5"))
            await until(lambda: "session-ended" in line.backend.types)
            await asyncio.sleep(0.6)
    assert len({said["sessionId"] for said in line.backend.got[:6]}) == 6  # fair by room
    assert len(line.backend.got) == 7  # no more than the limit, two kept for ends
    assert len(line.alerts) == 1
    assert "20 rooms" in line.alerts[0]
    line.writer.close()


@pytest.mark.provokes("alert.backend-limit")
async def test_tee__backend_answers_429_for_longer_than_it_waits_for_a_room__alerts_and_goes_on(line: Line) -> None:
    """429 … tried again, `Retry-After` respected."""
    line.backend.answers = [(429, {"Retry-After": "1"})] * 1_000
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            for _ in range(12):  # ten seconds each
                before = len(line.backend.got)
                await tee.take(line.said("session-heartbeat"))
                await until(lambda before=before: len(line.backend.got) > before)
                assert line.alerts == []
                line.ahead_ms += 10_000
            await tee.take(line.said("session-heartbeat"))
            await until(lambda: line.alerts)
            assert "1 of them were not passed on for 120 s" in line.alerts[0]
            assert tee.counters["passed"] == 0
            line.backend.answers = []
            line.ahead_ms += 40_000  # all delays are over
            await tee.take(line.said("session-heartbeat"))
            await until(lambda: tee.counters["passed"])


async def test_tee__rooms_within_the_limit__no_alert_and_each_within_120_s(tmp_path: Path) -> None:
    clock_s = [0.0]
    line = Line(tmp_path, window=Window(8, lambda: clock_s[0]))
    rooms = [f"req_{number}" for number in range(1, 11)]
    for number, room in enumerate(rooms):
        line.known.rooms[room] = SessionKey(number + 1, STUDENT, TUTOR)
    last: dict[str, float] = {}
    worst = 0.0
    async with serving(line.backend.app) as url:
        tee = line.tee(url)
        async with passing_on(tee):
            for _ in range(20):  # ten seconds each
                for room in rooms:
                    await tee.take(line.said("session-heartbeat", room))
                before = len(line.backend.got)
                await asyncio.sleep(0.3)
                for said in line.backend.got[before:]:
                    worst = max(worst, clock_s[0] - last.get(said["sessionId"], 0.0))
                    last[said["sessionId"]] = clock_s[0]
                clock_s[0] += 10
                line.ahead_ms += 10_000
    assert set(last) == set(rooms)
    assert worst <= BEAT_WITHIN_MS / 1000
    assert line.alerts == []
    line.writer.close()


def test_retry_after__seconds_or_date_or_neither() -> None:
    assert retry_after_ms("3", 0) == 3000
    assert retry_after_ms("Mon, 23 Nov 2026 20:00:10 GMT", 1_795_464_000_000) == 10_000
    assert [retry_after_ms(odd, 0) for odd in (None, "", "soon", "-1", "1" * 20, "²")] == [None] * 6


# The whole daemon, on a real chain ------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=2, tutors=1) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


class Hostage:
    """A backend as the observed ones are: each end post makes it end whatever lesson the tutor has by then.

    While `closed`, it answers 503.
    """

    def __init__(self, world: World) -> None:
        self.closed = True
        self.knocks = 0
        self.ended = 0
        self._world = world
        self.app = Starlette(routes=[Route(wire.EVENTS_PATH, self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        said = await request.json()
        if said["type"] == "session-ended":
            self.knocks += 1
            if self.closed:
                return Response(status_code=503)
            if self._world.is_active(0):
                await asyncio.to_thread(self._world.end, 0)
            self.ended += 1
        return JSONResponse({})


async def test_run__queue_is_held_until_the_tutors_next_lesson__that_lesson_is_untouched(
    world: World, tmp_path: Path
) -> None:
    """A teed end is passed on only while the newest block shows that very session in the tutor's slot."""
    backend = Hostage(world)
    async with serving(backend.app) as url:
        given = settings(world, tmp_path, BACKEND_EVENTS_URL=url, POLL_INTERVAL_S=0.2)

        def first_part() -> None:
            hook = hook_line(tmp_path, given)
            world.start(0, 0)
            wait_for(lambda: inside(tmp_path, "sessions", "--json", **given).json())
            wait_for(lambda: post(hook, {"type": "session-ended", "sessionId": 1, "endedBy": "student"}) == 200)
            wait_for(lambda: backend.knocks)
            world.end(0, by=world.students[0])
            world.start(1, 0)
            backend.closed = False
            wait_for(lambda: "tee.over" in (tmp_path / "log").read_text())

        with running(tmp_path, "run", **given):
            await asyncio.to_thread(first_part)
            assert backend.ended == 0
            assert world.is_active(0)


async def test_run__session_still_in_the_slot__the_backend_gets_its_end(world: World, tmp_path: Path) -> None:
    backend = Hostage(world)
    backend.closed = False
    async with serving(backend.app) as url:
        given = settings(world, tmp_path, BACKEND_EVENTS_URL=url, POLL_INTERVAL_S=0.2)

        def part() -> None:
            hook = hook_line(tmp_path, given)
            world.start(0, 0)
            wait_for(lambda: inside(tmp_path, "sessions", "--json", **given).json())
            wait_for(lambda: post(hook, {"type": "session-ended", "sessionId": 1, "endedBy": "student"}) == 200)
            wait_for(lambda: not world.is_active(0))

        with running(tmp_path, "run", **given):
            await asyncio.to_thread(part)
        assert backend.ended == 1


def test_kinds__all_posts__are_known_to_the_tee() -> None:
    assert set(wire.POST_TYPES.values()) == {Kind.ENDED, Kind.DISCONNECTED, Kind.HEARTBEAT, Kind.CONNECTED}
