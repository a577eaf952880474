"""The commands that read: what they print of a known record, for people and as JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot.domain.facts import SessionKey
from tests.support.commands import NOWHERE, daemon_of, known, on, on_terminal, people
from tests.support.record import CONTRACT, Record, environment, keeper


@pytest.fixture
def one(tmp_path: Path) -> Record:
    return known(tmp_path)


@pytest.mark.parametrize("line", ["status", "sessions", "settlements", "explain 5", "txs"])
def test_reading__database_named__needs_no_node(line: str, one: Record, tmp_path: Path) -> None:
    text, machine = on(one, tmp_path, *line.split()), on(one, tmp_path, *line.split(), "--json")
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
    key = SessionKey(5, *(row for row in people(one)))
    one.fact("ended", key, payload={"endedBy": "\x1b[2Jstudent[bold]"})
    done = on(one, tmp_path, "explain", "5")
    assert "\x1b" not in done.out
    assert "student[bold]" in done.out


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


def test_status__gas_was_burnt__is_told_beside_the_budget_and_sessions_by_rule(one: Record, tmp_path: Path) -> None:
    key = SessionKey(4, *people(one))
    burnt = {
        "gas_cost": str(3 * 10**15),
        "mined_ms": round(time.time() * 1000),
        "stored_ms": 1,
        "hash": "0x" + "77" * 32,
    }
    one.tx(key, "confirmed", nonce=99, **burnt)
    one.status(gas_budget_wei=str(2 * 10**17))
    data = on(one, tmp_path, "status", "--json").json()
    assert data["gas"] == {"day_wei": str(3 * 10**15), "budget_wei": str(2 * 10**17)}
    said = on(one, tmp_path, "status").out
    assert "burnt 0.003 ETH of 0.2 ETH in 24 h" in said
    assert "Sessions active on chain: 1 (1 ended)" in said


def test_status__terminal_of_80_columns__leaves_out_columns_and_breaks_no_value(one: Record, tmp_path: Path) -> None:
    given = {"DATABASE_URL": one.url, "RPC_URL": NOWHERE, "CONTRACT_ADDRESS": CONTRACT}
    narrow = on_terminal(tmp_path, "status", columns=80, **given)
    assert max(map(len, narrow)) <= 80
    assert any(re.match(r" 4 .* 0\.062 PYUSD +keeper", line) for line in narrow), "\n".join(narrow)
    assert not any("transaction" in line for line in narrow)
    assert any("transaction" in line for line in on_terminal(tmp_path, "status", columns=160, **given))


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
