"""The SQL of what the chain says: logs, sessions, settlements, and the blocks they are in.

Promises: each function is part of its caller's transaction and commits nothing itself. `append` and `retract` are
inverse: after retracting a block, the tables are as if it had never been appended. Bulk rows go through the driver's
executemany; it costs a tenth of what objects do. The same SQL runs on SQLite and PostgreSQL.
Doesn't promise that what it is given is true or in order: the follower sees to that.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, func, select
from sqlmodel import Session

from bot.domain.address import Address
from bot.domain.facts import SessionKey, Source, Trust
from bot.store.identity import get, put
from bot.store.tables import Block, ChainSession, FactRow, Log, Settlement, TxRow

_IN_MAX = 500  # values of one IN (...)
_ROWS_A_STATEMENT = 200  # SQLite takes 32,766 values in one

_blocks: Table = Block.__table__  # type: ignore[attr-defined]
_logs: Table = Log.__table__  # type: ignore[attr-defined]
_sessions: Table = ChainSession.__table__  # type: ignore[attr-defined]
_settlements: Table = Settlement.__table__  # type: ignore[attr-defined]
_txs: Table = TxRow.__table__  # type: ignore[attr-defined]

_INSERT_LOG = (
    "INSERT INTO logs (block_number, log_index, block_hash, timestamp_s, tx_hash, tx_index, name, session_id, address,"
    " topics, data) VALUES "
)
_INSERT_SESSION = (
    "INSERT INTO sessions (session_id, student, tutor, language, start_block, start_tx, started_at, end_block, closed)"
    " VALUES "
)
_INSERT_SETTLEMENT = (
    "INSERT INTO settlements (session_id, student, tutor, token, language, started_at, ended_at, billed_s, rate, paid,"
    " tx_hash, block_number, finality) VALUES "
)
_INSERT_BLOCK = "INSERT INTO blocks (number, hash, parent_hash, timestamp_s) VALUES "

# Indexes that a backfill into a new database makes at its end: their keys come in no order, and keeping such an index
# while its table grows costs more than all else together.
_LATE_INDEXES = (
    ("ix_sessions_student", "sessions", "student"),
    ("ix_sessions_tutor", "sessions", "tutor"),
    ("ix_settlements_student", "settlements", "student"),
    ("ix_settlements_tutor", "settlements", "tutor"),
    ("ix_settlements_tx_hash", "settlements", "tx_hash"),
)
_LATE = "indexes_late"  # remembered while they are missing


class BlockRow(NamedTuple):
    """A header of the followed chain."""

    number: int
    hash: str
    parent_hash: str
    timestamp_s: int


class LogRow(NamedTuple):
    """A row of `logs`."""

    block_number: int
    log_index: int
    block_hash: str
    timestamp_s: int | None
    tx_hash: str
    tx_index: int
    name: str | None
    session_id: int | None
    address: Address | None
    topics: str
    data: str


class Start(NamedTuple):
    """A SessionStarted."""

    session_id: int
    student: Address
    tutor: Address
    language: int
    block: int
    tx: str
    at_s: int | None


class End(NamedTuple):
    """A SessionEnded."""

    session_id: int
    tutor: Address
    billed_s: int
    paid: int
    block: int
    tx: str
    at_s: int | None


@dataclass(slots=True)
class Rows:
    """What a stretch of the chain adds, in chain order. `blocks` may be sparse; its last one is the new cursor."""

    blocks: list[BlockRow] = field(default_factory=list)
    logs: list[LogRow] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    funds: set[Address] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Touched:
    """The sessions that new rows changed, and the students whose balance they may have changed."""

    started: tuple[SessionKey, ...]
    ended: tuple[SessionKey, ...]
    funds: frozenset[Address]


@dataclass(frozen=True, slots=True)
class Finality:
    """Up to which block a settlement is confirmed, and up to which it is final."""

    confirmed_to: int
    final_to: int

    def of(self, block: int) -> str:
        if block <= self.final_to:
            return "final"
        return "confirmed" if block <= self.confirmed_to else "seen"


@dataclass(frozen=True, slots=True)
class Reorg:
    """A branch was left: the last block that stays, and the newest blocks of the old and of the new branch."""

    ancestor: int
    from_number: int
    from_hash: str
    to_number: int
    to_hash: str

    @property
    def depth(self) -> int:
        return self.from_number - self.ancestor


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


# Where the index is


def zone(session: Session) -> list[BlockRow]:
    """The headers held, oldest first; the last one is the cursor."""
    rows = session.connection().execute(select(_blocks).order_by(_blocks.c.number)).all()
    return [BlockRow(row.number, row.hash, row.parent_hash, row.timestamp_s) for row in rows]


def prune(session: Session, below: int) -> None:
    """Forgets headers below a block, but never the newest one."""
    newest = select(func.max(_blocks.c.number)).scalar_subquery()
    session.connection().execute(_blocks.delete().where(_blocks.c.number < below, _blocks.c.number < newest))


def newest_log(session: Session) -> tuple[int, str] | None:
    """Block number and hash of the newest log, None when there is none."""
    row = (
        session.connection()
        .execute(select(_logs.c.block_number, _logs.c.block_hash).order_by(_logs.c.block_number.desc()).limit(1))
        .first()
    )
    return (row[0], row[1]) if row else None


# Indexes of a backfill


def delay_indexes(session: Session) -> None:
    """Drops the indexes that `make_indexes` makes again; what reads by them is slower meanwhile, and right."""
    for name, _, _ in _LATE_INDEXES:
        _run(session.connection(), f"DROP INDEX IF EXISTS {name}", ())
    put(session, _LATE, "1")


def indexes_delayed(session: Session) -> bool:
    """True while these indexes are missing, also after a crash."""
    return get(session, _LATE) == "1"


def make_indexes(session: Session) -> None:
    """Makes them again."""
    for name, table, column in _LATE_INDEXES:
        _run(session.connection(), f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({column})", ())
    put(session, _LATE, "0")


# Forwards


def append(session: Session, rows: Rows, finality: Finality) -> Touched:
    """Adds a stretch of the chain, and what follows from its logs for sessions and settlements."""
    connection = session.connection()
    _insert(connection, _INSERT_LOG, rows.logs)
    starts = {start.session_id: start for start in rows.starts}
    ends = {end.session_id: end for end in rows.ends}
    _insert(connection, _INSERT_SESSION, [_session_row(one, ends.get(one.session_id), finality) for one in rows.starts])
    earlier = _known(connection, [number for number in ends if number not in starts])
    _many(
        connection,
        "UPDATE sessions SET end_block = ?, closed = ? WHERE session_id = ?",
        [(ends[number].block, ends[number].block <= finality.final_to, number) for number in earlier],
    )
    settlements = []
    ended: list[SessionKey] = []
    for end in rows.ends:
        start = starts.get(end.session_id)
        known = earlier.get(end.session_id) or (
            _Known(start.student, start.tutor, start.language, start.at_s) if start else None
        )
        settlements.append(_settlement_row(end, known, finality))
        if known is not None:
            ended.append(SessionKey(end.session_id, known.student, known.tutor))
    _insert(connection, _INSERT_SETTLEMENT, settlements)
    _insert(connection, _INSERT_BLOCK, rows.blocks)
    return Touched(
        started=tuple(SessionKey(one.session_id, one.student, one.tutor) for one in rows.starts),
        ended=tuple(ended),
        funds=frozenset(rows.funds | {key.student for key in ended}),
    )


class _Known(NamedTuple):
    student: Address
    tutor: Address
    language: int
    started_at: int | None
    rate: str | None = None
    token: str | None = None


def _known(connection: Connection, ids: Sequence[int]) -> dict[int, _Known]:
    c = _sessions.c
    found: dict[int, _Known] = {}
    for part in _parts(ids):
        query = select(c.session_id, c.student, c.tutor, c.language, c.started_at, c.rate, c.token)
        for row in connection.execute(query.where(c.session_id.in_(part))):
            found[row[0]] = _Known(*row[1:])
    return found


def _session_row(start: Start, end: End | None, finality: Finality) -> tuple[Any, ...]:
    end_block = end.block if end else None
    closed = end_block is not None and end_block <= finality.final_to
    return (*start[:4], start.block, start.tx, start.at_s, end_block, closed)


def _settlement_row(end: End, known: _Known | None, finality: Finality) -> tuple[Any, ...]:
    student, _, language, started_at, rate, token = known or (None, None, None, None, None, None)
    of_end = (end.tx, end.block, finality.of(end.block))
    amounts = (str(end.billed_s), rate, str(end.paid))
    return (end.session_id, student, end.tutor, token, language, started_at, end.at_s, *amounts, *of_end)


def sweep(session: Session, finality: Finality) -> int:
    """Raises the finality of settlements, closes sessions that ended finally; how many settlements aren't final yet."""
    connection = session.connection()
    final, confirmed = (finality.final_to,), (finality.confirmed_to,)
    _run(connection, "UPDATE settlements SET finality = 'final' WHERE finality <> 'final' AND block_number <= ?", final)
    _run(
        connection,
        "UPDATE settlements SET finality = 'confirmed' WHERE finality = 'seen' AND block_number <= ?",
        confirmed,
    )
    _run(connection, "UPDATE sessions SET closed = TRUE WHERE NOT closed AND end_block <= ?", final)
    return unfinal(session)


