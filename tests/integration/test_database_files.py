"""What somebody does to the database's files: taken away, replaced, of another version, of another user."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.errors import Misconfigured
from bot.store import schema
from bot.store.db import Database, Writer
from bot.store.lock import Closed, Lock, holder
from tests.integration.test_cli_daemon import running, settings, until
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import CONTRACT, Record, inside, record

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def one(tmp_path: Path) -> Record:
    made = record(tmp_path / "keeper.db")
    made.session(1)
    return made


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=1, tutors=1) as one:
        yield one


# While a keeper runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["nothing", "a copy"])
def test_run__database_taken_away__stops_and_names_the_file(world: World, tmp_path: Path, then: str) -> None:
    """nothing is written into a file that was removed or replaced at its place, where no restart would find it"""
    named = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, BACKUP_EVERY_H=0)
    log, database = tmp_path / "log", tmp_path / "keeper.db"
    with running(tmp_path, "run", **named) as daemon:
        until(lambda: "http.listening" in log.read_text())
        aside = tmp_path / "moved.db"
        if then == "a copy":
            shutil.copy(database, tmp_path / "copy.db")
        database.rename(aside)
        if then == "a copy":
            (tmp_path / "copy.db").rename(database)
        until(lambda: daemon.poll() is not None)
        assert daemon.returncode == 2
    said = log.read_text().splitlines()[-1]
    assert f"DATABASE_URL: {database} was removed or replaced while the keeper ran" in said
    assert "docs/backup.md" in said


async def test_writer__database_taken_away__a_durable_change_is_refused_before_it_is_made(one: Record) -> None:
    """A durable one is written only while the database is still ours; in SQLite every one."""
    lock = Lock(one.database)
    writer = Writer(one.database, lock.ensure)
    made: list[bool] = []
    assert one.database.path is not None
    one.database.path.rename(one.database.path.with_name("aside"))
    for durable in (False, True):
        with pytest.raises(Misconfigured, match="removed or replaced"):
            await writer(lambda _, durable=durable: made.append(durable), durable=durable)
    assert made == []
    writer.close()
    lock.release()


def test_lock__its_file_removed_as_stale__is_taken_again_before_the_next_write(one: Record) -> None:
    """while a `Lock` is held, a second one on the same database raises Misconfigured naming the holder's pid"""
    lock = Lock(one.database)
    Path(f"{one.database.path}.lock").unlink()
    lock.ensure()
    with pytest.raises(Misconfigured, match=rf"pid {os.getpid()}\) already runs"):
        Lock(one.database, patience_s=0)
    lock.release()


def test_lock__its_file_removed_and_another_took_it__the_first_one_gives_up(one: Record) -> None:
    lock = Lock(one.database)
    Path(f"{one.database.path}.lock").unlink()
    other = Lock(one.database)
    with pytest.raises(Misconfigured, match="already runs"):
        lock.ensure()
    other.release()


# At a start ----------------------------------------------------------------------------------------------------------


def test_lock__its_file_cant_be_opened__says_whose_it_may_be(one: Record, world: World, tmp_path: Path) -> None:
    Path(f"{one.database.path}.lock").mkdir()  # as it is with another user's file: nobody may write it
    with pytest.raises(Closed, match=r"keeper\.db\.lock can't be opened"):
        holder(one.database)
    done = inside(tmp_path, "run", **settings(world, tmp_path))
    assert done.code == 2
    assert "keeper.db.lock can't be opened (Is a directory). Is it another user's?" in done.err
    assert inside(tmp_path, "status", "--json", **settings(world, tmp_path)).json()["daemon"]["running"] is False


def test_run__database_that_cant_be_made__is_one_line(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "run", **settings(world, tmp_path, DATABASE_URL="sqlite:////proc/keeper.db"))
    assert done.code == 2
    assert done.err == (
        "langdao-keeper: DATABASE_URL: /proc/keeper.db can't be written. Mend its rights or choose another place\n"
    )


def test_check__file_cut_short__says_that_a_copy_is_needed(one: Record, tmp_path: Path) -> None:
    assert one.database.path is not None
    with one.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    one.database.dispose()
    with one.database.path.open("r+b") as file:
        file.truncate(one.database.path.stat().st_size // 2)
    done = inside(tmp_path, "db", "check", "--json", DATABASE_URL=one.url)
    assert done.code == 2
    assert "malformed). Put a copy in its place: docs/backup.md" in done.json()["error"]


@pytest.mark.parametrize(
    ("present", "remedy"), [("0006", "Start `langdao-keeper run` once"), ("9999", "made by a newer keeper: upgrade")]
)
def test_schema__older_and_newer__each_has_its_own_remedy(
    one: Record, tmp_path: Path, present: str, remedy: str
) -> None:
    assert one.database.path is not None
    with sqlite3.connect(one.database.path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = ?", (present,))
    raw.close()
    given = {"DATABASE_URL": one.url, "RPC_URL": NOWHERE, "CONTRACT_ADDRESS": CONTRACT}
    done = inside(tmp_path, "status", **given)
    assert done.code == 2
    assert f"has schema {present}, and this keeper's is {schema.HEAD}" in done.err
    assert remedy in done.err
    checks = {check["name"]: check for check in inside(tmp_path, "doctor", "--json", **given).json()["checks"]}
    assert checks["schema"]["result"] == "failed"
    assert remedy in checks["schema"]["remedy"]


def test_database__opened_again__is_left_as_it_was(one: Record) -> None:
    assert one.database.path is not None
    before = one.database.path.stat().st_mtime_ns
    Database(one.url).dispose()
    assert one.database.path.stat().st_mtime_ns == before
