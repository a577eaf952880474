"""The chain's rows, forwards: logs, sessions, settlements, and the blocks they are in.

Promises: each function is part of its caller's transaction and commits nothing itself. `append` and
`bot.store.chain_reorg.retract` are inverse: after retracting a block, the tables are as if it had never been appended.
The same SQL runs on SQLite and PostgreSQL.
Doesn't promise that what it is given is true or in order: the follower sees to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, func, select, text
from sqlmodel import Session

from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.store import bulk
from bot.store.tables import ChainSession, Settlement

_sessions: Table = ChainSession.__table__  # type: ignore[attr-defined]
_settlements: Table = Settlement.__table__  # type: ignore[attr-defined]

_INSERT_LOG = (
    "INSERT INTO logs (block_number, log_index, timestamp_s, tx_hash, tx_index, name, session_id, address, topics,"
    " data) VALUES "
)
_LOG = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_SESSION = (
    "INSERT INTO sessions (session_id, student, tutor, language, start_block, started_at, end_block, closed) VALUES "
)
_SESSION = "(?, ?, ?, ?, ?, ?, ?, ? = 1)"  # a truth value costs the driver eight times what a number does
_INSERT_SETTLEMENT = (
    "INSERT INTO settlements (session_id, student, tutor, language, started_at, ended_at, billed_s, paid, tx_hash,"
    " block_number, finality) VALUES "
)
_SETTLEMENT = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_BLOCK = "INSERT INTO blocks (number, hash, parent_hash, timestamp_s) VALUES "
_BLOCK = "(?, ?, ?, ?)"


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
    timestamp_s: int | None
    tx_hash: str
    tx_index: int
    name: str | None
    session_id: int | None
    address: Address | None
    topics: str
    data: str


class LogRows(Sequence[LogRow]):
    """Rows of `logs`, as the values of all of them one after the other."""

    __slots__ = ("values",)
    WIDTH = len(LogRow._fields)

    def __init__(self) -> None:
        self.values: list[Any] = []

    def append(self, row: LogRow) -> None:
        self.values += row

    def __len__(self) -> int:
        return len(self.values) // self.WIDTH

    def __getitem__(self, place: Any) -> Any:
        start = range(len(self))[place] * self.WIDTH
        return LogRow(*self.values[start : start + self.WIDTH])


class Start(NamedTuple):
    """A SessionStarted."""

    session_id: int
    student: Address
    tutor: Address
    language: int
    block: int
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
    logs: LogRows = field(default_factory=LogRows)
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


def append(session: Session, rows: Rows, finality: Finality) -> Touched:
    """Adds a stretch of the chain, and what follows from its logs for sessions and settlements."""
    connection = session.connection()
    bulk.insert(connection, _INSERT_LOG, _LOG, rows.logs.values)
    final_to = finality.final_to
    end_blocks = {end[0]: end[4] for end in rows.ends}
    sessions: list[Any] = []
    for start in rows.starts:
        end_block = end_blocks.get(start[0])
        sessions += (*start, end_block, 0 if end_block is None or end_block > final_to else 1)
    bulk.insert(connection, _INSERT_SESSION, _SESSION, sessions)
    known = {start[0]: start for start in rows.starts}
    earlier = _earlier(connection, [number for number in end_blocks if number not in known])
    bulk.many(
        connection,
        "UPDATE sessions SET end_block = ?, closed = ? WHERE session_id = ?",
        [(end_blocks[number], end_blocks[number] <= final_to, number) for number in earlier],
    )
    known |= {number: start for number, (start, _, _) in earlier.items()}
    bulk.insert(connection, _INSERT_SETTLEMENT, _SETTLEMENT, _settlements_of(rows.ends, known, finality))
    bulk.many(
        connection,
        "UPDATE settlements SET rate = ?, token = ? WHERE session_id = ?",
        [(rate, token, number) for number, (_, rate, token) in earlier.items() if rate is not None],
    )
    bulk.insert(connection, _INSERT_BLOCK, _BLOCK, [value for block in rows.blocks for value in block])
    made = tuple.__new__  # what a NamedTuple's constructor does, at a third of its cost
    started = tuple([made(SessionKey, start[:3]) for start in rows.starts])
    ended = tuple([made(SessionKey, known[number][:3]) for number in end_blocks if number in known])
    return Touched(started, ended, frozenset(rows.funds.union([key[1] for key in ended])))


def _earlier(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[Start, str | None, str | None]]:
    """These sessions as they started, with rate and token where those were read."""
    c = _sessions.c
    columns = (c.session_id, c.student, c.tutor, c.language, c.start_block, c.started_at, c.rate, c.token)
    found = {}
    for part in bulk.parts(ids):
        for *start, rate, token in connection.execute(select(*columns).where(c.session_id.in_(part))):
            found[start[0]] = (Start(*start), rate, token)
    return found


def _settlements_of(ends: Sequence[End], known: Mapping[int, Start], finality: Finality) -> list[Any]:
    """The values of their rows, but for rate and token: those are known of few, of sessions that started earlier."""
    values: list[Any] = []
    block, how_final = -1, ""
    for session_id, tutor, billed_s, paid, at_block, tx, at_s in ends:
        if at_block != block:  # most share their block with the one before
            block, how_final = at_block, finality.of(at_block)
        _, student, _, language, _, started_at = known.get(session_id, _NOTHING_KNOWN)
        said = (language, started_at, at_s, str(billed_s), str(paid))
        values += (session_id, student, tutor, *said, tx, at_block, how_final)
    return values


_NOTHING_KNOWN = (None,) * len(Start._fields)


def sweep(session: Session, finality: Finality) -> int:
    """Raises the finality of settlements, closes sessions that ended finally; how many settlements aren't final yet."""
    connection = session.connection()
    final, confirmed = (finality.final_to,), (finality.confirmed_to,)
    # In the words of their indexes' conditions: only those few rows are read.
    bulk.run(
        connection, "UPDATE settlements SET finality = 'final' WHERE finality <> 'final' AND block_number <= ?", final
    )
    bulk.run(
        connection,
        "UPDATE settlements SET finality = 'confirmed'"
        " WHERE finality = 'seen' AND finality <> 'final' AND block_number <= ?",
        confirmed,
    )
    bulk.run(connection, "UPDATE sessions SET closed = TRUE WHERE closed = FALSE AND end_block <= ?", final)
    return unfinal(session)


def unfinal(session: Session) -> int:
    """How many settlements aren't final."""
    query = select(func.count()).select_from(_settlements).where(text("finality <> 'final'"))
    return int(session.connection().execute(query).scalar_one())
