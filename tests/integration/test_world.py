"""The doubles of the devnet and the demo: what they promise is what the demo's verdict rests on."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from scripts.world import anvil, keeper
from scripts.world.backends import PlainBackend
from scripts.world.chain import End, Key, Session
from scripts.world.lessons import Lesson
from scripts.world.participants import Participant, asks_to_pay
from scripts.world.processes import Crew, free_port, listens
from scripts.world.scenarios import CAST, NEXT, STUDENTS, TUTORS, Stage, scenarios
from scripts.world.signalling import Signalling
from scripts.world.verdict import Chain, all_of, ended_by_keeper, paid_by_student, still_running
from tests.support.servers import until
from tests.support.world import OWNER, ROOM, STUDENT, TUTOR, crew, post, serving

__all__ = ["crew"]

# The signalling server


@contextlib.asynccontextmanager
async def signalling(heartbeat_s: float = 60) -> AsyncIterator[tuple[Signalling, list[dict[str, Any]]]]:
    posts: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        posts.append(await request.json())
        return web.Response(status=404)  # whatever the answer is, it is ignored

    async with serving(take, "/hook/s3cret") as url:
        made = Signalling(f"{url}/hook/s3cret", heartbeat_s)
        yield made, posts
        await made.stop()


def without_times(message: dict[str, Any]) -> dict[str, Any]:
    now_ms = time.time() * 1000
    assert abs(message["timestamp"] - now_ms) < 10_000
    return {name: value for name, value in message.items() if name != "timestamp"}


async def test_signalling__somebody_joins__is_said_with_the_role() -> None:
    async with signalling() as (server, posts):
        server.join(ROOM, "student")
        await until(lambda: posts)

    assert without_times(posts[0]) == {"type": "user-connected", "sessionId": "req_qn8g", "userRole": "student"}


async def test_signalling__heartbeats__come_from_each_participant_until_silenced() -> None:
    async with signalling(heartbeat_s=0.1) as (server, posts):
        server.join(ROOM, "student")
        server.join(ROOM, "tutor")
        await until(lambda: len(posts) >= 6)
        server.silence(ROOM)
        await asyncio.sleep(0.15)
        count = len(posts)
        await asyncio.sleep(0.3)

        assert len(posts) == count
    beats = [without_times(message) for message in posts if message["type"] == "session-heartbeat"]
    assert beats[0] == {"type": "session-heartbeat", "sessionId": "req_qn8g"}


async def test_signalling__hang_up__is_said_with_all_that_is_known_and_ends_heartbeats() -> None:
    async with signalling(heartbeat_s=0.1) as (server, posts):
        server.join(ROOM, "student")
        server.hang_up(ROOM, "student", STUDENT)
        await until(lambda: len(posts) == 2)
        await asyncio.sleep(0.3)

        assert len(posts) == 2
    said = without_times(posts[1])
    session = said.pop("session")
    assert said == {"type": "session-ended", "sessionId": "req_qn8g", "endedBy": "student", "userAddress": STUDENT}
    assert set(session) == {"startTime", "durationSeconds", "tutorAddress", "studentAddress", "language"}
    assert (session["tutorAddress"], session["studentAddress"]) == (TUTOR, STUDENT)


async def test_signalling__connection_lost__is_said_with_role_and_reason() -> None:
    async with signalling() as (server, posts):
        server.lose(ROOM, "tutor")
        await until(lambda: posts)

    assert without_times(posts[0]) == {
        "type": "user-disconnected",
        "sessionId": "req_qn8g",
        "userRole": "tutor",
        "reason": "connection-closed",
    }


async def test_signalling__one_room__posts_arrive_in_the_order_said() -> None:
    async with signalling() as (server, posts):
        for role in ("student", "tutor"):
            server.join(ROOM, role)
        server.lose(ROOM, "tutor")
        server.hang_up(ROOM, "student", STUDENT)
        await until(lambda: len(posts) == 4)

    types = [message["type"] for message in posts]
    assert types == ["user-connected", "user-connected", "user-disconnected", "session-ended"]


async def test_signalling__nobody_listens__the_post_is_lost_and_never_repeated() -> None:
    port = free_port()
    server = Signalling(f"http://127.0.0.1:{port}/hook/s3cret")
    server.lose(ROOM, "tutor")
    await until(lambda: server.lost == 1)
    arrived: list[int] = []

    async def take(_: web.Request) -> web.Response:
        arrived.append(1)
        return web.Response()

    async with serving(take, port=port):
        await asyncio.sleep(0.3)

    await server.stop()
    assert not arrived


# The plain backend


@pytest.fixture
async def plain(crew: Crew) -> PlainBackend:
    backend = PlainBackend(crew)
    await backend.start()
    return backend


@pytest.mark.parametrize("path", ["/api/webrtc-events", "/api/webrtc-session-ended"])
async def test_plain_backend__a_documented_post__is_not_found(plain: PlainBackend, path: str) -> None:
    status, _ = await post(plain.url + path, {"type": "session-ended", "sessionId": "req_qn8g"})

    assert status == 404


async def test_plain_backend__announced__clients_hear_session_ready_and_nothing_else(plain: PlainBackend) -> None:
    heard: list[tuple[Any, ...]] = []
    client = socketio.AsyncClient()
    client.on("*", lambda *event: heard.append(event))
    await client.connect(plain.url, transports=["websocket"])
    await plain.until_clients(1)
    await client.emit("user:connect", {"address": STUDENT})
    await client.emit("session:create", {"requestId": "req_other"})

    await plain.announce(ROOM, student=None)  # type: ignore[arg-type]

    await until(lambda: heard)
    await client.disconnect()
    await plain.until_clients(0)
    assert [event for event, _ in heard] == ["session:ready"]
    said = heard[0][1]
    assert (said["requestId"], said["sessionId"], said["languageId"]) == ("req_qn8g", "req_qn8g", 1)
    assert (said["studentAddress"], said["tutorAddress"]) == (STUDENT, TUTOR)


async def test_plain_backend__stopped_and_started__listens_on_the_same_port(plain: PlainBackend) -> None:
    await plain.stop()
    with pytest.raises(aiohttp.ClientError):
        await post(plain.url, {})

    await plain.start()

    assert (await post(plain.url, {}))[0] == 404


# The keeper's folder


async def test_keeper__made__env_file_and_secret_are_for_its_owner_only(crew: Crew) -> None:
    made = keeper.Keeper(crew, "keeper", {"RPC_URL": "http://127.0.0.1:1", "BACKEND_PRIVATE_KEY": "0x01"})

    secret_path = made.folder / "webhook.secret"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made.folder / ".env", secret_path)}
    assert modes == {".env": 0o600, "webhook.secret": 0o600}
    assert len(secret_path.read_text()) == 43
    assert made.webhook.endswith("/hook/" + secret_path.read_text())
    assert "RPC_URL=http://127.0.0.1:1\n" in (made.folder / ".env").read_text()


def test_clean_environment__this_shell_has_settings__none_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPC_URL", "http://elsewhere")

    assert set(keeper.clean_environment(tmp_path)) == {"PATH", "HOME", "XDG_STATE_HOME", "LANG"}


# People


@pytest.mark.parametrize(("nudge", "pays"), [({}, True), ({"kind": "pay"}, True), ({"ask": True}, False)])
def test_asks_to_pay__nudge_or_question__only_the_nudge(nudge: dict[str, Any], pays: bool) -> None:
    assert asks_to_pay(nudge) is pays


async def test_participant__nudged_twice__pays_once() -> None:
    ended: list[str] = []

    class Dao:
        language = 1

        async def start(self, _: Key, tutor: str) -> int:
            return 5

        async def end(self, _: Key, tutor: str) -> None:
            ended.append(tutor)

    student = Participant("Ana", Key(STUDENT, "0x01"), Dao())  # type: ignore[arg-type]
    student.pays_when_nudged = True
    await student.start(TUTOR)

    answers = [await student._nudged({"room": "req_qn8g"}) for _ in range(2)]
    await until(lambda: ended)
    await asyncio.sleep(0.05)

    assert answers == [{"ok": True}] * 2
    assert ended == [TUTOR]


# The chain, and the verdict


async def test_anvil__started__mines_by_itself_and_finality_follows(crew: Crew) -> None:
    child, node = await anvil.start(crew, block_time_s=1)
    try:
        assert listens(child.pid, int(node.url.rpartition(":")[2]))
        accounts = await node.call("eth_accounts")
        first = await node.height()
        await asyncio.sleep(4)
        assert await node.height() >= first + 3
        final = await node.call("eth_getBlockByNumber", "finalized", False)
    finally:
        await node.close()

    assert len(accounts) == anvil.ACCOUNTS
    assert int(final["number"], 16) > first


LEFT_AT = 1_800_000_000


def chain_with(*ends: End, active: bool = False, calls: tuple[str, ...] = ()) -> Chain:
    by_id: dict[int, list[End]] = {}
    for end in ends:
        by_id.setdefault(end.session_id, []).append(end)
    session = Session(STUDENT, TUTOR, OWNER, 1, 0, 1000, 0, 1, 5, active)
    return Chain(OWNER, by_id, {5: session}, list(calls))


def end(sender: str, after_s: int) -> End:
    return End(5, TUTOR, 60, 60_000, sender, "0x01", 10, LEFT_AT + after_s)


@pytest.fixture
def cast() -> dict[str, Lesson]:
    student = SimpleNamespace(address=STUDENT, nudges=[])
    lesson = Lesson(5, ROOM, student, SimpleNamespace(address=TUTOR), signalling=None)  # type: ignore[arg-type]
    lesson.left_at = LEFT_AT
    return {"it": lesson}


@pytest.mark.parametrize(
    ("chain", "agrees"),
    [
        pytest.param(chain_with(end(OWNER, 9)), True, id="in time"),
        pytest.param(chain_with(end(OWNER, 2)), False, id="too early"),
        pytest.param(chain_with(end(OWNER, 60)), False, id="too late"),
        pytest.param(chain_with(end(STUDENT, 9)), False, id="by another"),
        pytest.param(chain_with(end(OWNER, 9), end(OWNER, 10)), False, id="twice"),
        pytest.param(chain_with(active=True), False, id="never"),
    ],
)
def test_ended_by_keeper__what_the_chain_says__decides(cast: dict[str, Lesson], chain: Chain, agrees: bool) -> None:
    assert ended_by_keeper(cast, "it", 8, 12)(chain)[1] is agrees


@pytest.mark.parametrize(
    ("chain", "nudges", "agrees"),
    [
        pytest.param(chain_with(end(STUDENT, 3)), 1, True, id="nudged and paid"),
        pytest.param(chain_with(end(STUDENT, 3)), 0, False, id="paid unasked"),
        pytest.param(chain_with(end(OWNER, 9)), 1, False, id="ended by the keeper"),
        pytest.param(
            chain_with(end(STUDENT, 3), calls=("0x7ce02794" + "00" * 12 + TUTOR[2:].lower(),)),
            1,
            False,
            id="the keeper tried too",
        ),
    ],
)
def test_paid_by_student__what_the_chain_says__decides(
    cast: dict[str, Lesson], chain: Chain, nudges: int, agrees: bool
) -> None:
    cast["it"].student.nudges.extend([{}] * nudges)

    assert paid_by_student(cast, "it", nudged=True)(chain)[1] is agrees


def test_still_running__ended_meanwhile__differs(cast: dict[str, Lesson]) -> None:
    assert still_running(cast, "it")(chain_with(active=True)) == ("still running", True)
    assert still_running(cast, "it")(chain_with(end(OWNER, 9))) == ("ended by keeper", False)


def test_all_of__one_part_differs__the_whole_differs(cast: dict[str, Lesson]) -> None:
    judge = all_of(ended=ended_by_keeper(cast, "it", 8, 12), alive=still_running(cast, "it"))

    observed, agrees = judge(chain_with(end(OWNER, 9)))

    assert not agrees
    assert observed == "ended: ended once, by keeper, after 9 s; alive: ended by keeper"


def test_scenarios__both_worlds__eight_in_order_and_nobody_is_in_two_lessons() -> None:
    for backend in (object(), PlainBackend.__new__(PlainBackend)):
        found = scenarios(Stage(SimpleNamespace(backend=backend), say=print))  # type: ignore[arg-type]
        assert [scenario.name[0] for scenario in found] == list("12345678")

    students = [student for student, _ in (CAST | NEXT).values()]
    tutors = [tutor for _, tutor in CAST.values()]
    assert len(set(students)) == len(students) == STUDENTS
    assert len(set(tutors)) == len(tutors) == TUTORS
