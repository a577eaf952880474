"""What commands and pages read.

Promises: reads only, on one consistent state where the caller keeps one session open; the same SQL runs on SQLite and
PostgreSQL; rows come out as plain dictionaries with the columns' names, amounts as decimal text.
Doesn't promise to be cheap on a whole history: lists are limited by their callers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import String, cast, func
from sqlmodel import Session, and_, col, or_, select

from bot.domain.facts import SessionKey
from bot.store.tables import (
    ActionRow,
    AlertRow,
    Block,
    ChainSession,
    DecisionRow,
    FactRow,
    InboxRow,
    Log,
    Meta,
    Room,
    Settlement,
    TxItemRow,
    TxRow,
)

Row = dict[str, Any]
T = TypeVar("T")

# The public interface, in this order. `settlements.sender` isn't part of it.
SETTLEMENT_COLUMNS = (
    "session_id",
    "room_id",
    "student",
    "tutor",
    "token",
    "language",
    "started_at",
    "ended_at",
    "billed_s",
    "rate",
    "paid",
    "ended_by",
    "by_keeper",
    "tx_hash",
    "block_number",
    "finality",
    "reason",
    "call_ended_at",
    "overbilled_s",
    "overbilled_amount",
)
# The signed bytes stay where they are: whoever has them can send them.
TX_COLUMNS = tuple(name for name in TxRow.model_fields if name != "raw")

TX_OPEN = ("stored", "sent", "mined")  # not yet confirmed, and not given up
_CHUNK = 500


# Single values -------------------------------------------------------------------------------------------------------


def meta(session: Session, *names: str) -> dict[str, str]:
    """These single values, as far as they are there."""
    return {row.name: row.value for row in session.exec(select(Meta).where(col(Meta.name).in_(names)))}


def counts(session: Session) -> dict[str, int]:
    """How many logs, sessions and settlements the index holds."""
    tables = {"logs": Log, "sessions": ChainSession, "settlements": Settlement}
    return {name: session.exec(select(func.count()).select_from(table)).one() for name, table in tables.items()}


def unfinished(session: Session) -> dict[str, int]:
    """Of how many sessions the rate, and of how many settlements the ender, hasn't been read."""
    sessions = select(func.count()).select_from(ChainSession).where(col(ChainSession.rate).is_(None))
    settlements = select(func.count()).select_from(Settlement).where(col(Settlement.ended_by).is_(None))
    return {"sessions": session.exec(sessions).one(), "settlements": session.exec(settlements).one()}


def newest_block(session: Session) -> Row | None:
    """The newest header of the followed chain: how far the index is."""
    return _first(session, select(Block).order_by(col(Block.number).desc()).limit(1))


# Sessions ------------------------------------------------------------------------------------------------------------


def key_of(row: Row) -> str:
    """The key under which the keeper's own tables know a session of the chain."""
    return str(SessionKey(row["session_id"], row["student"], row["tutor"]))


def sessions(
    session: Session,
    *,
    state: str | None = None,
    student: str | None = None,
    tutor: str | None = None,
    limit: int | None = None,
) -> list[Row]:
    """Sessions of the chain, the newest first. `state`: active, ended, unlinked (active, and no room is known)."""
    query = select(ChainSession).order_by(col(ChainSession.session_id).desc())
    if state in ("active", "unlinked"):
        query = query.where(col(ChainSession.end_block).is_(None))
    if state == "ended":
        query = query.where(col(ChainSession.end_block).is_not(None))
    if state == "unlinked":
        ours = (
            cast(col(ChainSession.session_id), String)
            .concat(":")
            .concat(col(ChainSession.student))
            .concat(":")
            .concat(col(ChainSession.tutor))
        )
        query = query.where(~select(Room.room).where(col(Room.session_key) == ours).exists())
    if student is not None:
        query = query.where(ChainSession.student == student)
    if tutor is not None:
        query = query.where(ChainSession.tutor == tutor)
    if limit is not None:
        query = query.limit(limit)
    return _rows(session, query)


def session(session: Session, session_id: int) -> Row | None:
    """The session of the canonical chain with this id."""
    return _first(session, select(ChainSession).where(ChainSession.session_id == session_id))


def count_active(session: Session) -> int:
    query = select(func.count()).select_from(ChainSession).where(col(ChainSession.end_block).is_(None))
    return int(session.exec(query).one())


def rooms_of(session: Session, keys: Iterable[str]) -> dict[str, list[Row]]:
    """The rooms of these sessions, the one heard last first."""
    found: dict[str, list[Row]] = {}
    for part in _parts(list(keys)):
        query = select(Room).where(col(Room.session_key).in_(part)).order_by(col(Room.heard_ms).desc())
        for row in _rows(session, query):
            found.setdefault(row["session_key"], []).append(row)
    return found


