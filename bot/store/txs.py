"""Rows of signed transactions, and a fact for every step of theirs.

Promises: a transaction is written here, durably, before its first byte leaves (the caller asks `Writer` for a durable
transaction); what is read back is what was signed; a change of state and its fact are one transaction.

States: stored → sent → mined → confirmed → final. Or replaced (another of ours was mined at its nonce), or lost (a
foreign transaction was). `closed` is set when that is final: until then a reorg may bring any of them back.
One that never left can be dropped: its row goes, and a fact says why. Signed again it may be the same, by its hash.
A transaction is about its items: the sessions that it ends, or (RETRACT) was no longer to end. FILL has none.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from bot.domain.facts import SessionKey, Source, Trust
from bot.store import bulk
from bot.store.tables import TxItemRow, TxRow

STORED, SENT, MINED, CONFIRMED, FINAL = "stored", "sent", "mined", "confirmed", "final"
REPLACED, LOST = "replaced", "lost"
DROPPED = "dropped"  # a step, and no state
SETTLE, RETRACT, FILL = "settle", "retract", "fill"
FACT = "tx"  # the kind of the facts written here; they say what was done, and decide nothing

_ADD_TX = (
    "INSERT INTO txs (hash, nonce, sender, kind, raw, gas, max_fee, tip, state, stored_ms, stored_block, closed)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADD_ITEM = "INSERT INTO tx_items (tx_hash, position, session_key, action_id) VALUES (?, ?, ?, ?)"
_DROP_ITEMS = "DELETE FROM tx_items WHERE tx_hash = ?"
_DROP_TX = "DELETE FROM txs WHERE hash = ?"
_ADD_FACT = (
    "INSERT INTO facts (key, kind, source, trust, received_ms, session_id, student, tutor, session_key, can_return,"
    " payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Item(NamedTuple):
    """A session of a transaction, and the action that asked for its end."""

    key: SessionKey
    action_id: int


@dataclass(slots=True)
class Tx:
    """A signed transaction and where it is."""

    hash: str
    nonce: int
    sender: str
    kind: str
    items: tuple[Item, ...]
    raw: str
    gas: int
    max_fee: int
    tip: int
    state: str
    stored_ms: int
    stored_block: int
    mined_block: int | None = None
    mined_hash: str | None = None

    @property
    def sessions(self) -> list[int]:
        """Their ids on the chain."""
        return [item.key.session_id for item in self.items]

    @property
    def key(self) -> SessionKey | None:
        """Its first session: for what can be said of one alone."""
        return self.items[0].key if self.items else None


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a transaction: new values of its row. `name` is what the fact says; None writes no fact."""

    tx: Tx
    name: str | None
    values: dict[str, Any] = field(default_factory=dict)


def add(into: bulk.Driver, signed: Sequence[Tx]) -> None:
    """Stores transactions that were just signed."""
    rows = [
        (
            *(tx.hash, tx.nonce, tx.sender, tx.kind, tx.raw, tx.gas, str(tx.max_fee), str(tx.tip)),
            *(tx.state, tx.stored_ms, tx.stored_block, False),
        )
        for tx in signed
    ]
    bulk.many(into, _ADD_TX, rows)
    bulk.many(
        into,
        _ADD_ITEM,
        [(tx.hash, at, str(item.key), item.action_id) for tx in signed for at, item in enumerate(tx.items)],
    )
    _add_facts(into, [(tx, STORED, tx.stored_ms, {}) for tx in signed])


def drop(into: bulk.Driver, unsaid: Sequence[Tx], why: str, at_ms: int) -> None:
    """Takes back transactions of which no byte has left."""
    hashes = [(tx.hash,) for tx in unsaid]
    bulk.many(into, _DROP_ITEMS, hashes)
    bulk.many(into, _DROP_TX, hashes)
    _add_facts(into, [(tx, DROPPED, at_ms, {"note": why}) for tx in unsaid])


def take(session: Session, steps: Iterable[Step], at_ms: int) -> None:
    """Stores what became of transactions."""
    steps = list(steps)
    for step in steps:
        if step.values:
            session.execute(update(TxRow).where(col(TxRow.hash) == step.tx.hash).values(**step.values))
    told = [(step.tx, step.name, at_ms, step.values) for step in steps if step.name is not None]
    _add_facts(session.connection(), told)


def _add_facts(into: bulk.Driver, steps: Sequence[tuple[Tx, str | None, int, dict[str, Any]]]) -> None:
    rows = [
        (
            f"tx:{tx.hash}:{name}:{uuid.uuid4().hex}",
            *(FACT, Source.KEEPER.value, int(Trust.PROVEN), at_ms),
            *((key.session_id, key.student, key.tutor, str(key)) if key else (None, None, None, None)),
            *(False, _said(tx, name, values)),
        )
        for tx, name, at_ms, values in steps
        for key in _about(tx)
    ]
    bulk.many(into, _ADD_FACT, rows)


def _said(tx: Tx, name: str | None, values: dict[str, Any]) -> str:
    payload = {
        "step": name,
        "hash": tx.hash,
        "nonce": tx.nonce,
        "kind": tx.kind,
        "max_fee": str(tx.max_fee),
        "block": values.get("mined_block"),
        "note": values.get("note"),
    }
    return json.dumps(payload)


def _about(tx: Tx) -> Sequence[SessionKey | None]:
    return [item.key for item in tx.items] or [None]


def live(session: Session, sender: str) -> list[Tx]:
    """Transactions of this sender whose nonce isn't used for good, by nonce and age."""
    return _live(session, col(TxRow.sender) == sender)


def live_of_others(session: Session, sender: str) -> list[Tx]:
    """The same of all other senders: what earlier keys of this keeper signed."""
    return _live(session, col(TxRow.sender) != sender)


def _live(session: Session, whose: Any) -> list[Tx]:
    rows = session.exec(select(TxRow).where(whose, col(TxRow.closed).is_(False))).all()
    items: dict[str, list[Item]] = {row.hash: [] for row in rows}
    query = select(TxItemRow).join(TxRow, col(TxRow.hash) == col(TxItemRow.tx_hash))
    for item in session.exec(query.where(whose, col(TxRow.closed).is_(False)).order_by(col(TxItemRow.position))):
        items[item.tx_hash].append(Item(SessionKey.parse(item.session_key), item.action_id))
    found = [
        Tx(
            hash=row.hash,
            nonce=row.nonce,
            sender=row.sender,
            kind=row.kind,
            items=tuple(items[row.hash]),
            raw=row.raw,
            gas=row.gas,
            max_fee=int(row.max_fee),
            tip=int(row.tip),
            state=row.state,
            stored_ms=row.stored_ms,
            stored_block=row.stored_block,
            mined_block=row.mined_block,
            mined_hash=row.mined_hash,
        )
        for row in rows
    ]
    return sorted(found, key=lambda tx: (tx.nonce, tx.max_fee))  # each replacement bids more than the one before


def spent_since(session: Session, since_ms: int) -> int:
    """Wei burnt since then, by the time of the blocks.

    What was stored since then counts whatever its block's time says: no chain's clock can lift the budget.
    """
    since = or_(col(TxRow.mined_ms) >= since_ms, col(TxRow.stored_ms) >= since_ms)
    rows = session.exec(select(TxRow.gas_cost).where(since, col(TxRow.gas_cost).is_not(None)))
    return sum(int(cost) for cost in rows if cost)
