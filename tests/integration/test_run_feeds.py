"""`langdao-keeper run` and the worlds around it: a backend in trouble, Redis that goes and comes, spoofed rooms."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis

from scripts.world.signalling import Room, Signalling
from tests.integration.test_cli_daemon import running, settings
from tests.integration.test_cli_daemon import until as wait_for
from tests.integration.test_run import hook_line, post
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import inside
from tests.support.servers import RedisServer

QUICK = {"NUDGE_WINDOW_S": 1, "BACKEND_HEAD_START_S": 1, "POLL_INTERVAL_S": 0.2, "BACKEND_PRIVATE_KEY": OWNER_KEY}


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=3, tutors=2) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield int(listener.getsockname()[1])


def feeds(home: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What the daemon says of its feeds, once it has said anything."""
    return dict(wait_for(lambda: inside(home, "status", "--json", **given).json().get("feeds")))


def begin(world: World, home: Path, given: dict[str, Any], number: int, student: int, tutor: int) -> None:
    """Starts session `number` and waits for the keeper to know it."""
    world.start(student, tutor)
    wait_for(lambda: len(inside(home, "sessions", "--json", **given).json()) >= number)


def test_run__backend_never_answers__the_settlement_comes_all_the_same(
    world: World, silent: int, tmp_path: Path
) -> None:
    """A failing backend never holds up a settlement."""
    given = settings(world, tmp_path, BACKEND_EVENTS_URL=f"http://127.0.0.1:{silent}", DISCONNECT_GRACE_S=1, **QUICK)
    with running(tmp_path, "run", **given):
        hook = hook_line(tmp_path, given)
        begin(world, tmp_path, given, 1, 0, 0)
        assert post(hook, {"type": "session-heartbeat", "sessionId": 1}) == 200
        assert post(hook, {"type": "session-heartbeat"}) == 400
        assert post(hook, {"type": "session-ended", "sessionId": 1, "endedBy": "student"}) == 200
        wait_for(lambda: not world.is_active(0))
        seen = wait_for(lambda: (now := feeds(tmp_path, given))["webhook"]["counters"] and now)
        shown = inside(tmp_path, "status", **given).out
    assert seen["webhook"]["counters"]["received"] == 2
    assert seen["webhook"]["counters"]["refused"] == 1
    assert seen["tee"]["counters"]["taken"] == 2
    assert "2 received, 1 refused" in " ".join(shown.split())


def test_run__redis_stops_and_starts_in_the_middle__degraded_and_its_mappings_link_again(
    world: World, tmp_path: Path
) -> None:
    """Redis down is a degraded state, not a stop."""
    with RedisServer() as redis:
        given = settings(world, tmp_path, REDIS_URL=redis.url, DISCONNECT_GRACE_S=1, **QUICK)
        with running(tmp_path, "run", **given):
            hook = hook_line(tmp_path, given)
            wait_for(lambda: feeds(tmp_path, given)["redis"]["up"])
            redis.stop()
            begin(world, tmp_path, given, 1, 0, 0)
            wait_for(lambda: not feeds(tmp_path, given)["redis"]["up"])
            assert post(hook, {"type": "session-ended", "sessionId": 1, "endedBy": "student"}) == 200
            wait_for(lambda: not world.is_active(0))

            begin(world, tmp_path, given, 2, 1, 1)
            assert post(hook, {"type": "session-ended", "sessionId": "req_2", "endedBy": "student"}) == 200
            redis.start()
            fields = {"sessionId": "req_2", "studentAddress": world.students[1], "tutorAddress": world.tutors[1]}
            client = sync_redis.Redis.from_url(redis.url)
            client.hset("session:req_2", mapping=fields)
            client.set("session:req_3", "not a hash")
            client.close()
            wait_for(lambda: not world.is_active(1), 40)
            [row] = wait_for(
                lambda: [
                    one
                    for one in inside(tmp_path, "settlements", "--json", **given).json()
                    if one["session_id"] == 2 and one["reason"]
                ]
            )
    assert (row["room_id"], row["reason"], row["by_keeper"]) == ("req_2", "ended", True)


async def test_run__spoofed_rooms_on_the_signalling_server__only_the_lesson_that_is_over_ends(
    world: World, tmp_path: Path
) -> None:
    """Never end the wrong session: the double says exactly the protocol's messages, a stranger's rooms among them."""
    given = settings(world, tmp_path, DISCONNECT_GRACE_S=4, **QUICK)

    def active(number: int) -> bool:
        return number in [one["session_id"] for one in inside(tmp_path, "sessions", "--json", **given).json()]

    def lessons() -> str:
        hook = hook_line(tmp_path, given)
        for number in (1, 2):
            begin(world, tmp_path, given, number, number - 1, number - 1)
        return hook

    with running(tmp_path, "run", **given):
        signalling = Signalling(await asyncio.to_thread(lessons), heartbeat_s=0.3)
        victim = Room("1", world.students[0], world.tutors[0], 0)
        over = Room("2", world.students[1], world.tutors[1], 0)
        strangers = Room("req_stranger", world.students[2], world.tutors[0], 0)
        for room in (victim, over):
            signalling.join(room, "student")
            signalling.join(room, "tutor")
        await asyncio.sleep(1)
        # Anybody may enter any room of the signalling server, and say its end under any id.
        signalling.report_end(strangers, "student", world.students[2], session_id=1)
        signalling.report_end(victim, "student", world.students[0])
        signalling.join(Room("2", "", "", 0), "student")
        signalling.hang_up(strangers, "student", world.students[2])
        signalling.hang_up(over, "student", world.students[1])
        await asyncio.to_thread(wait_for, lambda: not world.is_active(1), 60)
        assert world.is_active(0), "the lesson in which both are still heard was ended"
        assert await asyncio.to_thread(active, 1)
        signalling.hang_up(victim, "tutor", world.tutors[0])
        await asyncio.to_thread(wait_for, lambda: not world.is_active(0), 60)
        await signalling.stop()
    assert signalling.lost == 0
