"""`langdao-keeper index` against a real node: without a key, resumable, and honest about what it didn't read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.chain.follower import follower as module
from bot.domain.address import checksum
from bot.store.db import Database
from bot.store.queries import counts
from bot.store.schema import upgrade
from tests.support.anvil import RATE, ROOT, World, langdao
from tests.support.index import assert_equals_a_fresh_index, index
from tests.support.record import inside


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two sessions over, one running, all of them final, and a few blocks."""
    with langdao() as one:
        one.start(0, 0)
        one.end(0)
        one.start(1, 1)
        one.end(1, by=one.students[1])
        one.start(0, 2)
        one.node.mine(80)
        yield one


def settings(world: World, path: Path, **more: Any) -> dict[str, Any]:
    return {"RPC_URL": world.node.url, "CONTRACT_ADDRESS": world.contract, "DATABASE_URL": f"sqlite:///{path}"} | more


def test_index__without_a_key__commits_up_to_the_head_and_exits_0(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "index", "--json", **settings(world, tmp_path / "a.db"))
    assert done.code == 0
    found = done.json()
    assert (found["block"], found["block_hash"]) == (world.node.number(), world.node.header()["hash"])
    assert (found["logs"], found["sessions"], found["settlements"]) == (14, 3, 2)
    assert found["unfinished"] == {"sessions": 3, "settlements": 2}
    rows = inside(tmp_path, "settlements", "--json", **settings(world, tmp_path / "a.db")).json()
    assert [(row["session_id"], row["rate"], row["ended_by"], row["finality"]) for row in rows] == [
        (2, None, None, "final"),
        (1, None, None, "final"),
    ]


def test_index__details__reads_rates_and_who_ended(world: World, tmp_path: Path) -> None:
    found = inside(tmp_path, "index", "--details", "--json", **settings(world, tmp_path / "a.db")).json()
    assert found["unfinished"] == {"sessions": 0, "settlements": 0}
    rows = inside(tmp_path, "settlements", "--json", **settings(world, tmp_path / "a.db")).json()
    assert [(row["session_id"], row["rate"], row["ended_by"]) for row in rows] == [
        (2, str(RATE), "student"),
        (1, str(RATE), "owner"),
    ]


def test_index__again__resumes_and_adds_nothing(world: World, tmp_path: Path) -> None:
    inside(tmp_path, "index", **settings(world, tmp_path / "a.db"))
    found = inside(tmp_path, "index", "--json", **settings(world, tmp_path / "a.db")).json()
    assert (found["logs"], found["new_logs"], found["log_requests"]) == (14, 0, 0)


def test_index__people__says_how_far_and_what_is_unfinished(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "index", **settings(world, tmp_path / "a.db"))
    assert f"Committed up to block {world.node.number()}: 14 logs, 3 sessions, 2 settlements" in done.out
    assert "Unfinished: 3 sessions without a rate, 2 settlements without who ended" in done.out


def test_index__contract_that_cannot_answer__leaves_details_visibly_unfinished(tmp_path: Path) -> None:
    """any contract that has code; a contract that can't answer leaves them visibly unfinished"""
    with langdao() as world:
        world.start()
        world.end()
        world.node.rpc("anvil_setCode", world.contract, "0x60006000fd")  # reverts whatever is asked
        found = inside(
            tmp_path,
            "index",
            "--details",
            "--json",
            **settings(world, tmp_path / "a.db", START_BLOCK=world.deploy_block),
        )
        assert found.code == 0
        assert found.json()["unfinished"] == {"sessions": 1, "settlements": 1}


def test_index__no_contract_there__names_the_setting(world: World, tmp_path: Path) -> None:
    done = inside(
        tmp_path, "index", **settings(world, tmp_path / "a.db", CONTRACT_ADDRESS=str(checksum("0x" + "12" * 20)))
    )
    assert done.code == 2
    assert "CONTRACT_ADDRESS: no code at" in done.err


def kill_after(world: World, path: Path, after_s: float) -> None:
    environment = {**os.environ, **{name: str(value) for name, value in settings(world, path).items()}}
    process = subprocess.Popen(
        [sys.executable, "-m", "bot.cli", "index"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    time.sleep(after_s)  # wherever it is by then
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("after_s", [0.9, 1.4])
async def test_index__killed__resumes_where_the_rows_are(world: World, tmp_path: Path, after_s: float) -> None:
    """Whenever it is stopped, the next start goes on from there."""
    path = tmp_path / "a.db"
    kill_after(world, path, after_s)
    async with index(world, path) as one:
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_index__first_long_backfill_killed__the_next_start_makes_the_indexes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATE_INDEX_BLOCKS", 10)
    async with index(world, tmp_path / "a.db") as one:
        with monkeypatch.context() as patch:
            patch.setattr(one.follower, "_have_indexes", lambda: 1 / 0)  # the first thing after the pages
            with pytest.raises(ZeroDivisionError):
                await one.follower.catch_up()
        assert "ix_settlements_student" not in names(one.database)
    async with index(world, tmp_path / "a.db") as again:
        await again.follower.catch_up()
        there = names(again.database)
        await assert_equals_a_fresh_index(again, world, tmp_path / "fresh.db")
    new = Database(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(new)
    assert there == names(new)


def names(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return {row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")}


def test_counts__new_database__are_zero(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(database)
    with database.read() as session:
        assert counts(session) == {"logs": 0, "sessions": 0, "settlements": 0}
