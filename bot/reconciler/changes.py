"""Following the chain: sessions that start, end, are retracted, and are over for good; balances that are used up.

Promises: a session touched by a reorg is read and folded anew; nothing of one that the chain lost carries over to
whoever got its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from bot.domain import bill, linking
from bot.domain.facts import Fact, SessionKey
from bot.domain.linking import Room
from bot.domain.session import gave
from bot.reconciler.memory import Memory
from bot.reconciler.settlements import Settlements
from bot.store import fact_rows, records, room_rows, session_rows
from bot.store.db import Writer

log = structlog.get_logger("reconciler")


class Changes:
    def __init__(self, memory: Memory, writer: Writer, settlements: Settlements) -> None:
        self._memory = memory
        self._writer = writer
        self._settlements = settlements

    async def take(
        self, started: Sequence[SessionKey], ended: Sequence[SessionKey], retracted: Sequence[SessionKey]
    ) -> list[SessionKey]:
        """Takes what the follower committed; the sessions that have to be decided on again."""
        memory = self._memory
        for key in retracted:
            memory.book.retract(key)
            memory.forget(key)
        ids = {key.session_id for key in (*started, *ended, *retracted)}
        if not ids:
            return []
        students = {key.student for key in (*started, *ended, *retracted)}
        rows, free = await self._writer(
            lambda tx: (session_rows.by_id(tx, ids), session_rows.may_withdraw(tx, students))
        )
        memory.may_withdraw -= students
        memory.may_withdraw |= free
        fresh = [row for row in rows if row.key not in memory.live and (row.key in started or row.key in retracted)]
        for row in fresh:
            memory.admit(row)
        if fresh:  # a reorg may have taken it and given it back, now or long ago
            await self._refold({row.key for row in fresh})
        for row in fresh:
            await self._welcome(row.key)
        for row in rows:
            if row.ended and row.key in memory.live:
                memory.ended(row.key)
        await self._settlements.complete([row.key for row in rows if row.ended])
        return [row.key for row in rows if row.key in memory.live]

    async def session_known(self, key: SessionKey) -> list[SessionKey]:
        """Rate and token of a session were read from the chain."""
        memory = self._memory
        touched: list[SessionKey] = []
        rows = await self._writer(lambda tx: session_rows.by_id(tx, [key.session_id]))
        for row in rows:
            live = memory.live.get(row.key)
            if live is not None:
                live.session.rate, live.token = row.rate, row.token
                if live.started_at is None and row.started_at is not None:
                    live.started_at = row.started_at
                    live.session.started_ms = row.started_at * 1000 - memory.conditions.skew_ms
                touched = self._predict(key.student)
        return touched

    def balance(self, student: str, balance: int) -> list[SessionKey]:
        """The student's balance in the contract, base units, was read from the chain."""
        if student not in self._memory.by_student:
            return []
        self._memory.balances[student] = balance
        return self._predict(student)

    async def forget_final(self) -> None:
        """Drops sessions that are over for good."""
        memory = self._memory
        over = list(memory.over)
        if not over:
            return
        closed = await self._writer(lambda tx: session_rows.closed_among(tx, [key.session_id for key in over]))
        for key in over:
            if key.session_id in closed:
                memory.forget(key)

    def _predict(self, student: str) -> list[SessionKey]:
        """When this student's balance is used up, over all their active sessions together."""
        memory = self._memory
        balance = memory.balances.get(student)
        mine = [memory.live[key] for key in memory.by_student.get(student, ())]
        mine = [live for live in mine if not live.session.ended]
        known = [(live.session.rate, live.started_at) for live in mine if live.session.rate and live.started_at]
        at_s = bill.used_up_at(balance, known) if balance is not None else None
        for live in mine:
            pays = live.session.rate not in (None, 0)
            live.session.drained_ms = at_s * 1000 - memory.conditions.skew_ms if at_s is not None and pays else None
        return [live.session.key for live in mine]

    async def _refold(self, keys: set[SessionKey]) -> None:
        memory = self._memory
        rooms, facts, marks = await self._writer(
            lambda tx: (room_rows.of(tx, keys), fact_rows.facts_of(tx, keys), records.action_marks(tx, keys))
        )
        for room in rooms:
            if room.room not in memory.book.rooms:
                memory.know_room(room)
        for fact in facts:
            if fact.key is not None:
                memory.fold(memory.live[fact.key], fact)
        for key, mark, at_ms in marks:
            gave(memory.live[key].session, mark, at_ms)

    async def _welcome(self, key: SessionKey) -> None:
        """A session has started: the rooms that waited for it are joined, and what they said counts."""
        memory = self._memory
        started_ms = memory.live[key].session.started_ms
        log.info("session.started", session=key.session_id, student=key.student, tutor=key.tutor)
        for room, link in linking.rooms_for(key, started_ms, memory.book):
            memory.book.join(room, link, room.trust)
            memory.counters[f"linked.{link.rule}"] += 1
            log.info("session.linked", session=key.session_id, room=room.room, rule=link.rule)
            memory.adopt_beats(room, key)

            def change(tx: Any, room: Room = room) -> list[Fact]:
                room_rows.save(tx, [room])
                return fact_rows.facts_of(tx, [key]) if fact_rows.join_facts(tx, room.room, key) else []

            if facts := await self._writer(change):
                memory.refold(key, facts)
