"""The daemon's rows: facts, rooms, decisions, actions, alerts.

Promises: each function is one step inside the caller's transaction (`Writer`), so several of them move together or
not at all; what goes in comes out equal (a fact read back equals the fact stored).
The chain's rows are in `bot.store.chain_rows`, transactions in `bot.store.txs`, what commands read in
`bot.store.queries`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Table, func, insert, inspect, or_, update
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from bot.domain import linking
from bot.domain.decide import Action, Decision
from bot.domain.facts import Beats, Fact, Hint, Kind, Role, SessionKey, Source, Trust
from bot.store import bulk, room_rows
from bot.store.tables import (
    ActionRow,
    AlertRow,
    ChainSession,
    DecisionRow,
    FactRow,
    Room,
    Settlement,
    TxRow,
)

_FACTS, _ROOMS, _SESSIONS = (cast(Table, inspect(row).local_table) for row in (FactRow, Room, ChainSession))
_CHUNK = 500  # bound parameters a statement; SQLite's limit is far above, the planner's patience isn't


# Facts ---------------------------------------------------------------------------------------------------------------


def add_facts(session: Session, facts: Sequence[tuple[str, Hint, SessionKey | None]]) -> list[int]:
    """Stores facts, given as (idempotency key, hint, session); returns their ids in the same order."""
    if not facts:
        return []
    rows = [
        {
            "key": key,
            "kind": hint.kind.value,
            "source": hint.source.value,
            "trust": int(hint.trust),
            "received_ms": hint.received_ms,
            "said_ms": hint.said_ms,
            "room": hint.room,
            "session_id": hint.session_id,
            "student": hint.student,
            "tutor": hint.tutor,
            "role": hint.role.value if hint.role else None,
            "can_return": hint.can_return,
            "payload": dict(hint.payload),
            "session_key": str(session_key) if session_key else None,
        }
        for key, hint, session_key in facts
    ]
    statement = insert(FactRow).returning(col(FactRow.id), sort_by_parameter_order=True)
    return [int(number) for number in session.execute(statement, rows).scalars()]


def has_fact(session: Session, key: str) -> bool:
    """Was a fact stored under this idempotency key?"""
    return session.exec(select(FactRow.id).where(FactRow.key == key)).first() is not None


def fact_of(row: Any, key: SessionKey | None = None) -> Fact:
    """A stored fact as the domain knows it; `key` where the caller has its session at hand."""
    hint = Hint(
        kind=Kind(row.kind),
        source=Source(row.source),
        trust=Trust(row.trust),
        received_ms=row.received_ms,
        room=row.room,
        session_id=row.session_id,
        student=row.student,
        tutor=row.tutor,
        role=Role(row.role) if row.role else None,
        said_ms=row.said_ms,
        can_return=row.can_return,
        payload=row.payload,
    )
    if key is None and row.session_key:
        key = SessionKey.parse(row.session_key)
    return Fact(row.id or 0, hint, key)


def facts_of(session: Session, keys: Iterable[SessionKey]) -> list[Fact]:
    """The facts of these sessions in the order in which they were stored. Reorgs are the chain's, and left out."""
    known = [kind.value for kind in Kind]
    names = {str(key): key for key in keys}
    found: list[Fact] = []
    for part in _parts(list(names)):
        rows = session.execute(columns(_FACTS).where(_FACTS.c.session_key.in_(part), _FACTS.c.kind.in_(known)))
        found.extend(fact_of(row, names[row.session_key]) for row in rows)
    return sorted(found, key=lambda fact: fact.id)


def unlinked_facts(session: Session, since_ms: int) -> list[Fact]:
    """Facts received since then that belong to no session yet, oldest first."""
    rows = session.exec(
        select(FactRow)
        .where(
            col(FactRow.session_key).is_(None),
            col(FactRow.received_ms) >= since_ms,
            col(FactRow.kind).in_([kind.value for kind in Kind]),
        )
        .order_by(col(FactRow.id))
    )
    return [fact_of(row) for row in rows]


def link_facts(session: Session, ids: Sequence[int], key: SessionKey) -> None:
    """Says which session these facts are about, as has just become known."""
    newest = session.execute(columns(func.max(DecisionRow.id))).scalar() or 0
    for part in _parts(list(ids)):
        session.execute(
            update(FactRow).where(col(FactRow.id).in_(part)).values(session_key=str(key), joined_after=newest)
        )


def join_facts(session: Session, room: str, key: SessionKey) -> bool:
    """Links what this room had said, as far as it agrees, to the session that it turned out to be. False: nothing."""
    rows = session.execute(columns(_FACTS).where(_FACTS.c.room == room, _FACTS.c.session_key.is_(None)))
    ids = [fact.id for fact in map(fact_of, rows) if linking.agrees(fact.hint, key)]
    link_facts(session, ids, key)
    return bool(ids)


