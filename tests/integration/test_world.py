"""The doubles of the devnet and the demo: what they promise is what the demo's verdict rests on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
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
from scripts.world.processes import CHECKOUT, Child, Crew, Failed, free_port, listens, until_listening
from scripts.world.rpc_proxy import RpcProxy, When
from scripts.world.scenarios import CAST, NEXT, STUDENTS, TUTORS, Stage, scenarios
from scripts.world.signalling import Room, Signalling
from scripts.world.tcp_proxy import TcpProxy
from scripts.world.verdict import Chain, all_of, ended_by_keeper, paid_by_student, still_running

STUDENT, TUTOR, OWNER = "0x" + "5A" * 20, "0x" + "7B" * 20, "0x" + "0C" * 20
ROOM = Room("req_qn8g", STUDENT, TUTOR, language=1)


async def until(condition: Callable[[], Any], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # A zombie that nobody has waited for is as good as gone.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    made = Crew(tmp_path)
    yield made
    await made.stop()


# Processes

# A program whose grandchild has a session of its own and no parent any more. It writes both pids.
FAMILY = "(setsid sh -c 'echo $$ >grandchild; exec sleep 300' &) ; echo $$ >child; sleep 300; true"


async def family(folder: Path, *more: str) -> list[int]:
    files = [folder / "child", folder / "grandchild"]
    awaited = [*files, *(folder / name for name in more)]
    await until(lambda: all(file.exists() and file.read_text().strip() for file in awaited))
    return [int(file.read_text()) for file in files]


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """A program that starts the family and waits, as devnet does."""
    script = tmp_path / "launcher.py"
    script.write_text(
        "import asyncio, pathlib, sys\n"
        "from scripts.world.processes import Crew, Interrupted, interruptible\n"
        "async def main():\n"
        "    crew = Crew(pathlib.Path(sys.argv[1]))\n"
        f"    child = await crew.start('family', ['sh', '-c', {FAMILY!r}])\n"
        "    try:\n"
        "        async with interruptible():\n"
        "            await asyncio.sleep(0)\n"  # lets it see whose child it is
        "            pathlib.Path(sys.argv[1], 'ready').write_text('yes')\n"
        "            await child.wait()\n"
        "    except Interrupted:\n"
        "        await crew.stop()\n"
        "asyncio.run(main())\n"
    )
    return script


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str | Path) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([str(part) for part in argv], cwd=CHECKOUT))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_crew__launcher_gets_a_signal__nothing_is_left(
    tmp_path: Path, launcher: Path, running: Callable[..., Any], number: signal.Signals
) -> None:
    process = running(sys.executable, launcher, tmp_path)
    pids = await family(tmp_path)
    assert all(map(alive, pids))

    process.send_signal(number)

    await until(lambda: not any(map(alive, pids)))


async def test_interruptible__its_make_is_killed__everything_stops(
    tmp_path: Path, launcher: Path, running: Callable[..., Any]
) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"world:\n\t@{sys.executable} {launcher} {tmp_path}\n")
    make = running("make", "-f", makefile, "world")
    pids = await family(tmp_path, "ready")

    make.kill()

    await until(lambda: not any(map(alive, pids)))


async def test_crew__stopped__grandchildren_are_gone(crew: Crew) -> None:
    await crew.start("family", ["sh", "-c", FAMILY])
    pids = await family(crew.folder)

    await crew.stop()

    assert not any(map(alive, pids))


async def test_crew__program_ends_by_itself__what_it_left_behind_goes_too(crew: Crew) -> None:
    then_leave = "until [ -s grandchild ]; do sleep 0.02; done; exit 3"
    child = await crew.start("family", ["sh", "-c", FAMILY.replace("sleep 300; true", then_leave)])

    assert await child.wait() == 3
    assert not any(map(alive, await family(crew.folder)))


async def test_child__killed__status_is_the_signal_and_pid_was_the_program(crew: Crew) -> None:
    child = await crew.start("sleeper", ["sh", "-c", "echo $$; exec sleep 300"])
    await until(lambda: child.tail() == str(child.pid))

    os.kill(child.pid, signal.SIGKILL)

    assert await child.wait() == -signal.SIGKILL
    assert not child.running


async def test_child__ignores_sigterm__is_killed_when_patience_ends(crew: Crew) -> None:
    child = await crew.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    await until(lambda: child.tail() == "ready")

    await child.stop(patience_s=0.2)

    assert not alive(child.pid)


async def test_child__program_doesnt_exist__ends_with_127_and_the_log_names_it(crew: Crew) -> None:
    child = await crew.start("nothing", ["/no/such/program"])

    assert await child.wait() == 127
    assert "/no/such/program" in child.tail()


async def test_listens__somebody_else_has_the_port__is_not_taken_for_ours(crew: Crew) -> None:
    child = await crew.start("sleeper", ["sleep", "300"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert not listens(child.pid, port)
        assert listens(os.getpid(), port)


async def test_until_listening__child_ends_first__fails_with_its_last_words(crew: Crew) -> None:
    child = await crew.start("brief", ["sh", "-c", "echo port is taken"])

    with pytest.raises(Failed, match="port is taken"):
        await until_listening(child, free_port())


# The way to the chain


class FakeNode:
    """Takes JSON-RPC and remembers it."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.json_response({"jsonrpc": "2.0", "id": 1, "result": "0xabc"})


