"""The commands as a person meets them: refusals in one line that name the setting, and help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bot.cli import COMMANDS
from bot.store import records as daemon
from tests.support.commands import KEY, NOWHERE, known
from tests.support.record import CONTRACT, Record, environment, keeper

SECRET_RPC = "http://user:hunter22@127.0.0.1:9/v3/0123456789abcdef0123"

WORDS = {"explain": ("explain", "5"), "settle": ("settle", "5"), "db": ("db", "check")}
# Everything that needs the chain or the database. These don't: the bundled backend; what writes the settings, and what
# sends an alert; and `doctor`, whose list is the answer.
LINES = {name: WORDS.get(name, (name,)) for name in COMMANDS if name not in ("gateway", "init", "alert", "doctor")}


@pytest.fixture
def one(tmp_path: Path) -> Record:
    return known(tmp_path)


# Failing as it should ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LINES, "gateway"])
def test_command__no_settings__exits_2_and_names_the_setting(name: str, tmp_path: Path) -> None:
    done = keeper(tmp_path, *LINES.get(name, (name,)))
    assert done.code == 2
    assert "GATEWAY_TOKEN" in done.err if name == "gateway" else "RPC_URL" in done.err
    assert len(done.text.splitlines()) <= 6
    assert "Traceback" not in done.text


@pytest.mark.parametrize("name", LINES)
def test_command__rpc_out_of_reach__exits_2_and_names_rpc_url(name: str, tmp_path: Path) -> None:
    settings = {"START_TIMEOUT_S": 2} if name == "run" else {}
    done = keeper(tmp_path, *LINES[name], RPC_URL=SECRET_RPC, CONTRACT_ADDRESS=CONTRACT, **settings)
    assert done.code == 2
    assert "RPC_URL" in done.err
    # `run` also has its log, on stdout.
    assert len((done.err if name == "run" else done.text).splitlines()) <= 6
    assert "Traceback" not in done.text
    assert "hunter22" not in done.text
    assert "0123456789abcdef0123" not in done.text


@pytest.mark.parametrize("name", [name for name in LINES if name not in ("webhook",)])
def test_command__no_contract_address__exits_2_and_names_it(name: str, tmp_path: Path) -> None:
    done = keeper(tmp_path, *LINES[name], RPC_URL=NOWHERE)
    assert done.code == 2
    assert "CONTRACT_ADDRESS" in done.err
    assert "Traceback" not in done.text


@pytest.mark.parametrize("name", ["stranded", "status", "settle"])
def test_command__node_that_never_answers__exits_2_soon_enough(name: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = keeper(tmp_path, *LINES[name], RPC_URL=url, CONTRACT_ADDRESS=CONTRACT)
    assert done.code == 2
    assert "RPC_URL" in done.err


@pytest.mark.parametrize("name", ["status", "stranded", "sessions"])
def test_command__json__errors_are_a_document_too(name: str, tmp_path: Path) -> None:
    done = keeper(tmp_path, *LINES[name], "--json")
    assert done.code == 2
    said = done.json()
    assert "RPC_URL" in json.dumps(said)
    assert list(said) == ["error"]


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
            daemon.add_alert(session.connection(), "alert.test", "x" * 100, number)
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