def heard_returns(session: Session) -> bool:
    """Did the backend's socket ever report a participant's return, in this database's life?"""
    query = select(FactRow.id).where(FactRow.kind == Kind.CONNECTED.value, FactRow.source == Source.SOCKET.value)
    return session.exec(query.limit(1)).first() is not None


def heard_webhook(session: Session) -> bool:
    """Did the webhook ever take an authenticated post, in this database's life?"""
    fact = select(FactRow.id).where(FactRow.source == Source.WEBHOOK.value).limit(1)
    beat = select(Room.room).where(Room.beat_source == Source.WEBHOOK.value).limit(1)
    return session.exec(fact).first() is not None or session.exec(beat).first() is not None


# Rooms ---------------------------------------------------------------------------------------------------------------


def save_rooms(session: Session, rooms: Iterable[tuple[linking.Room, Source | None]]) -> None:
    """Stores rooms as they are now, with the source of their heartbeats.

    A room that was joined long ago and is heard again out of nowhere keeps its session in the record.
    """
    room_rows.save(session, rooms)


class StoredRoom(NamedTuple):
    room: linking.Room
    beat_source: Source | None


def load_rooms(session: Session, keys: Iterable[SessionKey]) -> list[StoredRoom]:
    """The rooms of these sessions."""
    names = {str(key): key for key in keys}
    return [
        _stored_room(row, names[row.session_key])
        for part in _parts(list(names))
        for row in session.execute(columns(_ROOMS).where(_ROOMS.c.session_key.in_(part)))
    ]


def other_rooms(session: Session, since_ms: int, known: Callable[[SessionKey], bool]) -> list[StoredRoom]:
    """Rooms heard since then that are of no `known` session: waiting, or of sessions that are over.

    A room of a session that isn't on the canonical chain any more is left out: nothing of it may carry over.
    """
    recent = columns(_ROOMS).where(_ROOMS.c.heard_ms >= since_ms, _ROOMS.c.state != "expired")
    others: list[StoredRoom] = []
    for row in session.execute(recent):
        key = SessionKey.parse(row.session_key) if row.session_key else None
        if key is None or not known(key):
            others.append(_stored_room(row, key))
    over = {row.key for row in sessions_by_id(session, {one.room.key.session_id for one in others if one.room.key})}
    return [one for one in others if one.room.key is None or one.room.key in over]


def _stored_room(row: Any, key: SessionKey | None) -> StoredRoom:
    student, tutor = row.student, row.tutor
    if key is not None:  # one text for one address, however many live
        student = key.student if student == key.student else student
        tutor = key.tutor if tutor == key.tutor else tutor
    room = linking.Room(
        room=row.room,
        first_ms=row.first_ms,
        heard_ms=row.heard_ms,
        key=key,
        rule=sys.intern(row.rule) if row.rule else None,
        trust=Trust(row.trust),
        student=student,
        tutor=tutor,
        beats=Beats(row.beats, row.beat_first_ms, row.beat_last_ms),
        expired=row.state == "expired",
    )
    return StoredRoom(room, Source(row.beat_source) if row.beat_source else None)


# Sessions of the chain -----------------------------------------------------------------------------------------------


class LiveSession(NamedTuple):
    """A session on the canonical chain that may still need us."""

    key: SessionKey
    started_at: int | None  # chain seconds
    rate: int | None
    token: str | None
    ended: bool
    closed: bool


def live_ids(session: Session, ended_since_s: int, *, ended: bool = True) -> list[int]:
    """Sessions that aren't closed, and those that ended since then (chain seconds) without our word on it.

    `ended` false: only those that haven't ended.
    """
    missed = select(Settlement.session_id).where(
        col(Settlement.reason).is_(None), col(Settlement.ended_at) >= ended_since_s
    )
    query = columns(_SESSIONS.c.session_id)
    if not ended:
        query = query.where(_SESSIONS.c.end_block.is_(None))
    rows = session.execute(query.where(or_(_SESSIONS.c.closed.is_(False), _SESSIONS.c.session_id.in_(missed))))
    return sorted(rows.scalars())


def sessions_by_id(session: Session, ids: Iterable[int]) -> list[LiveSession]:
    """These sessions, as far as they are on the canonical chain."""
    return [
        _live(row)
        for part in _parts(list(ids))
        for row in session.execute(columns(_SESSIONS).where(_SESSIONS.c.session_id.in_(part)))
    ]