def room(session: Session, name: str) -> Row | None:
    return _first(session, select(Room).where(Room.room == name))


def waiting_rooms(session: Session, limit: int = 50) -> list[Row]:
    """Rooms that joined no session yet, the one heard last first."""
    query = select(Room).where(Room.state == "waiting").order_by(col(Room.heard_ms).desc()).limit(limit)
    return _rows(session, query)


def unlinked_rooms(session: Session, expired_since_ms: int, limit: int = 100) -> list[Row]:
    """Rooms that joined no session: those that wait, and those given up since then; the one heard last first."""
    waits, given_up = Room.state == "waiting", Room.state == "expired"
    query = select(Room).where(or_(waits, and_(given_up, col(Room.heard_ms) >= expired_since_ms)))
    return _rows(session, query.order_by(col(Room.heard_ms).desc()).limit(limit))


def latest_decisions(session: Session, keys: Iterable[str]) -> dict[str, Row]:
    """The present decision about each of these sessions."""
    found: dict[str, Row] = {}
    for part in _parts(list(keys)):
        newest = (
            select(func.max(DecisionRow.id))
            .where(col(DecisionRow.session_key).in_(part))
            .group_by(col(DecisionRow.session_key))
        )
        for row in _rows(session, select(DecisionRow).where(col(DecisionRow.id).in_(newest))):
            found[row["session_key"]] = row
    return found


# Everything of one session -------------------------------------------------------------------------------------------


def logs_of(session: Session, session_id: int) -> list[Row]:
    """The chain's own facts about a session id."""
    query = select(Log).where(Log.session_id == session_id).order_by(col(Log.block_number), col(Log.log_index))
    return _rows(session, query)


def facts_of(session: Session, key: str | None, rooms: Iterable[str] = ()) -> list[Row]:
    """Facts of a session, and those said of its rooms that belong to no session, as they were stored."""
    loose = (col(FactRow.room).in_(list(rooms))) & col(FactRow.session_key).is_(None)
    query = select(FactRow).where(or_(col(FactRow.session_key) == key, loose) if key else loose)
    return _rows(session, query.order_by(col(FactRow.id)))


def decisions_of(session: Session, key: str) -> list[Row]:
    query = select(DecisionRow).where(DecisionRow.session_key == key).order_by(col(DecisionRow.id))
    return _rows(session, query)


def actions_of(session: Session, key: str, *, kind: str | None = None, since_ms: int = 0) -> list[Row]:
    query = select(ActionRow).where(ActionRow.session_key == key, col(ActionRow.created_ms) >= since_ms)
    if kind is not None:
        query = query.where(ActionRow.kind == kind)
    return _rows(session, query.order_by(col(ActionRow.id)))


def alerts_of(session: Session, key: str) -> list[Row]:
    return _rows(session, select(AlertRow).where(AlertRow.session_key == key).order_by(col(AlertRow.id)))


def requests_for(session: Session, session_id: int) -> list[Row]:
    """What operators asked for a session by the inbox."""
    rows = _rows(session, select(InboxRow).where(InboxRow.kind == "settle").order_by(col(InboxRow.id)))
    asked = ((row, row["payload"]) for row in rows)
    return [row for row, said in asked if isinstance(said, dict) and said.get("session_id") == session_id]


# Settlements, transactions, alerts, inbox ----------------------------------------------------------------------------


class Which(NamedTuple):
    """Of which settlements: these participants', and those that ended in [since_s, until_s), chain seconds."""

    student: str | None = None
    tutor: str | None = None
    participant: str | None = None  # in either role
    since_s: int | None = None
    until_s: int | None = None

    def of(self, query: Any) -> Any:
        if self.student is not None:
            query = query.where(Settlement.student == self.student)
        if self.tutor is not None:
            query = query.where(Settlement.tutor == self.tutor)
        if self.participant is not None:
            query = query.where(or_(Settlement.student == self.participant, Settlement.tutor == self.participant))
        if self.since_s is not None:
            query = query.where(col(Settlement.ended_at) >= self.since_s)
        if self.until_s is not None:
            query = query.where(col(Settlement.ended_at) < self.until_s)
        return query


