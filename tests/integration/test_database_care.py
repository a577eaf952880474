"""Check, backup, vacuum and upgrade of a real database; a disk that is full, and a server that goes away."""

from __future__ import annotations

import resource
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.ops.backups import Backups
from bot.store import care, schema
from bot.store.db import Database
from tests.integration.test_cli_daemon import running, settings, until
from tests.integration.test_operator_site import site
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import NOW_S, Record, inside, record
from tests.support.servers import postgresql


@pytest.fixture
def one(tmp_path: Path) -> Record:
    made = record(tmp_path / "keeper.db")
    made.session(1)
    made.block(100, NOW_S)
    return made


def given(one: Record) -> dict[str, Any]:
    return {"DATABASE_URL": one.url}


# Check, backup, vacuum -----------------------------------------------------------------------------------------------


def test_check__whole_and_broken__says_so_by_exit_code(one: Record, tmp_path: Path) -> None:
    done = inside(tmp_path, "db", "check", "--json", **given(one))
    assert (done.code, done.json()) == (0, {"ok": True, "wrong": []})
    with sqlite3.connect(tmp_path / "keeper.db") as raw:
        raw.execute("DROP TABLE aftermath")
    raw.close()
    done = inside(tmp_path, "db", "check", "--json", **given(one))
    assert (done.code, done.json()["wrong"]) == (1, ["table aftermath is missing"])


def test_check__pages_overwritten__finds_them(one: Record, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "keeper.db") as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sessions'").fetchone()[0]
        size = raw.execute("PRAGMA page_size").fetchone()[0]
    raw.close()
    one.database.dispose()
    with (tmp_path / "keeper.db").open("r+b") as file:
        file.seek((root - 1) * size + 3)
        file.write(b"\x7f\x7f\x7f\x7f")
    assert inside(tmp_path, "db", "check", **given(one)).code != 0


def test_backup__while_another_writes__is_whole_and_private(one: Record, tmp_path: Path) -> None:
    """A copy is taken while others write, is consistent, … and readable by its owner alone."""
    stop = threading.Event()

    def write() -> None:
        at = 200
        while not stop.is_set():
            one.block(at, NOW_S)
            at += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        target = tmp_path / "copies" / "keeper.db"
        assert inside(tmp_path, "db", "backup", str(target), **given(one)).code == 0
    finally:
        stop.set()
        writer.join()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    copy = Database(f"sqlite:///{target}", must_exist=True)
    assert care.check(copy) == []
    copy.dispose()
    assert [path.name for path in target.parent.iterdir() if path.name.endswith(".part")] == []
    assert inside(tmp_path, "db", "backup", str(target), **given(one)).code == 2  # nothing is overwritten


def test_vacuum__rows_deleted__gives_the_disk_back(one: Record, tmp_path: Path) -> None:
    for number in range(1_000, 1_400):
        one.block(number, NOW_S)
    with one.database.write() as session:
        from sqlalchemy import text

        session.connection().execute(text("CREATE TABLE ballast AS SELECT randomblob(4000) AS x FROM blocks"))
        session.connection().execute(text("DROP TABLE ballast"))
    with one.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    said = inside(tmp_path, "db", "vacuum", "--json", **given(one)).json()
    assert said["after_bytes"] < said["before_bytes"] - 1_000_000
    assert care.check(one.database) == []


def test_vacuum__keeper_running__is_refused(one: Record, tmp_path: Path) -> None:
    from bot.store.lock import Lock

    lock = Lock(one.database)
    try:
        done = inside(tmp_path, "db", "vacuum", **given(one))
        assert done.code == 2
        assert "already runs" in done.err
    finally:
        lock.release()


# On a schedule -------------------------------------------------------------------------------------------------------


