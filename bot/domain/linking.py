"""Which session a room is.

Off-chain ids and chain ids are joined by rules in a fixed order; the first that gives a session wins:

 1. `chain-id`   a number that is a chain id, whose addresses, where given, agree
 2. `room`       the room was joined before, by a word at least as trusted
 3. `addresses`  both addresses: the active session of that tutor with that student
 4. `tutor`      the tutor alone: its active session, if it began before the hint

Promises: pure; a hint whose addresses contradict a session, or whose number is another session's, is never joined to
it; nor, by rule 3 or 4, an end, a loss or a time-out that is more likely of an earlier lesson of the same people: one
from a room never heard of before when the session has another, or one that the backend's record dates before its start.
What anybody could have said of a room carries no more trusted word to a session. What joins nothing waits for its
`SessionStarted`.
Doesn't promise that a room tells the truth: trust is weighed in `bot.domain.session`. Nor to tell the late
ends of a lesson that was never heard of while it ran from ends of the same people's next one, if they were said less
than EARLY_MS before its start, as where that wasn't read yet, or were begun before it and said again: they count, for
no end may be lost; as with any end, both are asked and heartbeats object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from bot.domain.address import Address, same
from bot.domain.facts import NO_BEATS, Beats, Hint, Kind, SessionKey, Source, Trust
from bot.domain.session import EARLY_MS

ROOM_WAIT_MS = 15 * 60_000  # a room announced longer ago isn't the one that a new session belongs to
ROOM_EXPIRY_MS = 2 * 3_600_000  # pages forget their session after two hours

ENDINGS = frozenset({Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT})


class Link(NamedTuple):
    key: SessionKey
    rule: str


@dataclass(slots=True)
class Room:
    """An off-chain room as far as it is known."""

    room: str
    first_ms: int
    heard_ms: int
    key: SessionKey | None = None
    rule: str | None = None
    trust: Trust = Trust.ANONYMOUS
    student: Address | None = None
    tutor: Address | None = None
    beats: Beats = NO_BEATS
    beat_source: Source | None = None
    expired: bool = False


@dataclass(slots=True)
class Known:
    """A session that hints may be about."""

    key: SessionKey
    started_ms: int
    rooms: tuple[str, ...] = ()  # that were joined to it, the first one first


@dataclass(slots=True)
class Book:
    """The active sessions, by what a hint may name, and the rooms that are known."""

    by_id: dict[int, Known] = field(default_factory=dict)
    by_tutor: dict[Address, SessionKey] = field(default_factory=dict)
    newest_id: int = 0  # the highest id on chain, of a session that is over or not
    rooms: dict[str, Room] = field(default_factory=dict)
    waiting: dict[tuple[Address, Address], list[str]] = field(default_factory=dict)
    waiting_rooms: int = 0  # how many those are

    def add(self, key: SessionKey, started_ms: int, *, active: bool = True) -> None:
        self.by_id[key.session_id] = Known(key, started_ms)
        self.newest_id = max(self.newest_id, key.session_id)
        if active:
            self.by_tutor[key.tutor] = key

    def known(self, key: SessionKey) -> Known | None:
        """What is known of this very session, not of another with its id."""
        found = self.by_id.get(key.session_id)
        return found if found is not None and found.key == key else None

    def rooms_of(self, key: SessionKey) -> tuple[str, ...]:
        """The rooms that were joined to this session."""
        found = self.known(key)
        return found.rooms if found is not None else ()

    def ended(self, key: SessionKey) -> None:
        """The session is no longer its tutor's active one; its id and rooms stay known."""
        if self.by_tutor.get(key.tutor) == key:
            del self.by_tutor[key.tutor]

    def forget(self, key: SessionKey) -> None:
        """Drops a session that is over. Its rooms stay until they expire: late words in them are still about it."""
        self.ended(key)
        if self.known(key) is not None:
            del self.by_id[key.session_id]

    def retract(self, key: SessionKey) -> tuple[str, ...]:
        """Drops a session that a reorg took, and its rooms: they may be another's. Returns the rooms."""
        gone = self.rooms_of(key)
        for name in gone:
            self.rooms.pop(name, None)
        self.forget(key)
        return gone

    def name(self, room: Room, student: Address, tutor: Address, trust: Trust) -> None:
        """Remembers whose room it is said to be."""
        self._stop_waiting(room)
        room.student, room.tutor, room.trust = student, tutor, trust

    def leave(self, room: Room) -> None:
        """A more trusted word contradicts the session that the room was joined to."""
        session = self.known(room.key) if room.key is not None else None
        if session is not None:
            session.rooms = tuple(name for name in session.rooms if name != room.room)
        room.key = room.rule = None

    def join(self, room: Room, link: Link, trust: Trust) -> None:
        """Remembers that `room` is `link.key`."""
        if room.key != link.key:
            self.leave(room)
        room.key, room.rule, room.trust = link.key, link.rule, trust
        self.keep(room)
        self._stop_waiting(room)

    def keep(self, room: Room) -> None:
        """Counts a room among those of the session that it is joined to."""
        session = self.known(room.key) if room.key is not None else None
        if session is not None and room.room not in session.rooms:
            session.rooms = (*session.rooms, room.room)

    def wait(self, room: Room) -> None:
        """Lets a room that couldn't be joined wait for its session."""
        if room.key is None and room.student and room.tutor:
            names = self.waiting.setdefault((room.student, room.tutor), [])
            if room.room not in names:
                names.append(room.room)
                self.waiting_rooms += 1

    def drop(self, room: Room) -> None:
        """Forgets a room."""
        self._stop_waiting(room)
        self.leave(room)
        self.rooms.pop(room.room, None)

    def _stop_waiting(self, room: Room) -> None:
        if room.student and room.tutor:
            names = self.waiting.get((room.student, room.tutor), [])
            if room.room in names:
                names.remove(room.room)
                self.waiting_rooms -= 1
            if not names:
                self.waiting.pop((room.student, room.tutor), None)


