"""The daemon's rows: settlements, decisions, actions, alerts.

Promises: each function is one step inside the caller's transaction (`Writer`), so several of them move together or
not at all.
Facts are in `bot.store.fact_rows`, rooms in `bot.store.room_rows`, sessions in `bot.store.session_rows`, the chain's
rows in `bot.store.chain_rows`, transactions in `bot.store.txs`, what commands read in `bot.store.queries`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import update
from sqlmodel import Session, col, select

from bot.domain.decide import Decision
from bot.domain.facts import SessionKey
from bot.store import bulk
from bot.store.tables import ActionRow, AlertRow, Settlement, TxRow

# Settlements -------------------------------------------------------------------------------------------------------


def complete_settlements(session: Session, known: Mapping[int, Mapping[str, Any]]) -> None:
    """Adds what only we know of settlements, given by session: the room, the reason, when the call ended."""
    alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for session_id, values in known.items():
        alike.setdefault(tuple(values), []).append((*values.values(), session_id))
    for columns, rows in alike.items():
        sets = ", ".join(f"{name} = ?" for name in columns)
        bulk.many(session.connection(), f"UPDATE settlements SET {sets} WHERE session_id = ?", rows)  # noqa: S608


def settlement(session: Session, session_id: int) -> Settlement | None:
    return session.get(Settlement, session_id)


def settlements_by_id(session: Session, ids: Iterable[int]) -> list[Settlement]:
    """The settlements of these sessions, detached."""
    found = [
        row
        for part in bulk.parts(list(ids))
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
    into: bulk.Driver, key: SessionKey, decision: Decision, at_ms: int, saw: Mapping[str, Any] | None = None
) -> int:
    """Stores a decision with what it saw; the number it got."""
    values = (str(key), at_ms, decision.action.value, decision.reason, decision.look_again_ms)
    inputs = json.dumps(dict(decision.inputs) | {"mark": decision.mark})
    saw_then = None if saw is None else json.dumps(saw)
    return int(bulk.scalar(into, _ADD_DECISION, (*values, inputs, saw_then)))


def last_reasons(session: Session, keys: Iterable[SessionKey]) -> dict[SessionKey, tuple[str, str, str | None]]:
    """The newest decision's (action, reason, hold) of each of these sessions."""
    names = {str(key): key for key in keys}
    sql = (
        "SELECT session_key, action, reason, CASE WHEN action = 'hold' THEN inputs ->> 'hold' END FROM decisions "
        "WHERE id IN (SELECT MAX(id) FROM decisions WHERE session_key IN (?...) GROUP BY session_key)"
    )
    rows = bulk.rows(session.connection(), sql, (list(names),))
    return {names[name]: (action, reason, hold) for name, action, reason, hold in rows}


class Stored(NamedTuple):
    """An action as stored: `new` is false when the same one was there already."""

    id: int
    new: bool


def add_action(
    into: bulk.Driver,
    key: str,
    kind: str,
    session_key: SessionKey,
    decision_id: int,
    at_ms: int,
    payload: dict[str, Any],
) -> Stored:
    """Stores an action once: the same idempotency key gives the row that is there already."""
    present = bulk.scalar(into, "SELECT id FROM actions WHERE key = ?", (key,))
    if present is not None:
        return Stored(int(present), False)
    return Stored(_add_action(into, key, kind, session_key, decision_id, at_ms, payload), True)


def add_settle(
    into: bulk.Driver, session_key: SessionKey, decision_id: int, at_ms: int, payload: dict[str, Any]
) -> int:
    """A settle action for this session; the one under way, where a reorg took the session and gave it back."""
    rows = bulk.rows(into, _SETTLES_OF, (str(session_key),))
    under_way = next((number for number, state in rows if state == "open"), None)
    if under_way is not None:
        return int(under_way)
    key = f"settle:{session_key}:{len(rows)}"
    return _add_action(into, key, "settle", session_key, decision_id, at_ms, payload)


def _add_action(
    into: bulk.Driver,
    key: str,
    kind: str,
    session_key: SessionKey,
    decision_id: int,
    at_ms: int,
    payload: dict[str, Any],
) -> int:
    values = (key, kind, str(session_key), decision_id, at_ms, json.dumps(payload))
    return int(bulk.scalar(into, _ADD_ACTION, values))


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
    alerts = "SELECT session_key, inputs ->> 'mark', at_ms FROM decisions WHERE action = 'alert'"
    nudges = "SELECT session_key, payload ->> 'mark', created_ms FROM actions WHERE kind = 'nudge'"
    return [
        (names[name], str(mark), at_ms)
        for sql in (alerts, nudges)
        for name, mark, at_ms in bulk.rows(session.connection(), f"{sql} AND session_key IN (?...)", (list(names),))
    ]


def settle_reason(session: Session, key: SessionKey) -> str:
    """Why the keeper ended this session: the rule behind its newest settle action."""
    query = select(ActionRow).where(ActionRow.session_key == str(key), ActionRow.kind == "settle")
    row = session.exec(query.order_by(col(ActionRow.id).desc()).limit(1)).first()
    return str(row.payload.get("reason")) if row else "settled"


# Alerts --------------------------------------------------------------------------------------------------------------


def add_alert(into: bulk.Driver, name: str, text: str, at_ms: int, key: SessionKey | None = None) -> int:
    """Stores an alert; the number it got."""
    sql = "INSERT INTO alerts (at_ms, name, text, session_key) VALUES (?, ?, ?, ?) RETURNING id"
    return int(bulk.scalar(into, sql, (at_ms, name, text, str(key) if key else None)))


def alert_sent(session: Session, alert_id: int, at_ms: int) -> None:
    session.execute(update(AlertRow).where(col(AlertRow.id) == alert_id).values(sent_ms=at_ms))
