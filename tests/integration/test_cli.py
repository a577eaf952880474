"""The command line as an operator meets it: real processes, real databases, real exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.cli import COMMANDS
from bot.domain.facts import SessionKey
from bot.store import identity, inbox_rows
from bot.store import records as daemon
from bot.store.lock import Lock
from bot.store.tables import ActionRow
from tests.support.record import CONTRACT, Record, environment, inside, keeper, record

NOWHERE = "http://127.0.0.1:9"
SECRET_RPC = "http://user:hunter22@127.0.0.1:9/v3/0123456789abcdef0123"
KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"

WORDS = {"explain": ("explain", "5"), "settle": ("settle", "5"), "db": ("db", "check")}
# Everything that needs the chain or the database. These don't: the bundled backend; what writes the settings, and what
# sends an alert.
LINES = {name: WORDS.get(name, (name,)) for name in COMMANDS if name not in ("gateway", "init", "alert")}


@pytest.fixture
def one(tmp_path: Path) -> Record:
    """A database with two sessions, made by nobody's daemon."""
    made = record(tmp_path / "keeper.db")
    key = made.session(5)
    made.room("req_qn8g", key, beats=56)
    made.fact("ended", key, room="req_qn8g", payload={"endedBy": "student"})
    made.decision(key, "wait", "ended")
    ended = made.session(4, student=0xA4, tutor=0xB4)
    made.end(ended, ended_by="keeper", by_keeper=True)
    made.tx(ended, "confirmed")
    return made


def on(one: Record, home: Path, *args: str, **settings: Any) -> Any:
    """A command on this database; the node is out of reach."""
    defaults = {"DATABASE_URL": one.url, "RPC_URL": NOWHERE, "CONTRACT_ADDRESS": CONTRACT}
    return inside(home, *args, **(defaults | settings))