def unfinal(session: Session) -> int:
    """How many settlements aren't final."""
    query = select(func.count()).select_from(_settlements).where(_settlements.c.finality.in_(("seen", "confirmed")))
    return int(session.connection().execute(query).scalar_one())


# Backwards


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
        select(_logs.c.session_id, _logs.c.name, _logs.c.address, _logs.c.block_hash, _logs.c.log_index).where(
            _logs.c.block_number > above
        )
    ).all()
    _run(connection, "DELETE FROM settlements WHERE block_number > ?", (above,))
    _run(connection, "UPDATE sessions SET end_block = NULL, closed = FALSE WHERE end_block > ?", (above,))
    _run(connection, "DELETE FROM sessions WHERE start_block > ?", (above,))
    _run(connection, "DELETE FROM logs WHERE block_number > ?", (above,))
    _run(connection, "DELETE FROM blocks WHERE number > ?", (above,))
    now_ms = time.time_ns() // 1_000_000
    logs: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in removed:
        logs[row.session_id].append({"name": row.name, "block_hash": row.block_hash, "log_index": row.log_index})
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


# What logs don't carry


class Unread(NamedTuple):
    """A session or settlement of which something isn't known yet. `student` is None when its start wasn't seen."""

    session_id: int
    student: Address | None
    tutor: Address
    tx_hash: str = ""


