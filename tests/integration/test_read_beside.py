"""Reading beside a daemon that writes, on SQLite and on a real PostgreSQL, as `replay` and other commands do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

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
from tests.integration.test_cli_daemon import running, settings, until
from tests.integration.test_run import POLICY, hook_line, post
from tests.integration.test_store import OURS, STUDENT, TUTOR, postgres, url
from tests.support.anvil import OWNER_KEY, langdao
from tests.support.anvil import World as Chain
from tests.support.record import inside, keeper

__all__ = ["postgres", "url"]

LESSONS = 2


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


@pytest.fixture
def world() -> Iterator[Chain]:
    with langdao(students=LESSONS, tutors=LESSONS) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def test_replay__beside_a_run_that_is_settling__no_difference_and_it_goes_on_settling(
    world: Chain, tmp_path: Path, url: str
) -> None:
    """reads only, so the daemon may run meanwhile"""
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, DATABASE_URL=url, **POLICY)
    given["WEBHOOK_SECRET_FILE"] = tmp_path / "hook.secret"
    counts: list[int] = []
    with running(tmp_path, "run", **given) as daemon:
        hook = hook_line(tmp_path, given)
        for lesson in range(LESSONS):
            world.start(lesson, lesson)
        for lesson in range(LESSONS):
            until(lambda lesson=lesson: world.is_active(lesson))
            hung_up = {"type": "session-ended", "sessionId": lesson + 1, "endedBy": "student"}
            until(lambda said=hung_up: post(hook, said) == 200)
            over = False
            while not over:  # from the hint through decision, nudge and transaction to the end on chain
                over = not world.is_active(lesson)
                done = inside(tmp_path, "replay", "--json", **given)
                assert done.code == 0, done.text
                found = done.json()
                assert (found["different"], found["without_inputs"]) == ([], 0)
                counts.append(found["decisions"])
        said = keeper(tmp_path, "replay", **given)  # as its own process, as an operator would
        assert said.code == 0, said.text
        assert re.fullmatch(rf"\d+ decisions on {LESSONS} sessions made again, no differences\n", said.out)

        def all_settled() -> bool:
            rows = inside(tmp_path, "settlements", "--json", **given).json()
            return [row["by_keeper"] for row in rows] == [True] * LESSONS

        until(all_settled)
        assert daemon.poll() is None
    assert counts == sorted(counts)
    assert counts[-1] >= counts[0] + LESSONS  # it decided on all of them while it was read
