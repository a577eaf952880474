"""`init` on a real node: from a backend's .env, by asking, and what it refuses."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.ops import setting_up
from bot.settings import Settings
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import environment, inside, keeper

KEY = OWNER_KEY.removeprefix("0x")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with langdao(students=1, tutors=1) as one:
        yield one


@pytest.fixture
def backend(world: World, tmp_path: Path) -> Path:
    """A backend's .env as they are: without 0x, quoted, with names of its own."""
    path = tmp_path / "backend.env"
    path.write_text(
        f'RPC_URL="{world.node.url}"\nPRIVATE_KEY={KEY}\nCONTRACT_ADDRESS={world.contract.lower()}\nPORT=9\n'
        "JWT_SECRET=hunter2hunter2\n"
    )
    return path


def test_init__backends_env__writes_a_watching_env_of_mode_0600_that_doctor_takes(
    world: World, backend: Path, tmp_path: Path
) -> None:
    done = keeper(tmp_path, "init", "--from", str(backend), "--yes", "--json")
    said = done.json()
    results = {check["name"]: check["result"] for check in said["checks"]}
    assert (results["rpc"], results["contract"], results["owner"]) == ("ok", "ok", "ok")
    assert results["backend"] == "failed"  # nothing listens at its port here
    assert done.code == 1
    written = (tmp_path / ".env").read_text()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert KEY not in written
    assert "hunter2" not in written
    assert Settings(_env_file=tmp_path / ".env").socket_url.get_secret_value() == "http://127.0.0.1:9"  # type: ignore[call-arg,union-attr]


def test_init__sign__takes_the_key_and_keeps_it_out_of_what_it_says(backend: Path, tmp_path: Path) -> None:
    backend.write_text(backend.read_text().replace("PORT=9\n", ""))
    done = keeper(tmp_path, "init", "--from", str(backend), "--yes", "--sign")
    assert done.code == 0, done.text
    assert KEY not in done.text
    assert f"BACKEND_PRIVATE_KEY={KEY}" in (tmp_path / ".env").read_text()
    assert "ends what is over" in done.out


def test_init__file_there__is_refused_and_kept_with_force(backend: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLD=1\n")
    done = keeper(tmp_path, "init", "--from", str(backend), "--yes")
    assert done.code == 2
    assert "--force" in done.err
    assert (tmp_path / ".env").read_text() == "OLD=1\n"
    keeper(tmp_path, "init", "--from", str(backend), "--yes", "--force")
    assert (tmp_path / ".env.old").read_text() == "OLD=1\n"
    assert "RPC_URL=" in (tmp_path / ".env").read_text()


def test_init__asked__mends_a_wrong_answer_and_writes(world: World, tmp_path: Path) -> None:
    answers = f"nonsense\n{world.node.url}\n0x12\n{world.contract}\n\n\n\n"
    done = subprocess.run(
        [sys.executable, "-m", "bot.cli", "init"],
        input=answers,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RPC_URL is not a URL" in done.stderr
    assert "CONTRACT_ADDRESS is not an address" in done.stderr
    assert "It watches and explains" in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [(["--yes"], "RPC_URL and CONTRACT_ADDRESS"), (["--from", "none.env", "--yes"], "no such file")],
    ids=["nothing-found", "no-such-file"],
)
def test_init__nothing_to_go_by__exits_2_and_writes_nothing(tmp_path: Path, args: list[str], words: str) -> None:
    done = inside(tmp_path, "init", *args, "--to", str(tmp_path / "new.env"))
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "new.env").exists()


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1))
def test_text__any_value__is_read_back_as_it_was(value: str) -> None:
    """A value is written so that it is read back as it was."""
    import io

    from dotenv import dotenv_values

    written = io.StringIO(setting_up.text({"APPRISE_URLS": value}))
    found: dict[str, Any] = dotenv_values(stream=written, interpolate=False)
    assert found["APPRISE_URLS"] == value