def sessions_without_rate(session: Session, after: int, limit: int) -> list[Unread]:
    """Sessions whose rate and token haven't been read, by id, above `after`."""
    c = _sessions.c
    query = select(c.session_id, c.student, c.tutor).where(c.rate.is_(None), c.session_id > after)
    return [Unread(*row) for row in session.connection().execute(query.order_by(c.session_id).limit(limit))]


def settlements_without_start(session: Session, after: int, limit: int) -> list[Unread]:
    """Settlements of sessions whose start lies before the index, not read yet, by id, above `after`."""
    c = _settlements.c
    query = select(c.session_id, c.student, c.tutor, c.tx_hash).where(c.student.is_(None), c.session_id > after)
    return [Unread(*row) for row in session.connection().execute(query.order_by(c.session_id).limit(limit))]


def settlements_without_sender(session: Session, after: int, limit: int) -> list[Unread]:
    """Settlements whose student is known, but not who ended them, by id, above `after`."""
    c = _settlements.c
    unread = c.ended_by.is_(None) & c.student.is_not(None) & (c.session_id > after)
    query = select(c.session_id, c.student, c.tutor, c.tx_hash).where(unread)
    return [Unread(*row) for row in session.connection().execute(query.order_by(c.session_id).limit(limit))]


class Details(NamedTuple):
    """What `getSession` says of a session."""

    session_id: int
    student: Address
    tutor: Address
    language: int
    started_at: int
    rate: int
    token: Address


