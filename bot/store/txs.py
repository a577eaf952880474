"""Rows of signed transactions.

Promises: a transaction is written here, durably, before its first byte leaves (the caller asks `Writer` for a durable
transaction); what is read back is what was signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from bot.domain.facts import SessionKey
from bot.store.tables import TxRow

# stored → sent → mined → done; or replaced (another of ours was mined at its nonce), lost (a foreign one was)
STORED, SENT, MINED, DONE, REPLACED, LOST = "stored", "sent", "mined", "done", "replaced", "lost"
SETTLE, RETRACT = "settle", "retract"


@dataclass(slots=True)
class Tx:
    """A signed transaction and where it is."""

    hash: str
    nonce: int
    sender: str
    kind: str
    key: SessionKey
    action_id: int
    raw: str
    gas: int
    max_fee: int
    tip: int
    state: str
    stored_ms: int
    stored_block: int
    mined_block: int | None = None


def add(session: Session, tx: Tx) -> None:
    session.add(
        TxRow(
            hash=tx.hash,
            nonce=tx.nonce,
            sender=tx.sender,
            kind=tx.kind,
            session_key=str(tx.key),
            action_id=tx.action_id,
            raw=tx.raw,
            gas=tx.gas,
            max_fee=str(tx.max_fee),
            tip=str(tx.tip),
            state=tx.state,
            stored_ms=tx.stored_ms,
            stored_block=tx.stored_block,
        )
    )


def change(session: Session, tx_hash: str, **values: Any) -> None:
    session.execute(update(TxRow).where(col(TxRow.hash) == tx_hash).values(**values))


def live(session: Session, sender: str) -> list[Tx]:
    """Transactions of this sender that aren't accounted for, by nonce and age."""
    rows = session.exec(
        select(TxRow)
        .where(TxRow.sender == sender, col(TxRow.state).in_([STORED, SENT, MINED]))
        .order_by(col(TxRow.nonce), col(TxRow.stored_ms))
    )
    return [
        Tx(
            hash=row.hash,
            nonce=row.nonce,
            sender=row.sender,
            kind=row.kind,
            key=SessionKey.parse(row.session_key),
            action_id=row.action_id,
            raw=row.raw,
            gas=row.gas,
            max_fee=int(row.max_fee),
            tip=int(row.tip),
            state=row.state,
            stored_ms=row.stored_ms,
            stored_block=row.stored_block,
            mined_block=row.mined_block,
        )
        for row in rows
    ]


def spent_since(session: Session, since_ms: int) -> int:
    """Wei burnt by transactions stored since then."""
    rows = session.exec(
        select(TxRow.gas_cost).where(col(TxRow.stored_ms) >= since_ms, col(TxRow.gas_cost).is_not(None))
    )
    return sum(int(cost) for cost in rows if cost)