def number_of(hint: Hint) -> int | None:
    """The chain id that a hint may mean: the one it names, or a room id that is a number."""
    if hint.session_id is not None:
        return hint.session_id
    return as_chain_id(hint.room)


def as_chain_id(room: str | None) -> int | None:
    """A room id read as a chain id; None if it can't be one: `007` is somebody's room, not session 7."""
    if room and room.isascii() and room.isdigit() and room[0] != "0" and len(room) <= 18:
        return int(room)
    return None


def link(hint: Hint, room: Room | None, book: Book) -> Link | None:
    """The session that `hint`, said of `room`, belongs to; None if it can't be told yet."""
    # What anybody could have said of a room, its link included, carries only such words.
    told = room if room is not None and (room.trust > Trust.ANONYMOUS or hint.trust == Trust.ANONYMOUS) else None
    student = hint.student or (told.student if told else None)
    tutor = hint.tutor or (told.tutor if told else None)

    number = number_of(hint)
    numbered = book.by_id.get(number) if number is not None else None
    if numbered is not None and same(student, numbered.key.student) and same(tutor, numbered.key.tutor):
        return Link(numbered.key, "chain-id")

    active = book.by_tutor.get(tutor) if tutor else None
    both = active if active is not None and student == active.student else None

    if (
        told is not None
        and told.key is not None
        and same(hint.student, told.key.student)
        and same(hint.tutor, told.key.tutor)
    ):
        better = both is not None and both != told.key and hint.trust > told.trust
        if not better:
            return Link(told.key, told.rule or "room")

    if active is None or _earlier_lesson(hint, room, number, active, book):
        return None
    if both is not None:
        return Link(both, "addresses")
    if student is None and _started_ms(active, book) <= hint.received_ms:
        return Link(active, "tutor")
    return None


def _earlier_lesson(hint: Hint, room: Room | None, number: int | None, active: SessionKey, book: Book) -> bool:
    """Is it more likely an earlier lesson of the same people that `hint` is about?"""
    if number is not None and number <= book.newest_id and number != active.session_id:
        return True  # it names a session that is over
    if hint.kind not in ENDINGS:
        return False
    if room is None and book.rooms_of(active):
        return True  # a room never heard of before, and the session has one
    dated = hint.said_ms if hint.source is Source.RECORD else None
    return dated is not None and dated < _started_ms(active, book) - EARLY_MS


def _started_ms(key: SessionKey, book: Book) -> int:
    session = book.known(key)
    return session.started_ms if session is not None else 0


def contradicts(hint: Hint, book: Book) -> bool:
    """Does the hint name a chain id together with other people than that session's?"""
    number = number_of(hint)
    session = book.by_id.get(number) if number is not None else None
    return session is not None and not (same(hint.student, session.key.student) and same(hint.tutor, session.key.tutor))


def agrees(hint: Hint, key: SessionKey) -> bool:
    """May what was said of a room be about the session that the room turned out to be?

    A room can be told of by people who know only its name: each word is asked by itself.
    """
    right_id = hint.session_id is None or hint.session_id == key.session_id
    return right_id and same(hint.student, key.student) and same(hint.tutor, key.tutor)


def rooms_for(key: SessionKey, started_ms: int, book: Book) -> list[tuple[Room, Link]]:
    """The waiting rooms that a session which has just started belongs to, with the rule that says so."""
    found: list[tuple[Room, Link]] = []
    numbered = book.rooms.get(str(key.session_id))
    if (
        numbered is not None
        and numbered.key is None
        and same(numbered.student, key.student)
        and same(numbered.tutor, key.tutor)
    ):
        found.append((numbered, Link(key, "chain-id")))
    names = book.waiting.get((key.student, key.tutor), [])
    recent = [
        book.rooms[name]
        for name in names
        if name in book.rooms
        and book.rooms[name].key is None
        and started_ms - book.rooms[name].first_ms <= ROOM_WAIT_MS
    ]
    if recent:  # the newest announcement; an older one was for a lesson that never began
        newest = max(recent, key=lambda room: room.first_ms)
        found.append((newest, Link(key, "addresses")))
    return found
