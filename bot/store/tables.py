"""The schema: what the keeper remembers.

Promises: every table is described here and only here; amounts are uint256 as decimal text, exact; `_s` columns are
chain seconds, `_ms` columns our receive time in epoch milliseconds; addresses are checksummed.
`settlements` is a public interface (docs/settlements.md): its columns keep their names and meanings.
Doesn't promise that rows above the finalized block stay: a reorg takes away what it took from the chain.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Text, text
from sqlmodel import Field, SQLModel

from bot.store.naming import metadata


class Table(SQLModel, metadata=metadata):
    """Base of our tables; its own metadata, so that a host program's tables don't mix with ours."""


def _big(*, nullable: bool = True, index: bool = False, primary_key: bool = False) -> Column:
    return Column(
        BigInteger, nullable=nullable and not primary_key, index=index, primary_key=primary_key, autoincrement=False
    )


def _index_of_few(name: str, column: str, where: str) -> Index:
    """An index over the few rows that a condition holds for; the many others cost it nothing.

    A query uses it when it says the condition in the same words.
    """
    return Index(name, column, sqlite_where=text(where), postgresql_where=text(where))


class Meta(Table, table=True):
    """Which chain and contract this database belongs to, and other single values."""

    __tablename__ = "meta"
    name: str = Field(primary_key=True)
    value: str


class Block(Table, table=True):
    """Headers of the followed chain: the unfinalized zone, for parent hashes, and the newest one is the cursor."""

    __tablename__ = "blocks"
    number: int = Field(sa_column=_big(primary_key=True))
    hash: str
    parent_hash: str
    timestamp_s: int = Field(sa_column=_big(nullable=False))


class Log(Table, table=True):
    """The contract's logs on the canonical chain: the chain's facts. `name` is null for an event we don't know.

    Keyed by number, not hash: of each height only one block is here, and rows that come in the order of the key cost
    a third of what rows in the order of hashes do. An index is as fast as its rows are small: what another column says
    isn't here.
    """

    __tablename__ = "logs"
    block_number: int = Field(sa_column=_big(primary_key=True))
    log_index: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    timestamp_s: int | None = Field(default=None, sa_column=_big())
    tx_hash: str
    tx_index: int
    name: str | None = None
    session_id: int | None = Field(default=None, sa_column=_big(index=True))
    address: str | None = None  # student of SessionStarted, tutor of SessionEnded, user of the others
    topics: str  # as on the wire, joined by commas, but for the first where `name` says it
    data: str


class ChainSession(Table, table=True):
    """A session as the chain tells it: from SessionStarted, with what `getSession` added."""

    __tablename__ = "sessions"
    __table_args__ = (_index_of_few("ix_sessions_open", "end_block", "closed = FALSE"),)
    session_id: int = Field(sa_column=_big(primary_key=True))
    student: str = Field(index=True)
    tutor: str = Field(index=True)
    language: int
    start_block: int = Field(sa_column=_big(nullable=False))
    started_at: int | None = Field(default=None, sa_column=_big())
    end_block: int | None = Field(default=None, sa_column=_big(index=True))  # null: active
    rate: str | None = None  # null until details were read
    token: str | None = None
    closed: bool = False  # ended and final: nothing more to decide


class Settlement(Table, table=True):
    """One `SessionEnded` with all that is known of it. A public interface."""

    __tablename__ = "settlements"
    __table_args__ = (_index_of_few("ix_settlements_unfinal", "block_number", "finality <> 'final'"),)
    session_id: int = Field(sa_column=_big(primary_key=True))
    room_id: str | None = None
    student: str | None = Field(default=None, index=True)
    tutor: str = Field(index=True)
    token: str | None = None
    language: int | None = None
    started_at: int | None = Field(default=None, sa_column=_big())
    ended_at: int | None = Field(default=None, sa_column=_big(index=True))
    billed_s: str  # uint256, as the event says
    rate: str | None = None
    paid: str
    ended_by: str | None = None  # student, tutor, keeper, owner, unknown:0x…; null until the sender was read
    by_keeper: bool | None = None
    tx_hash: str
    block_number: int = Field(sa_column=_big(nullable=False, index=True))
    finality: str = "seen"  # seen, confirmed, final
    reason: str | None = None
    call_ended_at: int | None = Field(default=None, sa_column=_big())
    overbilled_s: int | None = Field(default=None, sa_column=_big())
    overbilled_amount: str | None = None
    sender: str | None = None  # of the ending transaction; not part of the public interface


class Room(Table, table=True):
    """An off-chain room: what it said of its participants, which session it is, its coalesced heartbeats."""

    __tablename__ = "rooms"
    room: str = Field(primary_key=True)
    session_key: str | None = Field(default=None, index=True)
    rule: str | None = None  # of linking, by which it was joined to the session
    trust: int = 0  # of the hint that joined it
    student: str | None = None
    tutor: str | None = None
    first_ms: int = Field(sa_column=_big(nullable=False))
    heard_ms: int = Field(sa_column=_big(nullable=False))
    beats: int = 0
    beat_first_ms: int = Field(default=0, sa_column=_big(nullable=False))
    beat_last_ms: int = Field(default=0, sa_column=_big(nullable=False))
    beat_source: str | None = None
    state: str = Field(default="waiting", index=True)  # waiting, linked, expired


class FactRow(Table, table=True):
    """Whatever was said off chain, as received. Never changed, but for the session that it was linked to."""

    __tablename__ = "facts"
    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(unique=True)  # idempotency: source, content and arrival
    kind: str
    source: str
    trust: int
    received_ms: int = Field(sa_column=_big(nullable=False, index=True))
    said_ms: int | None = Field(default=None, sa_column=_big())
    room: str | None = Field(default=None, index=True)
    session_id: int | None = Field(default=None, sa_column=_big())
    student: str | None = None
    tutor: str | None = None
    role: str | None = None
    can_return: bool = False
    payload: dict = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    session_key: str | None = Field(default=None, index=True)
    joined_after: int | None = Field(default=None, sa_column=_big())  # the newest decision then, if linked later


class DecisionRow(Table, table=True):
    """A decision that differs from the one before, with the inputs it saw."""

    __tablename__ = "decisions"
    id: int | None = Field(default=None, primary_key=True)
    session_key: str = Field(index=True)
    at_ms: int = Field(sa_column=_big(nullable=False))
    action: str
    reason: str
    look_again_ms: int | None = Field(default=None, sa_column=_big())
    inputs: dict = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    facts_to: int | None = Field(default=None, sa_column=_big())  # the newest fact of any session then
    saw: dict | None = Field(default=None, sa_column=Column(JSON))  # what facts don't say (`bot.domain.saw`)


class PolicyRow(Table, table=True):
    """A policy that decisions went by, from its keeper's start on."""

    __tablename__ = "policies"
    id: int | None = Field(default=None, primary_key=True)
    at_ms: int = Field(sa_column=_big(nullable=False))
    decided_after: int = Field(sa_column=_big(nullable=False))  # the newest decision then
    policy: dict = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class ActionRow(Table, table=True):
    """Something to be done, stored before it is carried out: nudge, settle."""

    __tablename__ = "actions"
    __table_args__ = (Index("ix_actions_open", "state", "kind"),)
    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(unique=True)  # idempotency: the same thing is never done twice
    kind: str
    session_key: str = Field(index=True)
    decision_id: int | None = None
    state: str = "open"  # open, done, failed, dropped
    created_ms: int = Field(sa_column=_big(nullable=False))
    ended_ms: int | None = Field(default=None, sa_column=_big())
    payload: dict = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    outcome: str | None = None


