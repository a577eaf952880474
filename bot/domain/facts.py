"""What the keeper may come to know, and how far it believes it.

A *hint* is something said off chain, already validated and normalised by the feed that took it, not yet stored.
A *fact* is a hint that was stored: it has an id and never changes. The chain's own facts are its logs; they are
stored once, in the `logs` table, and reach a session through `bot.domain.session`.

Promises: everything here is immutable; times are our receive time in epoch milliseconds (`received_ms`). What a
browser's clock said (`said_ms`) is recorded and decides nothing; only the bundled backend's record dates its words, and
that decides which lesson a word is of, and whether it is too old to message anybody, never when an end falls due.
Doesn't check addresses: the feeds take them checksummed or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from bot.domain.address import Address


class Kind(StrEnum):
    """What a fact says."""

    READY = "ready"  # a room was made for a student and a tutor
    CONNECTED = "connected"  # a participant is in the room, for the first time or again
    HEARTBEAT = "heartbeat"  # a participant's page is alive (coalesced, see Beats)
    ENDED = "ended"  # the call is over
    DISCONNECTED = "disconnected"  # a participant's connection was lost
    TIMEOUT = "timeout"  # the backend missed heartbeats
    MAPPING = "mapping"  # the backend's Redis knows the room
    STILL_HERE = "still-here"  # a participant says that the lesson goes on
    SETTLE = "settle"  # end it now: an operator, or a participant's signature
    PAYING = "paying"  # a participant's own endSession waits in the pool
    NUDGE = "nudge"  # outcome of a nudge, by one channel: whom it reached
    BILL = "bill"  # outcome of telling participants what the session has cost
    ALERT = "alert"  # the operator was told
    BREAKER = "breaker"  # the mass-end breaker tripped, or was released
    SETTLEMENT = "settlement"  # outcome of an attempt to end the session on chain


class Source(StrEnum):
    """Who said it."""

    CHAIN = "chain"
    OPERATOR = "operator"
    PARTICIPANT = "participant"  # with a verified signature, or a nudge's single-use link
    KEEPER = "keeper"
    SOCKET = "socket"  # the configured backend's Socket.IO
    RECORD = "record"  # the bundled backend's GET /api/sessions
    WEBHOOK = "webhook"  # posts with the secret
    OPEN_WEBHOOK = "open-webhook"  # posts that anybody could have sent
    REDIS = "redis"


class Trust(IntEnum):
    """How far a word is believed: see `bot.domain.trust`."""

    ANONYMOUS = 0  # look, link, nudge (limited); its signs of life only delay
    MAPPING = 1  # look and link, nothing else
    CONFIGURED = 2  # starts clocks, arms the heartbeat timeout, loses against signs of life
    PROVEN = 3  # believed at once


TRUST_OF = {
    Source.CHAIN: Trust.PROVEN,
    Source.OPERATOR: Trust.PROVEN,
    Source.PARTICIPANT: Trust.PROVEN,
    Source.KEEPER: Trust.PROVEN,
    Source.SOCKET: Trust.CONFIGURED,
    Source.RECORD: Trust.CONFIGURED,
    Source.WEBHOOK: Trust.CONFIGURED,
    Source.REDIS: Trust.MAPPING,
    Source.OPEN_WEBHOOK: Trust.ANONYMOUS,
}


class Role(StrEnum):
    STUDENT = "student"
    TUTOR = "tutor"


class SessionKey(NamedTuple):
    """A session is its chain id *with its student and tutor*: a reorg can give an id to others."""

    session_id: int
    student: Address
    tutor: Address

    def __str__(self) -> str:
        return f"{self.session_id}:{self.student}:{self.tutor}"

    @classmethod
    def parse(cls, text: str) -> SessionKey:
        """Inverse of str(). Raises ValueError."""
        number, student, tutor = text.split(":")
        return cls(int(number), student, tutor)


@dataclass(frozen=True, slots=True)
class Hint:
    """Something said off chain. `room` is the off-chain id, `session_id` a chain id that the sender named."""

    kind: Kind
    source: Source
    trust: Trust
    received_ms: int
    room: str | None = None
    session_id: int | None = None
    student: Address | None = None
    tutor: Address | None = None
    role: Role | None = None  # who connected, left or ended, where that is known
    said_ms: int | None = None
    can_return: bool = False  # of a lost connection: this source could also report the return
    payload: Mapping[str, Any] = field(default_factory=dict)  # as received


@dataclass(frozen=True, slots=True)
class Fact:
    """A stored hint. `key` names the session it was linked to, if any."""

    id: int
    hint: Hint
    key: SessionKey | None = None

    @property
    def kind(self) -> Kind:
        return self.hint.kind


@dataclass(frozen=True, slots=True)
class Beats:
    """The heartbeats of one room or session, coalesced: how many, from when to when (receive time, ms)."""

    count: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def plus(self, at_ms: int, count: int = 1) -> Beats:
        """These beats and `count` more, the newest at `at_ms`. Order of arrival doesn't matter."""
        if self.count == 0:
            return Beats(count, at_ms, at_ms)
        return Beats(self.count + count, min(self.first_ms, at_ms), max(self.last_ms, at_ms))

    def __add__(self, other: Beats) -> Beats:
        """Both, e.g. of two rooms."""
        if not self.count or not other.count:
            return self if self.count else other
        first_ms, last_ms = min(self.first_ms, other.first_ms), max(self.last_ms, other.last_ms)
        return Beats(self.count + other.count, first_ms, last_ms)


NO_BEATS = Beats()
