"""One transaction of the follower, and where the index stands.

Promises: `advance` takes away what a reorg took, adds what came, moves the cursor and finality: all of it or nothing.
The newest header held is the cursor.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Table, func, select
from sqlmodel import Session

from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.store import bulk
from bot.store.chain_reorg import Retracted, retract
from bot.store.chain_rows import BlockRow, Finality, Reorg, Rows, append, sweep
from bot.store.identity import get, put
from bot.store.tables import Block, Log

_blocks: Table = Block.__table__  # type: ignore[attr-defined]
_logs: Table = Log.__table__  # type: ignore[attr-defined]

# Indexes that a backfill into a new database makes at its end: their keys come in no order, and keeping such an index
# while its table grows costs more than all else together. The others grow at their right edge, for next to nothing.
_LATE_INDEXES = (
    ("ix_sessions_student", "sessions", "student"),
    ("ix_sessions_tutor", "sessions", "tutor"),
    ("ix_settlements_student", "settlements", "student"),
    ("ix_settlements_tutor", "settlements", "tutor"),
)
_LATE = "indexes_late"  # remembered while they are missing


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of the follower."""

    rows: Rows
    finality: Finality
    reorg: Reorg | None = None
    sweep: bool = True  # look for settlements whose finality rose
    prune_below: int | None = None  # forget older headers
    finalized: int | None = None  # remember the finalized block


@dataclass(frozen=True, slots=True)
class Advanced:
    """What a transaction of the follower changed."""

    started: tuple[SessionKey, ...]
    ended: tuple[SessionKey, ...]
    retracted: tuple[SessionKey, ...]
    funds: tuple[Address, ...]
    removed: int  # logs taken away
    unfinal: int  # settlements that aren't final yet


def advance(session: Session, step: Step) -> Advanced:
    """Takes away what a reorg took, adds what came, moves the cursor and finality: all of it or nothing."""
    taken = retract(session, step.reorg) if step.reorg is not None else Retracted()
    touched = append(session, step.rows, step.finality)
    left = sweep(session, step.finality) if step.sweep else 0
    if step.prune_below is not None:
        prune(session, step.prune_below)
    if step.finalized is not None:
        put(session, "finalized", str(step.finalized))
    funds = tuple(sorted(touched.funds | taken.funds))
    return Advanced(touched.started, touched.ended, taken.sessions, funds, taken.removed, left)


def zone(session: Session) -> list[BlockRow]:
    """The headers held, oldest first; the last one is the cursor."""
    rows = session.connection().execute(select(_blocks).order_by(_blocks.c.number)).all()
    return [BlockRow(row.number, row.hash, row.parent_hash, row.timestamp_s) for row in rows]


def prune(session: Session, below: int) -> None:
    """Forgets headers below a block, but never the newest one."""
    newest = select(func.max(_blocks.c.number)).scalar_subquery()
    session.connection().execute(_blocks.delete().where(_blocks.c.number < below, _blocks.c.number < newest))


def places(session: Session, first: int) -> dict[tuple[int, int], str]:
    """Block number and index of each log from block `first` on, with the hash of its transaction."""
    c = _logs.c
    query = select(c.block_number, c.log_index, c.tx_hash).where(c.block_number >= first)
    return {(row[0], row[1]): row[2] for row in session.connection().execute(query)}


def delay_indexes(session: Session) -> None:
    """Drops the indexes that `make_indexes` makes again; what reads by them is slower meanwhile, and right."""
    for name, _, _ in _LATE_INDEXES:
        bulk.run(session.connection(), f"DROP INDEX IF EXISTS {name}", ())
    put(session, _LATE, "1")


def indexes_delayed(session: Session) -> bool:
    """True while these indexes are missing, also after a crash."""
    return get(session, _LATE) == "1"


def make_indexes(session: Session) -> None:
    """Makes them again."""
    for name, table, column in _LATE_INDEXES:
        bulk.run(session.connection(), f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({column})", ())
    put(session, _LATE, "0")