class TxRow(Table, table=True):
    """A signed transaction. It was stored before its first byte left; `state` is where it is now."""

    __tablename__ = "txs"
    hash: str = Field(primary_key=True)
    nonce: int = Field(index=True)
    sender: str
    kind: str  # settle; retract, fill: its nonce used for nothing
    raw: str = Field(sa_column=Column(Text, nullable=False))
    gas: int
    max_fee: str  # wei per gas
    tip: str
    state: str = Field(default="stored", index=True)  # stored, sent, mined, confirmed, final, replaced, lost
    stored_ms: int = Field(sa_column=_big(nullable=False))
    stored_block: int = Field(sa_column=_big(nullable=False))
    sent_ms: int | None = Field(default=None, sa_column=_big())
    mined_block: int | None = Field(default=None, sa_column=_big())
    mined_hash: str | None = None
    mined_ms: int | None = Field(default=None, sa_column=_big(index=True))  # the block's time
    gas_cost: str | None = None  # wei, once mined
    note: str | None = None
    closed: bool = Field(default=False, index=True)  # its nonce is used for good: no reorg brings it back


class TxItemRow(Table, table=True):
    """A session that a transaction is about: that it ends, or (retract) was no longer to end. In direct mode one."""

    __tablename__ = "tx_items"
    tx_hash: str = Field(primary_key=True)
    position: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    session_key: str = Field(index=True)
    action_id: int


class InboxRow(Table, table=True):
    """A request by another process, answered by the daemon within a second."""

    __tablename__ = "inbox"
    id: int | None = Field(default=None, primary_key=True)
    kind: str  # settle, pause, resume, release
    payload: dict = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    asked_ms: int = Field(sa_column=_big(nullable=False))
    answered_ms: int | None = Field(default=None, sa_column=_big(index=True))
    answer: dict | None = Field(default=None, sa_column=Column(JSON))


class AlertRow(Table, table=True):
    """Something an operator should know."""

    __tablename__ = "alerts"
    id: int | None = Field(default=None, primary_key=True)
    at_ms: int = Field(sa_column=_big(nullable=False))
    name: str = Field(index=True)
    session_key: str | None = None
    text: str
    sent_ms: int | None = Field(default=None, sa_column=_big())


class TeeRow(Table, table=True):
    """A post of the signalling server that waits to be passed on to the backend."""

    __tablename__ = "tee"
    id: int | None = Field(default=None, primary_key=True)
    kind: str
    room: str
    session_key: str | None = None  # that its room was joined to when it came
    received_ms: int = Field(sa_column=_big(nullable=False))
    body: dict = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class AftermathRow(Table, table=True):
    """What was done about a room after its session ended: told, cleaned, left."""

    __tablename__ = "aftermath"
    room: str = Field(primary_key=True)
    session_key: str = Field(primary_key=True)
    how: str
    at_ms: int = Field(sa_column=_big(nullable=False))


class LinkRow(Table, table=True):
    """A single-use link that a question to a participant carried; of its token only the hash."""

    __tablename__ = "links"
    digest: str = Field(primary_key=True)
    session_key: str = Field(index=True)
    address: str | None = None  # whom it was given to
    action_id: int
    made_ms: int = Field(sa_column=_big(nullable=False))
    expires_ms: int = Field(sa_column=_big(nullable=False, index=True))
    answered_ms: int | None = Field(default=None, sa_column=_big())


class DeliveryRow(Table, table=True):
    """A nudge or bill on its way to one participant by one channel. It was stored before it was said."""

    __tablename__ = "deliveries"
    action_id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    channel: str = Field(primary_key=True)
    address: str = Field(primary_key=True)
    begun_ms: int = Field(sa_column=_big(nullable=False))
    how: str = ""  # delivered, sent, undelivered, dropped; empty while it is under way
    done_ms: int | None = Field(default=None, sa_column=_big())