def _live(row: Any) -> LiveSession:
    return LiveSession(
        key=SessionKey(row.session_id, row.student, row.tutor),
        started_at=row.started_at,
        rate=int(row.rate) if row.rate is not None else None,
        token=sys.intern(row.token) if row.token else None,  # the same for nearly all
        ended=row.end_block is not None,
        closed=row.closed,
    )


def may_withdraw(session: Session, students: Iterable[str]) -> set[str]:
    """Those whose last start isn't younger than their last end, whatever else of theirs still runs.

    The contract holds them for not studying any more. Within one block the order isn't looked at: they count too.
    """
    last_start, last_end = func.max(ChainSession.start_block), func.max(ChainSession.end_block)
    return {
        student
        for part in _parts(list(students))
        for student in session.exec(
            select(ChainSession.student)
            .where(col(ChainSession.student).in_(part))
            .group_by(col(ChainSession.student))
            .having(last_end >= last_start)
        )
    }


def newest_session(session: Session) -> int:
    """The highest id of a session on the canonical chain, 0 when there is none."""
    return session.exec(select(func.max(ChainSession.session_id))).one() or 0


def closed_among(session: Session, ids: Iterable[int]) -> set[int]:
    """Which of these sessions are ended and final."""
    return {
        number
        for part in _parts(list(ids))
        for number in session.exec(
            select(ChainSession.session_id).where(
                col(ChainSession.session_id).in_(part), col(ChainSession.closed).is_(True)
            )
        )
    }


def complete_settlement(session: Session, session_id: int, values: Mapping[str, Any]) -> None:
    """Adds what only we know of a settlement: its room, the reason, when the call ended."""
    session.execute(update(Settlement).where(col(Settlement.session_id) == session_id).values(**values))


def settlement(session: Session, session_id: int) -> Settlement | None:
    return session.get(Settlement, session_id)


def settlements_by_id(session: Session, ids: Iterable[int]) -> list[Settlement]:
    """The settlements of these sessions, detached."""
    found = [
        row
        for part in _parts(list(ids))
        for row in session.exec(select(Settlement).where(col(Settlement.session_id).in_(part)))
    ]
    for row in found:
        session.expunge(row)
    return found


def settled_since(session: Session, since_s: int, limit: int) -> list[tuple[int, str, str]]:
    """Id, student and tutor of the newest sessions that ended since then (chain seconds)."""
    query = select(Settlement.session_id, Settlement.student, Settlement.tutor).where(
        col(Settlement.ended_at) >= since_s, col(Settlement.student).is_not(None)
    )
    rows = session.exec(query.order_by(col(Settlement.session_id).desc()).limit(limit))
    return [(number, str(student), tutor) for number, student, tutor in rows]


def our_tx(session: Session, tx_hash: str) -> bool:
    """Is this transaction one that we signed?"""
    return session.get(TxRow, tx_hash) is not None


# Decisions and actions -----------------------------------------------------------------------------------------------

# Not by the ORM, nor by what it is built on: a settlement waits for these.
_ADD_DECISION = (
    "INSERT INTO decisions (session_key, at_ms, action, reason, look_again_ms, inputs, saw, facts_to)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(id), 0) FROM facts)) RETURNING id"
)
_SETTLES_OF = "SELECT id, state FROM actions WHERE session_key = ? AND kind = 'settle' ORDER BY id"
_ADD_ACTION = (
    "INSERT INTO actions (key, kind, session_key, decision_id, state, created_ms, payload)"
    " VALUES (?, ?, ?, ?, 'open', ?, ?) RETURNING id"
)


def add_decision(
    session: Session, key: SessionKey, decision: Decision, at_ms: int, saw: Mapping[str, Any] | None = None
) -> int:
    """Stores a decision with what it saw; the number it got."""
    values = (str(key), at_ms, decision.action.value, decision.reason, decision.look_again_ms)
    inputs = json.dumps(dict(decision.inputs) | {"mark": decision.mark})
    saw_then = None if saw is None else json.dumps(saw)
    return int(bulk.scalar(session.connection(), _ADD_DECISION, (*values, inputs, saw_then)))


def last_reasons(session: Session, keys: Iterable[SessionKey]) -> dict[SessionKey, tuple[str, str, str | None]]:
    """The newest decision's (action, reason, hold) of each of these sessions."""
    names = {str(key): key for key in keys}
    found: dict[SessionKey, tuple[str, str, str | None]] = {}
    for part in _parts(list(names)):
        newest = (
            select(func.max(DecisionRow.id))
            .where(col(DecisionRow.session_key).in_(part))
            .group_by(col(DecisionRow.session_key))
        )
        shown = (DecisionRow.session_key, DecisionRow.action, DecisionRow.reason, DecisionRow.inputs)
        query = columns(*(col(one) for one in shown)).where(col(DecisionRow.id).in_(newest))
        for name, action, reason, inputs in session.execute(query):
            found[names[name]] = (action, reason, inputs.get("hold"))
    return found