# Failing as it should ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LINES, "gateway"])
def test_command__no_settings__exits_2_and_names_the_setting(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    done = keeper(tmp_path, *LINES.get(name, (name,)))
    assert done.code == 2
    assert "GATEWAY_TOKEN" in done.err if name == "gateway" else "RPC_URL" in done.err
    assert len(done.text.splitlines()) <= 6
    assert "Traceback" not in done.text
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("name", LINES)
def test_command__rpc_out_of_reach__exits_2_and_names_rpc_url(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    settings = {"START_TIMEOUT_S": 2} if name == "run" else {}
    done = keeper(tmp_path, *LINES[name], RPC_URL=SECRET_RPC, CONTRACT_ADDRESS=CONTRACT, **settings)
    assert done.code == 2
    assert "RPC_URL" in done.err
    # `run` also has its log, on stdout.
    assert len((done.err if name == "run" else done.text).splitlines()) <= 6
    assert "Traceback" not in done.text
    assert "hunter22" not in done.text
    assert "0123456789abcdef0123" not in done.text
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("name", [name for name in LINES if name not in ("webhook",)])
def test_command__no_contract_address__exits_2_and_names_it(name: str, tmp_path: Path) -> None:
    done = keeper(tmp_path, *LINES[name], RPC_URL=NOWHERE)
    assert done.code == 2
    assert "CONTRACT_ADDRESS" in done.err or (name == "doctor" and "RPC_URL" in done.err)
    assert "Traceback" not in done.text


@pytest.mark.parametrize("name", ["stranded", "status", "settle"])
def test_command__node_that_never_answers__exits_2_within_15_s(name: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = keeper(tmp_path, *LINES[name], RPC_URL=url, CONTRACT_ADDRESS=CONTRACT)
        took = time.monotonic() - began
    assert done.code == 2
    assert "RPC_URL" in done.err
    assert took < 15


@pytest.mark.parametrize("name", ["status", "stranded", "sessions", "doctor"])
def test_command__json__errors_are_a_document_too(name: str, tmp_path: Path) -> None:
    done = keeper(tmp_path, *LINES[name], "--json")
    assert done.code == 2
    said = done.json()
    assert "RPC_URL" in json.dumps(said)
    assert name == "doctor" or list(said) == ["error"]


def test_command__setting_of_the_wrong_kind__names_it(tmp_path: Path) -> None:
    done = keeper(tmp_path, "stranded", RPC_URL=NOWHERE, CONTRACT_ADDRESS="0x123")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "CONTRACT_ADDRESS is not an address" in done.err


def test_command__bad_key__never_shows_it(tmp_path: Path) -> None:
    done = keeper(tmp_path, "run", RPC_URL=NOWHERE, CONTRACT_ADDRESS=CONTRACT, BACKEND_PRIVATE_KEY=KEY + "77")
    assert done.code == 2
    assert "BACKEND_PRIVATE_KEY" in done.err
    assert KEY not in done.text


def test_run__key_under_the_backends_name__says_what_it_is_called_here(tmp_path: Path) -> None:
    done = keeper(tmp_path, "run", RPC_URL=NOWHERE, CONTRACT_ADDRESS=CONTRACT, PRIVATE_KEY=KEY)
    assert done.code == 2
    assert "BACKEND_PRIVATE_KEY" in done.err
    assert KEY not in done.text


def test_command__no_database_yet__says_how_to_get_one(tmp_path: Path) -> None:
    done = keeper(tmp_path, "status", DATABASE_URL=f"sqlite:///{tmp_path}/none.db")
    assert done.code == 2
    assert "langdao-keeper run" in done.err
    assert not (tmp_path / "none.db").exists()


def test_command__some_other_database__is_refused_in_one_line(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE things (id INTEGER)")
    done = keeper(tmp_path, "sessions", DATABASE_URL=f"sqlite:///{tmp_path}/other.db")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "DATABASE_URL" in done.err


def test_command__file_that_is_no_database__is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.db").write_bytes(b"this is not a database, it only looks like a file" * 100)
    done = keeper(tmp_path, "sessions", DATABASE_URL=f"sqlite:///{tmp_path}/noise.db")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "DATABASE_URL" in done.err


def test_command__unknown_command_or_option__exits_2_with_usage(tmp_path: Path) -> None:
    for args in (("setle", "5"), ("sessions", "--limt", "3"), ("settle", "five")):
        done = keeper(tmp_path, *args)
        assert done.code == 2
        assert "Usage:" in done.err
        assert len(done.text.splitlines()) <= 6


def test_command__reader_of_the_pipe_gone__is_quiet(one: Record, tmp_path: Path) -> None:
    with one.database.write() as session:
        for number in range(3_000):
            daemon.add_alert(session, "alert.test", "x" * 100, number)
    env = environment(tmp_path, DATABASE_URL=one.url)
    command = f"{sys.executable} -m bot.cli sessions --json --limit 1000 | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
    assert done.stderr == ""


# Help ----------------------------------------------------------------------------------------------------------------


def test_help__root__imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom bot.cli import root\n"
        "root.main(['--help'], standalone_mode=False)\n"
        "heavy = {'rich', 'sqlmodel', 'sqlalchemy', 'web3', 'aiohttp', 'structlog', 'pydantic', 'fastapi', 'asyncio'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help__every_command__has_an_example_and_json(name: str, tmp_path: Path) -> None:
    line = WORDS[name] if name == "db" else (name,)
    done = keeper(tmp_path, *line, "--help")
    assert done.code == 0
    assert "Example:" in done.out
    assert f"langdao-keeper {' '.join(line)}" in done.out
    assert "--json" in done.out


def test_version__asked__is_the_packages(tmp_path: Path) -> None:
    done = keeper(tmp_path, "--version")
    assert (done.code, done.out.split()[0]) == (0, "langdao-keeper,")


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["status", "sessions", "settlements", "explain", "txs"])
def test_reading__database_named__needs_no_node(name: str, one: Record, tmp_path: Path) -> None:
    text, machine = on(one, tmp_path, *LINES[name]), on(one, tmp_path, *LINES[name], "--json")
    assert (text.code, machine.code) == (0, 0)
    assert text.err == ""
    assert machine.json()


def test_sessions__json__has_amounts_as_text(one: Record, tmp_path: Path) -> None:
    rows = on(one, tmp_path, "sessions", "--json").json()
    assert [row["session_id"] for row in rows] == [5, 4]
    assert all(isinstance(row["rate"], str) for row in rows)
    assert rows[1]["cost"] == "62000"


def test_sessions__filters__are_options(one: Record, tmp_path: Path) -> None:
    assert [row["session_id"] for row in on(one, tmp_path, "sessions", "--ended", "--json").json()] == [4]
    student = "0x" + f"{0xA1:040x}"
    assert [row["session_id"] for row in on(one, tmp_path, "sessions", "--student", student, "--json").json()] == [5]
    refused = on(one, tmp_path, "sessions", "--student", "alice")
    assert refused.code == 2
    assert "not an address" in refused.err


def test_sessions__unlinked__names_rooms_without_a_session(one: Record, tmp_path: Path) -> None:
    """What can't be linked is kept, retried, expired, and visible in `sessions --unlinked`."""
    heard_ms = time.time_ns() // 1_000_000 - 30_000
    one.room("req_lost", heard_ms=heard_ms)
    one.room("req_ghost", heard_ms=heard_ms - 7_300_000, state="expired")
    done = on(one, tmp_path, "sessions", "--unlinked")
    [lost] = [line for line in done.out.splitlines() if "req_lost" in line]
    [ghost] = [line for line in done.out.splitlines() if "req_ghost" in line]
    assert "given up in" in lost
    assert ghost.rstrip().endswith("given up")
    rooms = on(one, tmp_path, "sessions", "--unlinked", "--json").json()["rooms"]
    assert {room["room"]: room["state"] for room in rooms} == {"req_lost": "waiting", "req_ghost": "expired"}
    assert all(room["expires_ms"] == room["heard_ms"] + 7_200_000 for room in rooms)


def test_settlements__json__has_the_public_columns(one: Record, tmp_path: Path) -> None:
    from bot.store.queries import SETTLEMENT_COLUMNS

    [row] = on(one, tmp_path, "settlements", "--json").json()
    assert tuple(row) == SETTLEMENT_COLUMNS
    assert row["paid"] == "62000"


def test_explain__nothing_known__exits_1(one: Record, tmp_path: Path) -> None:
    done = on(one, tmp_path, "explain", "99")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert on(one, tmp_path, "explain", "99", "--json").json()["error"].startswith("No session")


def test_explain__text_of_strangers__cant_steer_the_terminal(one: Record, tmp_path: Path) -> None:
    key = SessionKey(5, *(row for row in _people(one)))
    one.fact("ended", key, payload={"endedBy": "\x1b[2Jstudent[bold]"})
    done = on(one, tmp_path, "explain", "5")
    assert "\x1b" not in done.out
    assert "student[bold]" in done.out


def _people(one: Record) -> tuple[str, str]:
    from bot.store import queries

    with one.database.read() as session:
        row = queries.session(session, 5)
    assert row is not None
    return row["student"], row["tutor"]


def test_txs__json__never_has_the_signed_bytes(one: Record, tmp_path: Path) -> None:
    assert "signed-bytes" not in on(one, tmp_path, "txs", "--json").out
    assert on(one, tmp_path, "txs", "--open", "--json").json() == []


def test_status__no_keeper_runs__says_so(one: Record, tmp_path: Path) -> None:
    one.status()
    data = on(one, tmp_path, "status", "--json").json()
    assert data["daemon"]["running"] is False
    assert data["active"] == 1
    assert data["waiting"]["per_minute"] == "60000"
    assert "not running" in on(one, tmp_path, "status").out


def test_status__keeper_runs__has_its_pid_and_mode(one: Record, tmp_path: Path) -> None:
    one.status(mode="watching", signing="guarded", updated_ms=round(time.time() * 1000))
    with daemon_of(one):
        data = on(one, tmp_path, "status", "--json").json()
    assert data["daemon"] | {"updated_ms": None} == {
        "running": True,
        "pid": os.getpid(),
        "mode": "watching",
        "signing": "guarded",
        "paused": False,
        "updated_ms": None,
        "stale": False,
    }
    assert data["feeds"]["socket"]["up"] is True


def test_status__state_of_the_daemon_unreadable__still_shows_the_rest(one: Record, tmp_path: Path) -> None:
    one.meta(status="{half a docu")
    assert on(one, tmp_path, "status", "--json").json()["active"] == 1


def test_status__watch_without_a_terminal__prints_on_and_ends_quietly(one: Record, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bot.cli", "status", "--watch", "--json"],
        env=environment(tmp_path, DATABASE_URL=one.url),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert json.loads(first)["active"] == json.loads(second)["active"] == 1
    assert err == ""
    assert process.returncode in (0, 130)


# The webhook's line --------------------------------------------------------------------------------------------------


def test_webhook__secret_made__prints_the_line_to_paste(one: Record, tmp_path: Path) -> None:
    secret = "s" * 43
    file = tmp_path / "keeper.db.webhook"
    file.write_text(secret + "\n")
    file.chmod(0o600)
    assert on(one, tmp_path, "webhook").out == f"BACKEND_URL=http://127.0.0.1:4100/hook/{secret}\n"
    public = on(one, tmp_path, "webhook", PUBLIC_URL="https://keeper.example.org/", HTTP_BIND="0.0.0.0:4100")
    assert public.out == f"BACKEND_URL=https://keeper.example.org/hook/{secret}\n"
    assert on(one, tmp_path, "webhook", HTTP_BIND="0.0.0.0:5000").out.startswith("BACKEND_URL=http://127.0.0.1:5000/")


def test_webhook__secret_file_of_its_own__asks_nobody_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "own.secret"
    file.write_text("t" * 43)
    file.chmod(0o600)
    done = keeper(tmp_path, "webhook", "--json", WEBHOOK_SECRET_FILE=file)
    assert done.json()["BACKEND_URL"].endswith("/hook/" + "t" * 43)


def test_webhook__no_secret_yet__says_who_makes_it(one: Record, tmp_path: Path) -> None:
    done = on(one, tmp_path, "webhook")
    assert done.code == 2
    assert "langdao-keeper run" in done.err
    assert not (tmp_path / "keeper.db.webhook").exists()


def test_webhook__file_that_others_may_read__is_refused(one: Record, tmp_path: Path) -> None:
    file = tmp_path / "keeper.db.webhook"
    file.write_text("s" * 43)
    file.chmod(0o644)
    done = on(one, tmp_path, "webhook")
    assert done.code == 2
    assert "chmod 600" in done.err
    assert "s" * 43 not in done.text


# Telling the daemon --------------------------------------------------------------------------------------------------


@contextmanager
def daemon_of(one: Record, answer: Any = None) -> Iterator[list[dict[str, Any]]]:
    """Holds the lock as a daemon does, and answers the inbox with `answer(row)`; yields what was asked."""
    lock = Lock(one.database)
    asked: list[dict[str, Any]] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.05):
            with one.database.read() as session:
                rows = inbox_rows.unanswered(session)
            for row in rows:
                asked.append({"kind": row.kind, **row.payload})
                said = answer(row)
                with one.database.write() as session:
                    inbox_rows.answer(session, row.id or 0, said, 1)

    thread = threading.Thread(target=serve)
    if answer is not None:
        thread.start()
    try:
        yield asked
    finally:
        stop.set()
        if answer is not None:
            thread.join()
        lock.release()


def test_pause__keeper_runs__asks_it(one: Record, tmp_path: Path) -> None:
    with daemon_of(one, lambda row: {"ok": True, "paused": row.kind == "pause"}) as asked:
        paused, resumed = on(one, tmp_path, "pause", "--json"), on(one, tmp_path, "resume")
    assert [row["kind"] for row in asked] == ["pause", "resume"]
    assert paused.json()["daemon"] == os.getpid()
    assert str(os.getpid()) in resumed.out


def test_pause__no_keeper_runs__holds_for_the_next_one(one: Record, tmp_path: Path) -> None:
    assert on(one, tmp_path, "pause").code == 0
    with one.database.read() as session:
        assert identity.get(session, "paused") == "1"
        assert inbox_rows.unanswered(session) == []
    assert on(one, tmp_path, "status", "--json").json()["daemon"]["paused"] is True
    assert on(one, tmp_path, "resume").code == 0
    assert on(one, tmp_path, "status", "--json").json()["daemon"]["paused"] is False


def test_pause__keeper_doesnt_answer__exits_2_and_the_request_stays(one: Record, tmp_path: Path) -> None:
    with daemon_of(one):
        done = on(one, tmp_path, "pause")
    assert done.code == 2
    assert str(os.getpid()) in done.err
    with one.database.read() as session:
        assert len(inbox_rows.unanswered(session)) == 1


def test_settle__keeper_runs__leaves_the_request_and_shows_where_to_look(one: Record, tmp_path: Path) -> None:
    with daemon_of(one, lambda row: {"ok": True, "session_id": 5}) as asked:
        done = on(one, tmp_path, "settle", "5", "--yes")
    assert done.code == 0
    assert asked == [{"kind": "settle", "session_id": 5, "by": "operator"}]
    assert "langdao-keeper explain 5" in done.out


def test_settle__keeper_refuses__exits_1_with_its_reason(one: Record, tmp_path: Path) -> None:
    with daemon_of(one, lambda row: {"ok": False, "error": "the daemon is paused"}):
        done = on(one, tmp_path, "settle", "5", "--yes")
    assert done.code == 1
    assert "the daemon is paused" in done.out


def test_settle__wait__ends_with_the_settlement(one: Record, tmp_path: Path) -> None:
    key = SessionKey(5, *_people(one))

    def settle(_row: Any) -> dict[str, Any]:
        one.end(key, paid=77_000)
        return {"ok": True, "session_id": 5}

    with daemon_of(one, settle):
        done = on(one, tmp_path, "settle", "5", "--yes", "--wait", "--json")
    assert done.code == 0
    assert done.json()["settlement"]["paid"] == "77000"


def test_settle__wait_and_it_fails__exits_1_with_the_outcome(one: Record, tmp_path: Path) -> None:
    key = SessionKey(5, *_people(one))

    def fail(_row: Any) -> dict[str, Any]:
        later = round(time.time() * 1000) + 1_000
        action = {"key": "x", "kind": "settle", "session_key": str(key), "created_ms": later, "state": "failed"}
        one.add(ActionRow(**action, ended_ms=later, outcome="failed"))
        return {"ok": True, "session_id": 5}

    with daemon_of(one, fail):
        done = on(one, tmp_path, "settle", "5", "--yes", "--wait")
    assert done.code == 1
    assert "Not settled: failed" in done.out


def test_settle__neither_terminal_nor_yes__exits_2_and_asks_nobody(one: Record, tmp_path: Path) -> None:
    with daemon_of(one, lambda row: {"ok": True}) as asked:
        done = on(one, tmp_path, "settle", "5")
    assert done.code == 2
    assert "--yes" in done.err
    assert asked == []


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("y\n", 0)])
def test_settle__on_a_terminal__shows_age_and_last_sign_of_life_and_asks(
    typed: str, code: int, one: Record, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    with daemon_of(one, lambda row: {"ok": True}) as asked:
        done = subprocess.run(
            [sys.executable, "-m", "bot.cli", "settle", "5"],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(tmp_path, DATABASE_URL=one.url, RPC_URL=NOWHERE, CONTRACT_ADDRESS=CONTRACT),
            cwd=tmp_path,
        )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code
    assert "old" in done.stderr
    assert "last sign of life" in done.stderr
    assert len(asked) == (code == 0)


def test_settle__ended_already__exits_1(one: Record, tmp_path: Path) -> None:
    done = on(one, tmp_path, "settle", "4", "--yes")
    assert done.code == 1
    assert "ended already" in done.err


def test_settle__no_keeper_and_no_key__exits_2_and_names_the_key(one: Record, tmp_path: Path) -> None:
    done = on(one, tmp_path, "settle", "5", "--yes")
    assert done.code == 2
    assert "BACKEND_PRIVATE_KEY" in done.err


def test_settle__dry_run_and_no_keeper__exits_2(one: Record, tmp_path: Path) -> None:
    done = on(one, tmp_path, "settle", "5", "--yes", BACKEND_PRIVATE_KEY=KEY, DRY_RUN=1)
    assert done.code == 2
    assert "DRY_RUN" in done.err