def fill_details(session: Session, details: Sequence[Details]) -> None:
    """Stores what `getSession` said, in sessions and settlements. Rows of another student or tutor stay as they are."""
    connection = session.connection()
    _many(
        connection,
        "UPDATE sessions SET rate = ?, token = ?, started_at = COALESCE(started_at, ?)"
        " WHERE session_id = ? AND student = ? AND tutor = ?",
        [(str(d.rate), d.token, d.started_at, d.session_id, d.student, d.tutor) for d in details],
    )
    _many(
        connection,
        "UPDATE settlements SET rate = ?, token = ?, started_at = COALESCE(started_at, ?), student = ?,"
        " language = COALESCE(language, ?) WHERE session_id = ? AND (student IS NULL OR student = ?) AND tutor = ?",
        [
            (str(d.rate), d.token, d.started_at, d.student, d.language, d.session_id, d.student, d.tutor)
            for d in details
        ],
    )


class Sender(NamedTuple):
    """Who ended a session, by the transaction that did."""

    session_id: int
    tx_hash: str
    sender: Address
    ended_by: str
    by_keeper: bool


def fill_senders(session: Session, senders: Sequence[Sender]) -> None:
    """Stores who ended; a settlement that meanwhile stands in another transaction stays as it is."""
    _many(
        session.connection(),
        "UPDATE settlements SET sender = ?, ended_by = ?, by_keeper = ? WHERE session_id = ? AND tx_hash = ?",
        [(s.sender, s.ended_by, s.by_keeper, s.session_id, s.tx_hash) for s in senders],
    )


def our_transactions(session: Session, hashes: Sequence[str]) -> set[str]:
    """Which of these transactions the keeper itself signed."""
    found: set[str] = set()
    for part in _parts(hashes):
        found.update(session.connection().execute(select(_txs.c.hash).where(_txs.c.hash.in_(part))).scalars())
    return found


def complete(session: Session, ids: Sequence[int]) -> list[SessionKey]:
    """Which of these settlements have all their details."""
    c = _settlements.c
    found: list[SessionKey] = []
    for part in _parts(ids):
        query = select(c.session_id, c.student, c.tutor).where(
            c.session_id.in_(part), c.student.is_not(None), c.rate.is_not(None), c.ended_by.is_not(None)
        )
        found += [SessionKey(*row) for row in session.connection().execute(query.order_by(c.session_id))]
    return found


# The driver


def _insert(connection: Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Adds rows that aren't there yet. SQLite takes many rows in one statement a quarter faster than one by one."""
    if not rows:
        return
    one = "(" + ", ".join("?" * len(rows[0])) + ")"
    if connection.dialect.name != "sqlite":
        _many(connection, f"{into}{one} ON CONFLICT DO NOTHING", rows)
        return
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        part = rows[start : start + _ROWS_A_STATEMENT]
        sql = f"{into}{', '.join([one] * len(part))} ON CONFLICT DO NOTHING"
        connection.exec_driver_sql(sql, tuple(chain.from_iterable(part)))


def _many(connection: Connection, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    rows = rows if isinstance(rows, list) else list(rows)
    if rows:
        connection.exec_driver_sql(_dialect(connection, sql), rows)


def _run(connection: Connection, sql: str, values: tuple[Any, ...]) -> None:
    connection.exec_driver_sql(_dialect(connection, sql), values)


def _dialect(connection: Connection, sql: str) -> str:
    return sql if connection.dialect.name == "sqlite" else sql.replace("?", "%s")


def _parts(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + _IN_MAX] for start in range(0, len(values), _IN_MAX))