def test_backups__more_than_are_kept__the_oldest_go_and_strangers_stay(one: Record, tmp_path: Path) -> None:
    """Only files of its own making are ever deleted, and the newest `keep` stay."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for day in (1, 2, 3):
        (folder / f"keeper.db.2026110{day}T000000Z").write_bytes(b"old")
    (folder / "keeper.db.mine").write_bytes(b"a stranger's")

    async def failed(_: str) -> None: ...

    backups = Backups(one.database, folder, every_s=3600, keep=2, failed=failed)
    made = backups.make()
    assert [path.name for path in backups.made()] == [made.name, "keeper.db.20261103T000000Z"]
    assert (folder / "keeper.db.mine").exists()


def test_backups__daemon_at_work__one_is_made_and_a_restart_makes_no_other(tmp_path: Path) -> None:
    with langdao(students=1, tutors=1) as world:
        world.node.rpc("evm_setIntervalMining", 1)
        named = settings(world, tmp_path)
        for _ in range(2):
            with running(tmp_path, "run", **named) as daemon:
                until(lambda: (tmp_path / "log").read_text().count("http.listening") >= 1)
                copies = until(lambda: list((tmp_path / "backups").glob("keeper.db.2*Z")))
                daemon.terminate()
                daemon.wait(15)
        assert len(copies) == 1


@pytest.mark.provokes("alert.backup")
def test_backups__folder_that_cant_be_made__raises_an_alert(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file, no folder")
    with site(tmp_path, BACKUP_FOLDER=str(tmp_path / "blocked" / "x")):
        until(lambda: "alert.backup" in (tmp_path / "log").read_text())


# Upgrading -----------------------------------------------------------------------------------------------------------


def older(path: Path) -> Database:
    """A database as the first schema made it."""
    from alembic import command
    from alembic.config import Config

    database = Database(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with database.engine.connect().execution_options(keeper_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    return database


def test_upgrade__older_schema__keeps_a_copy_of_it_first(tmp_path: Path) -> None:
    database = older(tmp_path / "keeper.db")
    schema.upgrade(database)
    assert schema.version(database) == schema.HEAD
    copy = Database(f"sqlite:///{tmp_path}/keeper.db.schema-0001", must_exist=True)
    assert schema.version(copy) == "0001"
    for one in (database, copy):
        one.dispose()


# Trouble -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=2, tutors=2) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def test_run__disk_full_for_a_while__signs_nothing_alerts_and_goes_on_without_loss(
    world: World, tmp_path: Path
) -> None:
    """A full or read-only disk, a lock or a server that is away are waited out: while nothing can be written nothing
    goes on."""
    world.start(0, 0)
    named = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, ALERT_PATIENCE_S=1, BACKUP_EVERY_H=0)
    with running(tmp_path, "run", **named) as daemon:
        until(lambda: inside(tmp_path, "sessions", "--json", **named).out.startswith("[\n"))
        # No file of this process may grow: for SQLite that is a disk without room.
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))
        log = tmp_path / "log"
        with sqlite3.connect(tmp_path / "keeper.db") as raw:
            raw.execute(
                "INSERT INTO inbox (kind, payload, asked_ms) VALUES ('settle', '{\"session_id\": 1}', ?)",
                (int(time.time() * 1000),),
            )
        raw.close()
        time.sleep(6)
        assert world.is_active(0)
        assert daemon.poll() is None, log.read_text()[-2000:]
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: not world.is_active(0))
        until(lambda: inside(tmp_path, "settlements", "--json", **named).json())


def test_run__postgresql_stopped_and_started__goes_on_and_is_still_the_only_one(world: World, tmp_path: Path) -> None:
    with postgresql() as server:
        named = settings(world, tmp_path, DATABASE_URL=server.url, BACKEND_PRIVATE_KEY=OWNER_KEY)
        with running(tmp_path, "run", **named) as daemon:
            until(lambda: inside(tmp_path, "sessions", "--json", **named).code == 0)
            until(lambda: "http.listening" in (tmp_path / "log").read_text())
            server.stop()
            server.start()
            world.start(0, 0)
            until(lambda: inside(tmp_path, "sessions", "--active", "--json", **named).out.startswith("[\n"))
            assert daemon.poll() is None, (tmp_path / "log").read_text()[-3000:]
            with running(tmp_path, "run", **named) as second:
                assert second.wait(40) == 2


# Restoring -----------------------------------------------------------------------------------------------------------


def test_restore__as_the_guide_says__is_the_chain_again_and_signs_nothing_twice(world: World, tmp_path: Path) -> None:
    """docs/backup.md, step by step: what was settled after the copy was made is read from the chain."""
    named = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, BACKUP_EVERY_H=0)
    for number in range(2):
        world.start(number, number)
    with running(tmp_path, "run", **named) as daemon:
        until(lambda: "http.listening" in (tmp_path / "log").read_text())
        assert inside(tmp_path, "settle", "1", "--yes", "--wait", **named).code == 0
        assert inside(tmp_path, "db", "backup", "backups/keeper.db", **named).code == 0
        assert inside(tmp_path, "settle", "2", "--yes", "--wait", **named).code == 0
        daemon.terminate()
        assert daemon.wait(15) == 0
    checks = inside(tmp_path, "doctor", "--json", **named).json()["checks"]
    assert next(check["value"] for check in checks if check["name"] == "nonce").endswith("none waits")
    for left in tmp_path.glob("keeper.db-*"):
        left.unlink()
    (tmp_path / "backups" / "keeper.db").replace(tmp_path / "keeper.db")
    assert inside(tmp_path, "db", "check", **named).code == 0
    (tmp_path / "log").unlink()
    with running(tmp_path, "run", **named):
        until(lambda: "http.listening" in (tmp_path / "log").read_text())
        until(lambda: len(inside(tmp_path, "settlements", "--json", **named).json()) == 2)
        assert inside(tmp_path, "audit", **named).code == 0
        assert [row["sessions"] for row in inside(tmp_path, "txs", "--json", **named).json()] == [[1]]