@contextlib.asynccontextmanager
async def serving(handler: Any, path: str = "/{any:.*}", port: int = 0) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    fake = FakeNode()
    async with serving(fake.answer) as fake.url:
        yield fake


@pytest.fixture
async def victim(crew: Crew) -> Child:
    return await crew.start("victim", ["sleep", "300"])


@pytest.fixture
async def proxy(node: FakeNode, victim: Child) -> AsyncIterator[RpcProxy]:
    made = RpcProxy(node.url, kill=lambda: victim.signal(signal.SIGKILL))
    await made.start()
    yield made
    await made.stop()


def raw_transaction(tutor: str) -> dict[str, Any]:
    raw = "0x02f8aa7ce02794" + "00" * 12 + tutor[2:].lower() + "c0ffee"
    return {"jsonrpc": "2.0", "id": 7, "method": "eth_sendRawTransaction", "params": [raw]}


async def post(url: str, body: Any) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
        return answer.status, await answer.text()


async def test_rpc_proxy__anything_else__passes_unchanged(proxy: RpcProxy, node: FakeNode, victim: Child) -> None:
    proxy.kill_on_settlement(TUTOR, When.BEFORE)
    batch = [{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}, raw_transaction(STUDENT)]

    status, text = await post(proxy.url, batch)

    assert (status, node.bodies) == (200, [batch])
    assert "0xabc" in text
    assert victim.running


async def test_rpc_proxy__kill_before_forwarding__keeper_dead_and_node_untouched(
    proxy: RpcProxy, node: FakeNode, victim: Child
) -> None:
    done = proxy.kill_on_settlement(TUTOR, When.BEFORE)
    message = raw_transaction(TUTOR)

    status, _ = await post(proxy.url, message)

    assert await victim.wait() == -signal.SIGKILL
    assert node.bodies == []
    assert done.result() == message["params"][0]
    assert proxy.held_back == message["params"]
    assert status == 503


async def test_rpc_proxy__kill_after_forwarding__keeper_dead_and_node_has_it(
    proxy: RpcProxy, node: FakeNode, victim: Child
) -> None:
    done = proxy.kill_on_settlement(TUTOR, When.AFTER)
    message = raw_transaction(TUTOR)

    status, text = await post(proxy.url, message)

    assert await victim.wait() == -signal.SIGKILL
    assert node.bodies == [message]
    assert done.done()
    # Whoever sent it never learns that it arrived.
    assert status == 503
    assert "0xabc" not in text


async def test_rpc_proxy__in_a_batch__is_found(proxy: RpcProxy, node: FakeNode, victim: Child) -> None:
    proxy.kill_on_settlement(TUTOR, When.BEFORE)

    await post(proxy.url, [{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}, raw_transaction(TUTOR)])

    assert await victim.wait() == -signal.SIGKILL
    assert node.bodies == []


async def test_rpc_proxy__sent_again__an_order_works_once(proxy: RpcProxy, node: FakeNode) -> None:
    proxy.kill_on_settlement(TUTOR, When.BEFORE)
    await post(proxy.url, raw_transaction(TUTOR))

    status, _ = await post(proxy.url, raw_transaction(TUTOR))

    assert status == 200
    assert len(node.bodies) == 1


# The line that can be cut


@pytest.fixture
async def line() -> AsyncIterator[TcpProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = TcpProxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    yield proxy
    await proxy.stop()
    server.close()


async def said_back(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    answer = await reader.readexactly(len(text))
    writer.close()
    return answer


async def test_tcp_proxy__whole__passes_both_ways(line: TcpProxy) -> None:
    assert await said_back(line.port, b"hello") == b"hello"


async def test_tcp_proxy__cut__ends_connections_and_refuses_new_ones(line: TcpProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"

    await line.cut()

    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    with pytest.raises(OSError):  # noqa: PT011 which one depends on the moment
        await said_back(line.port, b"x")
    assert await said_back(line.target_port, b"undisturbed") == b"undisturbed"


async def test_tcp_proxy__restored__accepts_on_the_same_port(line: TcpProxy) -> None:
    port = line.port
    await line.cut()

    await line.restore()

    assert line.port == port
    assert await said_back(port, b"again") == b"again"


async def test_tcp_proxy__restored__until_used_waits_for_the_first_who_connects(line: TcpProxy) -> None:
    await said_back(line.port, b"before")
    await line.cut()
    await line.restore()
    waiting = asyncio.ensure_future(line.until_used())
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await said_back(line.port, b"again")

    await asyncio.wait_for(waiting, 5)


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
