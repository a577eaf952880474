"""Requests by other processes, on a real database: whatever they are, each is answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import col, select

from bot.domain.policy import Policy
from bot.ops.inbox import Inbox
from bot.reconciler import Reconciler
from bot.store import schema
from bot.store.db import Database, Writer
from bot.store.tables import InboxRow
from tests.support.keeper import Recorded
from tests.support.sessions import T0


class Asked:
    def __init__(self, path: Path) -> None:
        self.database = Database(f"sqlite:///{path}")
        schema.upgrade(self.database)
        self.writer = Writer(self.database)
        self.reconciler = Reconciler(
            self.writer, Policy(), Recorded(self.database), webhook_silence_ms=45_000, clock_ms=lambda: T0
        )
        self.inbox = Inbox(self.writer, self.reconciler, signs=lambda: True, clock_ms=lambda: T0)

    async def answers(self, kind: str, payload: Any) -> dict[str, Any]:
        with self.database.write() as session:
            session.add(InboxRow(kind=kind, payload=payload, asked_ms=T0))
        await self.inbox.read()
        with self.database.read() as session:
            row = session.exec(select(InboxRow).order_by(col(InboxRow.id).desc()).limit(1)).one()
            assert row.answered_ms == T0
            return dict(row.answer or {})


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    asked = Asked(tmp_path / "keeper.db")
    await asked.reconciler.load(0)
    yield asked
    asked.writer.close()
    asked.database.dispose()


@pytest.mark.parametrize("payload", [None, [], [1], "settle", 7, True])
@pytest.mark.parametrize("kind", ["settle", "pause", "resume", "nonsense"])
async def test_read__payload_is_no_object__answered_with_an_error(asked: Asked, kind: str, payload: Any) -> None:
    """a request that makes no sense is answered with an error"""
    assert (await asked.answers(kind, payload))["ok"] is False
    assert asked.reconciler.conditions.paused is False


@pytest.mark.parametrize("payload", [{}, {"session_id": "1"}, {"session_id": True}, {"session_id": 2**80}])
async def test_read__settle_without_a_session__answered_with_an_error(asked: Asked, payload: Any) -> None:
    assert (await asked.answers("settle", payload))["ok"] is False


@pytest.mark.parametrize(
    "payload", ["{session_id: 1}", "", "quoted", "[" * 100_000], ids=["bare", "empty", "word", "deep"]
)
async def test_read__payload_written_by_hand_is_no_json__answered_with_an_error(asked: Asked, payload: str) -> None:
    """It must not end the daemon, at this start and at every later one."""
    with asked.database.write() as session:
        session.connection().execute(
            text("INSERT INTO inbox (kind, payload, asked_ms) VALUES ('settle', :payload, 1)"), {"payload": payload}
        )
    assert (await asked.answers("pause", {}))["ok"] is True
    with asked.database.read() as session:
        answer = session.execute(text("SELECT answer FROM inbox ORDER BY id LIMIT 1")).scalar()
    assert json.loads(str(answer))["ok"] is False
