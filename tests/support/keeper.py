"""A reconciler on a real database, with a clock that the test moves, and effects that are written down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from bot.domain.facts import TRUST_OF, Hint, Kind, SessionKey, Source
from bot.domain.policy import Policy
from bot.domain.session import Session
from bot.reconciler import Reconciler
from bot.store import chain_details, chain_reorg, chain_rows, schema
from bot.store.chain_rows import End, Finality, Reorg, Rows, Start
from bot.store.db import Database, Writer
from bot.store.tables import ActionRow, AlertRow, DecisionRow, Settlement
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, STUDENT, T0, TUTOR

T0_S = T0 // 1000
RATE = 100
KEY = SessionKey(1, STUDENT, TUTOR)
OTHER = SessionKey(2, OTHER_STUDENT, OTHER_TUTOR)
TOKEN = OTHER_TUTOR
NOT_FINAL = Finality(confirmed_to=0, final_to=0)


@dataclass
class Recorded:
    """What decisions led to, and what the database held at that moment."""

    database: Database
    nudges: list[tuple[int, SessionKey, dict[str, Any]]] = field(default_factory=list)
    settles: list[tuple[int, SessionKey]] = field(default_factory=list)
    expected: list[list[SessionKey]] = field(default_factory=list)
    alerts: list[tuple[str, str]] = field(default_factory=list)

    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None:
        self._stored(action_id)
        self.nudges.append((action_id, key, payload))

    async def expect(self, keys: Sequence[SessionKey]) -> None:
        self.expected.append(list(keys))

    def settle(self, action_id: int, key: SessionKey) -> None:
        self._stored(action_id)
        self.settles.append((action_id, key))

    def alert(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None:
        with self.database.read() as session:
            assert session.get(AlertRow, alert_id) is not None
        self.alerts.append((name, text))

    def _stored(self, action_id: int) -> None:
        with self.database.read() as session:
            action = session.get(ActionRow, action_id)
            assert action is not None, "carried out before it was stored"
            assert session.get(DecisionRow, action.decision_id) is not None


class Keeper:
    """A reconciler on a database of its own, with a clock that the test moves. Can be restarted."""

    def __init__(self, path: Path) -> None:
        self.database = Database(f"sqlite:///{path}")
        schema.upgrade(self.database)
        self.writer = Writer(self.database)
        self.now = T0
        self.block = 0
        self.boot()

    def boot(self, policy: Policy | None = None) -> None:
        """A new process on the same database."""
        self.effects = Recorded(self.database)
        self.reconciler = Reconciler(
            self.writer, policy or Policy(), self.effects, webhook_silence_ms=45_000, clock_ms=lambda: self.now
        )
        self.reconciler.conditions.reachable = True

    async def restart(self) -> None:
        self.boot()
        await self.reconciler.load(0)

    async def at(self, seconds: float) -> None:
        """Lets time pass until then, second by second as far as anybody would notice, with a pulse and all ticks."""
        target = T0 + round(seconds * 1000)
        while self.now < target:
            self.now = min(self.now + 1_000, target)
            await self.reconciler.pulse()
            due = self.reconciler.next_tick_ms()
            if due is not None and due <= self.now:
                await self.reconciler.tick()

    async def say(self, *hints: Hint) -> None:
        await self.reconciler.take_all(hints)
        if any(hint.source is Source.WEBHOOK for hint in hints):
            await self.reconciler.posted()

    def hint(self, kind: Kind, source: Source = Source.SOCKET, room: str = "req_1", **more: Any) -> Hint:
        trust = more.pop("trust", TRUST_OF[source])
        return Hint(kind, source, trust, more.pop("received_ms", self.now), room=room, **more)

    async def beats(self, until_s: float, room: str = "req_1", every_s: float = 10) -> None:
        """Heartbeats by the webhook from now on."""
        while True:
            await self.say(self.hint(Kind.HEARTBEAT, Source.WEBHOOK, room))
            if self.now + every_s * 1000 > T0 + until_s * 1000:
                return
            await self.at((self.now - T0) / 1000 + every_s)

    # The chain

    async def start(self, key: SessionKey, at_s: float = 0, *, tell: bool = True) -> None:
        self.block += 1
        start = Start(*key, 0, self.block, T0_S + int(at_s))
        await self.writer(lambda tx: chain_rows.append(tx, Rows(starts=[start]), NOT_FINAL))
        details = chain_details.Details(*key, 0, T0_S + int(at_s), RATE, TOKEN)
        await self.writer(lambda tx: chain_details.fill_details(tx, [details]))
        if tell:
            await self.reconciler.chain_changed(started=[key], ended=[], retracted=[])

    async def end(self, key: SessionKey, at_s: float, *, tell: bool = True, final: bool = False) -> None:
        self.block += 1
        billed = int(at_s)
        end = End(key.session_id, key.tutor, billed, billed * RATE, self.block, f"0xe{self.block}", T0_S + int(at_s))
        finality = Finality(self.block, self.block) if final else NOT_FINAL
        await self.writer(lambda tx: chain_rows.append(tx, Rows(ends=[end]), finality))
        if tell:
            await self.reconciler.chain_changed(started=[], ended=[key], retracted=[])

    async def ender_read(self, key: SessionKey, ended_by: str) -> None:
        """The ending transaction was read: it was somebody else's."""
        row = self.settlement(key)
        sender = chain_details.Sender(key.session_id, row.tx_hash, key.student, ended_by, False)
        await self.writer(lambda tx: chain_details.fill_senders(tx, [sender]))
        await self.reconciler.settlement_known(key)

    async def reorg(self, ancestor: int) -> tuple[SessionKey, ...]:
        reorg = Reorg(ancestor, self.block, "0xold", ancestor + 1, "0xnew")
        taken = await self.writer(lambda tx: chain_reorg.retract(tx, reorg))
        return tuple(taken.sessions)

    # What is there

    def session(self, key: SessionKey = KEY) -> Session:
        live = self.reconciler.about(key)
        assert live is not None
        return live.session

    def rows(self, table: Any) -> list[Any]:
        with self.database.read() as session:
            return [row.model_copy() for row in session.exec(select(table))]

    def settlement(self, key: SessionKey = KEY) -> Settlement:
        return next(row for row in self.rows(Settlement) if row.session_id == key.session_id)


async def deliver(keeper: Keeper, *, delivered: bool = True) -> None:
    """The newest nudge reached somebody, or nobody."""
    action, key, payload = keeper.effects.nudges[-1]
    outcome = "delivered" if delivered else "undelivered"
    said = {"mark": payload["mark"], "ask": payload["ask"], "outcome": outcome, "delivered": delivered}
    await keeper.reconciler.outcome(key, Kind.NUDGE, said, action)


async def report(keeper: Keeper, outcome: str, reason: str | None = None) -> None:
    """The sender says so of the newest settlement."""
    action, key = keeper.effects.settles[-1]
    said = {"outcome": outcome, "reason": reason, "tx_hash": None}
    await keeper.reconciler.outcome(key, Kind.SETTLEMENT, said, action)


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    """One session, known and announced, the feeds up."""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    await keeper.start(KEY)
    await keeper.say(keeper.hint(Kind.READY, student=STUDENT, tutor=TUTOR))
    yield keeper
    keeper.writer.close()
    keeper.database.dispose()
