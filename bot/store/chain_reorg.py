"""The chain's rows, backwards: what a reorg takes away.

Promises: `retract` takes back all blocks above the ancestor, in its caller's transaction: rows that came go, rows that
were changed are as before, and one fact per touched session says so.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, select
from sqlmodel import Session

from bot.domain.address import Address
from bot.domain.facts import SessionKey, Source, Trust
from bot.store import bulk
from bot.store.chain_rows import Reorg
from bot.store.tables import Block, ChainSession, FactRow, Log

_blocks: Table = Block.__table__  # type: ignore[attr-defined]
_logs: Table = Log.__table__  # type: ignore[attr-defined]
_sessions: Table = ChainSession.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Retracted:
    """What a reorg took away: the sessions it touched, the students concerned, how many logs."""

    sessions: tuple[SessionKey, ...] = ()
    funds: frozenset[Address] = frozenset()
    removed: int = 0


def retract(session: Session, reorg: Reorg) -> Retracted:
    """Takes back all blocks above the ancestor. One fact per touched session says so."""
    connection = session.connection()
    above = reorg.ancestor
    c = _sessions.c
    touched = [
        SessionKey(row[0], row[1], row[2])
        for row in connection.execute(
            select(c.session_id, c.student, c.tutor)
            .where((c.start_block > above) | (c.end_block > above))
            .order_by(c.session_id)
        )
    ]
    removed = connection.execute(
        select(_logs.c.session_id, _logs.c.name, _logs.c.address, _logs.c.block_number, _logs.c.log_index).where(
            _logs.c.block_number > above
        )
    ).all()
    # Of all of them: what isn't final has its header.
    headers = connection.execute(select(_blocks.c.number, _blocks.c.hash).where(_blocks.c.number > above))
    hashes = {row.number: row.hash for row in headers}
    bulk.run(connection, "DELETE FROM settlements WHERE block_number > ?", (above,))
    bulk.run(connection, "UPDATE sessions SET end_block = NULL, closed = FALSE WHERE end_block > ?", (above,))
    bulk.run(connection, "DELETE FROM sessions WHERE start_block > ?", (above,))
    bulk.run(connection, "DELETE FROM logs WHERE block_number > ?", (above,))
    bulk.run(connection, "DELETE FROM blocks WHERE number > ?", (above,))
    now_ms = time.time_ns() // 1_000_000
    logs: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in removed:
        block_hash = hashes.get(row.block_number)
        logs[row.session_id].append({"name": row.name, "block_hash": block_hash, "log_index": row.log_index})
    session.add_all(_reorg_fact(key, reorg, logs[key.session_id], now_ms) for key in touched)
    users = {row.address for row in removed if row.name in ("FundsDeposited", "FundsWithdrawn")}
    return Retracted(tuple(touched), frozenset(users | {key.student for key in touched}), len(removed))


def _reorg_fact(key: SessionKey, reorg: Reorg, logs: list[dict[str, Any]], now_ms: int) -> FactRow:
    return FactRow(
        # The same branch can be left twice, so its hash alone is no key.
        key=f"reorg:{reorg.from_hash}:{reorg.to_hash}:{now_ms}:{key}",
        kind="reorg",
        source=Source.CHAIN.value,
        trust=int(Trust.PROVEN),
        received_ms=now_ms,
        session_id=key.session_id,
        student=key.student,
        tutor=key.tutor,
        payload={
            "from": {"number": reorg.from_number, "hash": reorg.from_hash},
            "to": {"number": reorg.to_number, "hash": reorg.to_hash},
            "depth": reorg.depth,
            "removed": logs,
        },
        session_key=str(key),
    )
