"""A start is reading: what may still need us, what was said of it, and what was decided and not yet carried out."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from bot.domain import linking
from bot.domain.facts import Fact, SessionKey
from bot.domain.linking import Room
from bot.domain.session import gave
from bot.reconciler.decisions import Decisions
from bot.reconciler.intake import Intake
from bot.reconciler.memory import Memory, verdict
from bot.store import fact_rows, first_start, records, room_rows, session_rows
from bot.store.db import Writer
from bot.store.first_start import FirstStart

FIRST = "alert.first-start"
PART = 1_000  # sessions read at a time: what is read of them is let go before the next


class Digest(NamedTuple):
    text: str
    alert_id: int


async def read(
    memory: Memory, writer: Writer, intake: Intake, ended_since_s: int, now: int
) -> list[records.OpenAction]:
    """Fills the memory from the database and links what waited; the actions that were left open."""
    memory.book.newest_id = await writer(session_rows.newest)
    ids = await writer(lambda tx: session_rows.live_ids(tx, ended_since_s))
    for begin in range(0, len(ids), PART):
        _take(memory, await writer(partial(_stored, ids=ids[begin : begin + PART])))
        gc.collect(1)
        gc.freeze()  # what lives on needn't be gone through again with the next part, and with every one later
    since = now - linking.ROOM_EXPIRY_MS

    def rest(tx: Any) -> Any:
        others = room_rows.others(tx, since, memory.live.__contains__)
        return others, fact_rows.unlinked_facts(tx, since), records.open_actions(tx)

    others, unlinked, actions = await writer(rest)
    for room in others:
        memory.know_room(room)
    memory.loaded = True
    await _link_waiting(memory, writer, intake, unlinked)
    return list(actions)


class _Part(NamedTuple):
    """Some sessions with all that was said of them and decided."""

    sessions: list[session_rows.LiveSession]
    rooms: list[Room]
    facts: list[Fact]
    marks: list[tuple[SessionKey, str, int]]
    reasons: dict[SessionKey, tuple[str, str, str | None]]
    may_withdraw: set[str]


def _stored(tx: Any, ids: Sequence[int]) -> _Part:
    sessions = session_rows.by_id(tx, ids)
    keys = [row.key for row in sessions]
    return _Part(
        sessions,
        room_rows.of(tx, keys),
        fact_rows.facts_of(tx, keys),
        records.action_marks(tx, keys),
        records.last_reasons(tx, keys),
        session_rows.may_withdraw(tx, {key.student for key in keys}),
    )


def _take(memory: Memory, part: _Part) -> None:
    memory.may_withdraw |= part.may_withdraw
    for row in part.sessions:
        memory.admit(row)
    for room in part.rooms:
        memory.know_room(room)
    for fact in part.facts:
        if fact.key is not None:
            memory.fold(memory.live[fact.key], fact)
    for key, mark, at_ms in part.marks:
        gave(memory.live[key].session, mark, at_ms)
    for key, decided in part.reasons.items():
        memory.live[key].decided = verdict(*decided)


async def first(memory: Memory, writer: Writer, now: int) -> Digest | None:
    """Remembers this database's first start. At the first one: a digest for the operator, if sessions are open."""

    def change(tx: Any) -> tuple[FirstStart, Digest | None]:
        began = first_start.known(tx)
        if began.at_ms:
            return began, None
        began = first_start.remember(tx, now)
        ids = session_rows.live_ids(tx, 2**62, ended=False)
        if not ids:
            return began, None
        text = _digest(ids)
        return began, Digest(text, records.add_alert(tx.connection(), FIRST, text, now))

    memory.first_start, digest = await writer(change)
    return digest


def _digest(ids: Sequence[int]) -> str:
    named = ", ".join(str(number) for number in ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
    are = "a session is" if len(ids) == 1 else f"{len(ids):,} sessions are"
    return (
        f"First start: {are} open on chain ({named}). What was said before isn't known and doesn't count; what is "
        "heard from now on does. Whether those lessons go on, only you can find out: langdao-keeper stranded"
    )


async def resume(
    memory: Memory, writer: Writer, decisions: Decisions, actions: Sequence[records.OpenAction], now: int
) -> None:
    """Takes up open actions; those of sessions that are over are closed."""
    for action in actions:
        live = memory.live.get(action.key)
        if live is not None and not live.session.ended:
            decisions.resume(action)
        else:
            await _close(writer, action, now)


async def _link_waiting(memory: Memory, writer: Writer, intake: Intake, facts: Sequence[Fact]) -> None:
    """Links what was stored before the sessions were known."""
    rooms: dict[str, Room] = {}
    linked: dict[SessionKey, list[int]] = {}
    for fact in facts:
        _, link = intake.place(fact.hint, rooms)
        if link is not None and link.key in memory.live:
            linked.setdefault(link.key, []).append(fact.id)

    def change(tx: Any) -> list[Fact]:
        room_rows.save(tx, rooms.values())
        for key, ids in linked.items():
            fact_rows.link_facts(tx, ids, key)
        return fact_rows.facts_of(tx, linked)

    if rooms:
        facts = await writer(change)
        for key in linked:
            memory.refold(key, [fact for fact in facts if fact.key == key])


async def _close(writer: Writer, action: records.OpenAction, now: int) -> None:
    def change(tx: Any) -> None:
        row = records.settlement(tx, action.key.session_id)
        ours = row is not None and action.kind == "settle" and records.our_tx(tx, row.tx_hash)
        records.end_action(tx, action.id, "done" if ours else "dropped", "settled" if ours else "session over", now)

    await writer(change)
