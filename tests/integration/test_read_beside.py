"""Reading beside a daemon that writes, on SQLite and on a real PostgreSQL, as `replay` and other commands do."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict

import pytest
from click.testing import CliRunner
from sqlmodel import Session, select

from bot.cli.replay import command as replay
from bot.domain.decide import decide
from bot.domain.facts import SessionKey
from bot.domain.policy import Policy
from bot.domain.rules import World
from bot.domain.saw import pack
from bot.domain.session import Session as Lesson
from bot.store import records
from bot.store.db import Database, Writer
from bot.store.lock import Lock
from bot.store.schema import upgrade
from bot.store.tables import Meta, PolicyRow
from tests.integration.test_store import OURS, STUDENT, TUTOR, postgres, url

__all__ = ["postgres", "url"]


async def test_read__others_write_meanwhile__sees_one_state_and_keeps_nobody_waiting(url: str) -> None:
    """A session that changes nothing, on one consistent state of the database, whoever writes meanwhile."""
    database = Database(url)
    upgrade(database)
    lock, writer = Lock(database), Writer(database)

    def another(tx: Session) -> None:
        tx.add(Meta(name=f"k{time.time_ns()}", value="1"))

    reader = Database(url)  # as `replay` beside `run`, which holds the lock
    with reader.read() as session:
        before = len(session.exec(select(Meta)).all())
        await asyncio.wait_for(writer(another), 5)
        assert len(session.exec(select(Meta)).all()) == before
    with reader.read() as session:
        assert len(session.exec(select(Meta)).all()) == before + 1
    writer.close()
    lock.release()
    for one in (reader, database):
        one.dispose()


def test_replay__beside_the_daemon_on_either_database__says_the_same(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """reads only, so the daemon may run meanwhile"""
    database = Database(url)
    upgrade(database)
    with database.write() as session:
        policy = json.loads(json.dumps(asdict(Policy())))
        session.add(PolicyRow(at_ms=1, decided_after=0, policy=policy))
        key = SessionKey(1, STUDENT, TUTOR)
        lesson = Lesson(key=key, started_ms=1_000)
        made = decide(lesson, Policy(), World(), 2_000)
        records.add_decision(session.connection(), key, made, 2_000, pack(lesson, World()))
    lock = Lock(database)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CONTRACT_ADDRESS", OURS.contract)
    with database.write():  # the daemon is in the middle of a transaction
        again = CliRunner().invoke(replay, ["--json"])
        other = CliRunner().invoke(replay, ["--json", "--set", "MASS_HOLD_MAX_S=60"])
    assert again.exit_code == 0, again.output
    assert {name: json.loads(again.stdout)[name] for name in ("decisions", "different")} == {
        "decisions": 1,
        "different": [],
    }
    assert other.exit_code == 0, other.output
    assert json.loads(other.stdout)["changed"] == []
    lock.release()
    database.dispose()