class Stored(NamedTuple):
    """An action as stored: `new` is false when the same one was there already."""

    id: int
    new: bool


def add_action(
    session: Session,
    key: str,
    kind: str,
    session_key: SessionKey,
    decision_id: int,
    at_ms: int,
    payload: dict[str, Any],
) -> Stored:
    """Stores an action once: the same idempotency key gives the row that is there already."""
    present = session.exec(select(ActionRow).where(ActionRow.key == key)).first()
    if present is not None:
        return Stored(present.id or 0, False)
    return Stored(_add_action(session, key, kind, session_key, decision_id, at_ms, payload), True)


def add_settle(session: Session, session_key: SessionKey, decision_id: int, at_ms: int, payload: dict[str, Any]) -> int:
    """A settle action for this session; the one under way, where a reorg took the session and gave it back."""
    rows = bulk.rows(session.connection(), _SETTLES_OF, (str(session_key),))
    under_way = next((number for number, state in rows if state == "open"), None)
    if under_way is not None:
        return int(under_way)
    key = f"settle:{session_key}:{len(rows)}"
    return _add_action(session, key, "settle", session_key, decision_id, at_ms, payload)


def _add_action(
    session: Session,
    key: str,
    kind: str,
    session_key: SessionKey,
    decision_id: int,
    at_ms: int,
    payload: dict[str, Any],
) -> int:
    values = (key, kind, str(session_key), decision_id, at_ms, json.dumps(payload))
    return int(bulk.scalar(session.connection(), _ADD_ACTION, values))


def end_action(session: Session, action_id: int, state: str, outcome: str, at_ms: int) -> None:
    session.execute(
        update(ActionRow).where(col(ActionRow.id) == action_id).values(state=state, outcome=outcome, ended_ms=at_ms)
    )


class OpenAction(NamedTuple):
    id: int
    kind: str
    key: SessionKey
    created_ms: int
    payload: dict[str, Any]


def open_actions(session: Session) -> list[OpenAction]:
    """Actions that were stored and not yet carried out, oldest first. Bills go on by themselves (`bot.store.bills`)."""
    decided = select(ActionRow).where(ActionRow.state == "open", col(ActionRow.kind).in_(("nudge", "settle")))
    rows = session.exec(decided.order_by(col(ActionRow.id)))
    return [
        OpenAction(row.id or 0, row.kind, SessionKey.parse(row.session_key), row.created_ms, row.payload)
        for row in rows
    ]


def action_marks(session: Session, keys: Iterable[SessionKey]) -> list[tuple[SessionKey, str, int]]:
    """The marks of all nudges and alerts ever stored for these sessions, with when."""
    names = {str(key): key for key in keys}
    alerts = columns(col(DecisionRow.session_key), col(DecisionRow.inputs), col(DecisionRow.at_ms)).where(
        col(DecisionRow.action) == Action.ALERT.value
    )
    nudges = columns(col(ActionRow.session_key), col(ActionRow.payload), col(ActionRow.created_ms)).where(
        col(ActionRow.kind) == "nudge"
    )
    return [
        (names[name], str(said.get("mark")), at_ms)
        for part in _parts(list(names))
        for query, column in ((alerts, DecisionRow.session_key), (nudges, ActionRow.session_key))
        for name, said, at_ms in session.execute(query.where(col(column).in_(part)))
    ]


def settle_reason(session: Session, key: SessionKey) -> str:
    """Why the keeper ended this session: the rule behind its newest settle action."""
    query = select(ActionRow).where(ActionRow.session_key == str(key), ActionRow.kind == "settle")
    row = session.exec(query.order_by(col(ActionRow.id).desc()).limit(1)).first()
    return str(row.payload.get("reason")) if row else "settled"


# Alerts --------------------------------------------------------------------------------------------------------------


def add_alert(session: Session, name: str, text: str, at_ms: int, key: SessionKey | None = None) -> int:
    row = AlertRow(at_ms=at_ms, name=name, text=text, session_key=str(key) if key else None)
    session.add(row)
    session.flush()
    return row.id or 0


def alert_sent(session: Session, alert_id: int, at_ms: int) -> None:
    session.execute(update(AlertRow).where(col(AlertRow.id) == alert_id).values(sent_ms=at_ms))


def _parts(values: list[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
