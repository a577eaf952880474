"""The commands that ask the daemon for something, and what they do without one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import SessionKey
from bot.store import identity, inbox_rows
from bot.store.tables import ActionRow
from tests.support.commands import KEY, NOWHERE, daemon_of, known, on, people
from tests.support.record import CONTRACT, Record, environment


@pytest.fixture
def one(tmp_path: Path) -> Record:
    return known(tmp_path)


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
    key = SessionKey(5, *people(one))

    def settle(_row: Any) -> dict[str, Any]:
        one.end(key, paid=77_000)
        return {"ok": True, "session_id": 5}

    with daemon_of(one, settle):
        done = on(one, tmp_path, "settle", "5", "--yes", "--wait", "--json")
    assert done.code == 0
    assert done.json()["settlement"]["paid"] == "77000"


def test_settle__wait_and_it_fails__exits_1_with_the_outcome(one: Record, tmp_path: Path) -> None:
    key = SessionKey(5, *people(one))

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