def settlements(
    session: Session,
    *,
    student: str | None = None,
    tutor: str | None = None,
    limit: int | None = None,
    which: Which | None = None,
    before: int | None = None,
) -> list[Row]:
    """The public columns, the newest settlement first. `before`: only those older than this session's."""
    query = select(Settlement).order_by(col(Settlement.block_number).desc(), col(Settlement.session_id).desc())
    query = (which or Which(student, tutor)).of(query)
    if before is not None:
        last = select(Settlement.block_number).where(Settlement.session_id == before).scalar_subquery()
        earlier = (col(Settlement.block_number) == last) & (col(Settlement.session_id) < before)
        query = query.where(or_(col(Settlement.block_number) < last, earlier))
    if limit is not None:
        query = query.limit(limit)
    return [_public(row) for row in _rows(session, query)]


def each_settlement(session: Session, which: Which) -> Iterator[Row]:
    """The public columns, the oldest settlement first, however many there are: a few at a time are in memory."""
    columns = [col(getattr(Settlement, name)) for name in SETTLEMENT_COLUMNS]
    query = which.of(select(*columns).order_by(col(Settlement.block_number), col(Settlement.session_id)))
    found = session.connection().execution_options(yield_per=_CHUNK).execute(query)
    for row in found.mappings():
        yield dict(row)


def settlement(session: Session, session_id: int) -> Row | None:
    row = _first(session, select(Settlement).where(Settlement.session_id == session_id))
    return _public(row) if row else None


def settlements_by_id(session: Session, ids: Iterable[int]) -> dict[int, Row]:
    """The public columns of these sessions' settlements."""
    return {
        row["session_id"]: _public(row)
        for part in _parts(list(ids))
        for row in _rows(session, select(Settlement).where(col(Settlement.session_id).in_(part)))
    }


def txs(
    session: Session, *, states: Sequence[str] | None = None, key: str | None = None, limit: int | None = None
) -> list[Row]:
    """Transactions that were signed, the newest first, without their bytes; `sessions` are the ids they are about."""
    query = select(TxRow).order_by(col(TxRow.stored_ms).desc(), col(TxRow.nonce).desc())
    if states is not None:
        query = query.where(col(TxRow.state).in_(states))
    if key is not None:
        query = query.where(
            col(TxRow.hash).in_(select(col(TxItemRow.tx_hash)).where(col(TxItemRow.session_key) == key))
        )
    if limit is not None:
        query = query.limit(limit)
    rows = _rows(session, query)
    sessions: dict[str, list[int]] = {row["hash"]: [] for row in rows}
    for part in _parts(list(sessions)):
        items = select(TxItemRow).where(col(TxItemRow.tx_hash).in_(part)).order_by(col(TxItemRow.position))
        for item in session.exec(items):
            sessions[item.tx_hash].append(SessionKey.parse(item.session_key).session_id)
    return [{name: row[name] for name in TX_COLUMNS} | {"sessions": sessions[row["hash"]]} for row in rows]


def open_alerts(session: Session, since_ms: int, limit: int = 50) -> list[Row]:
    """Alerts since then that somebody may still have to act on: those about ended sessions are over. Newest first."""
    query = select(AlertRow).where(col(AlertRow.at_ms) >= since_ms).order_by(col(AlertRow.id).desc()).limit(4 * limit)
    rows = _rows(session, query)
    ids = {int(row["session_key"].partition(":")[0]) for row in rows if row["session_key"]}
    active: set[str] = set()
    for part in _parts(list(ids)):
        query_active = select(ChainSession).where(
            col(ChainSession.session_id).in_(part), col(ChainSession.end_block).is_(None)
        )
        active |= {key_of(row) for row in _rows(session, query_active)}
    return [row for row in rows if row["session_key"] is None or row["session_key"] in active][:limit]


def request(session: Session, inbox_id: int) -> Row | None:
    """A request to the daemon, with its answer if there is one."""
    return _first(session, select(InboxRow).where(InboxRow.id == inbox_id))


def heard_from(session: Session, source: str) -> int | None:
    """When a source was last heard (our receive time, ms), None if never."""
    said = session.exec(select(func.max(FactRow.received_ms)).where(FactRow.source == source)).one()
    beat = session.exec(select(func.max(Room.beat_last_ms)).where(Room.beat_source == source)).one()
    return max((at for at in (said, beat) if at is not None), default=None)


# Common parts --------------------------------------------------------------------------------------------------------


def _public(row: Row) -> Row:
    return {name: row[name] for name in SETTLEMENT_COLUMNS}


def _rows(session: Session, query: Any) -> list[Row]:
    return [row.model_dump() for row in session.exec(query)]


def _first(session: Session, query: Any) -> Row | None:
    return next(iter(_rows(session, query)), None)


def _parts(values: list[T]) -> Iterable[list[T]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
