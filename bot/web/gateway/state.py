"""What the gateway knows of each room. Pure: the clock is passed in, nothing is sent from here.

Promises: a word counts as far as it is trusted. An anonymous one never overrules, hides or prolongs what came with
the secret: heartbeats and ends are kept apart by trust, and a return takes back only what was said with no more.
Doesn't promise to survive a restart, nor to keep a room that nothing was heard of for a day.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bot.domain.address import Address
from bot.domain.facts import Beats, Hint, Kind, Role, Trust
from bot.domain.session import EARLY_MS
from bot.feeds import wire

KEEP_ROOM_MS = 24 * 3600 * 1000
MAX_ROOMS = 20_000
MAX_STATEMENTS = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """Somebody came or went, by our clock."""

    at_ms: int
    trust: Trust


@dataclass(frozen=True, slots=True)
class End:
    at_ms: int
    ended_by: str
    reason: str
    trust: Trust


@dataclass(slots=True)
class Pulse:
    """The heartbeats of one level of trust."""

    beats: Beats = field(default_factory=Beats)
    unsent: int = 0
    sent_ms: int | None = None
    timed_out: bool = False


@dataclass(slots=True)
class Room:
    name: str
    touched_ms: int
    student: Address | None = None
    tutor: Address | None = None
    trust: Trust = Trust.ANONYMOUS  # of whoever named the addresses
    language_id: int | None = None
    start_ms: int | None = None
    ended: End | None = None
    here: dict[Role | None, Seen] = field(default_factory=dict)
    away: dict[Role | None, Seen] = field(default_factory=dict)
    pulses: dict[Trust, Pulse] = field(default_factory=dict)
    statements: list[dict[str, Any]] = field(default_factory=list)  # signed, with the time they came at

    def name_addresses(self, student: Address | None, tutor: Address | None, trust: Trust) -> None:
        """Takes addresses that are trusted more than the known ones, and otherwise only what is missing."""
        if trust > self.trust:
            self.student, self.tutor, self.trust = student or self.student, tutor or self.tutor, trust
        else:
            self.student, self.tutor = self.student or student, self.tutor or tutor

    def is_over(self, trust: Trust) -> bool:
        """Whether its end was said by somebody trusted as much, and no heartbeat of that trust came later."""
        if self.ended is None or self.ended.trust < trust:
            return False
        pulse = self.pulses.get(trust)
        return pulse is None or pulse.beats.last_ms <= self.ended.at_ms

    def sign(self, said: dict[str, Any], at_ms: int) -> None:
        """Remembers a signed statement for a keeper that wasn't there; a few, and none that has expired."""
        timely = [one for one in self.statements if one["expires"] * 1000 > at_ms]
        self.statements = [*timely, {**said, "at": at_ms}][-MAX_STATEMENTS:]

    def as_record(self) -> dict[str, Any]:
        """This room in `GET /api/sessions`, for the keeper. Times in epoch ms by the gateway's clock."""
        return {**self.as_view(), "statements": self.statements}

    def as_view(self) -> dict[str, Any]:
        """This room for everybody."""
        pulses = [pulse.beats for pulse in self.pulses.values()]
        return {
            "room": self.name,
            "studentAddress": self.student,
            "tutorAddress": self.tutor,
            "languageId": self.language_id,
            "startTime": self.start_ms,
            "trust": wire.claim_of(self.trust),
            "ended": _end_record(self.ended),
            "here": _seen_record(self.here),
            "away": _seen_record(self.away),
            "lastHeartbeat": max((beats.last_ms for beats in pulses), default=None),
            "heartbeats": sum(beats.count for beats in pulses),
            "beats": [
                {
                    "trust": wire.claim_of(trust),
                    "count": pulse.beats.count,
                    "first": pulse.beats.first_ms,
                    "last": pulse.beats.last_ms,
                }
                for trust, pulse in self.pulses.items()
            ],
        }


def _end_record(end: End | None) -> dict[str, Any] | None:
    if end is None:
        return None
    return {"at": end.at_ms, "endedBy": end.ended_by, "reason": end.reason, "trust": wire.claim_of(end.trust)}


def _seen_record(seen: dict[Role | None, Seen]) -> list[dict[str, Any]]:
    return [{"role": role, "at": one.at_ms, "trust": wire.claim_of(one.trust)} for role, one in seen.items()]


class Rooms:
    """All rooms, the one heard of last at the end."""

    def __init__(self, *, max_rooms: int = MAX_ROOMS) -> None:
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._max_rooms = max_rooms
        self._unsent: set[str] = set()

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, name: str) -> Room | None:
        return self._rooms.get(name)

    def between(self, student: Address, tutor: Address, started_ms: int) -> Room | None:
        """The room of these two that was heard of last, unless its call ended before `started_ms`."""
        for room in reversed(self._rooms.values()):
            if (room.student, room.tutor) == (student, tutor):
                return room if room.ended is None or room.ended.at_ms >= started_ms - EARLY_MS else None
        return None

    def touch(self, name: str, now_ms: int) -> Room:
        """The room, made if it is new. The one that was silent longest gives way when there are too many."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, now_ms)
            if len(self._rooms) > self._max_rooms:
                self._rooms.popitem(last=False)
        room.touched_ms = now_ms
        self._rooms.move_to_end(name)
        return room

    def apply(self, hint: Hint, *, ended_by: str = "", reason: str = "") -> Room:
        """Takes a hint into its room. `ended_by` and `reason` are the words of an end."""
        assert hint.room is not None  # the wire module refuses what names no room
        room = self.touch(hint.room, hint.received_ms)
        seen = Seen(hint.received_ms, hint.trust)
        match hint.kind:
            case Kind.HEARTBEAT:
                pulse = room.pulses.setdefault(hint.trust, Pulse())
                count = wire.beat_count(hint.payload)
                pulse.beats = pulse.beats.plus(hint.received_ms, count)
                pulse.unsent += count
                pulse.timed_out = False
                self._unsent.add(room.name)
            case Kind.CONNECTED:
                # Nobody knows who came when no role is given, so it takes back every loss.
                for role in [hint.role, None] if hint.role else list(room.away):
                    if role in room.away and room.away[role].trust <= hint.trust:
                        del room.away[role]
                _put(room.here, hint.role, seen)
            case Kind.DISCONNECTED:
                if hint.role in room.here and room.here[hint.role].trust <= hint.trust:
                    del room.here[hint.role]
                _put(room.away, hint.role, seen)
            case Kind.ENDED:
                # The first word of an end counts, unless a more trusted one comes.
                if room.ended is None or room.ended.trust < hint.trust:
                    room.ended = End(hint.received_ms, ended_by, reason, hint.trust)
            case Kind.STILL_HERE if hint.trust is Trust.PROVEN:
                room.ended = None
                room.away.clear()
            case _:
                pass
        return room

    def due_beats(self, now_ms: int, every_ms: int, only: str | None = None) -> Iterator[tuple[Room, Trust, int]]:
        """Heartbeats of all rooms, or of one, that may be passed on now. What is yielded counts as sent."""
        for name in list(self._unsent) if only is None else [only]:
            room = self._rooms.get(name)
            if room is None:
                self._unsent.discard(name)
                continue
            waiting = False
            for trust, pulse in room.pulses.items():
                if not pulse.unsent:
                    continue
                if pulse.sent_ms is not None and now_ms - pulse.sent_ms < every_ms:
                    waiting = True
                    continue
                count, pulse.unsent, pulse.sent_ms = pulse.unsent, 0, now_ms
                yield room, trust, count
            if not waiting:
                self._unsent.discard(name)

    def due_timeouts(
        self, now_ms: int, timeout_ms: int, series: int, *, since_ms: int
    ) -> Iterator[tuple[Room, Trust, int]]:
        """Series of heartbeats that have stopped, each once until life returns: room, trust, last heartbeat.

        What was silent before `since_ms` proves nothing: nobody listened.
        """
        for room in self._rooms.values():
            for trust, pulse in room.pulses.items():
                last_ms = pulse.beats.last_ms
                if pulse.timed_out or pulse.beats.count < series or room.is_over(trust):
                    continue
                if now_ms - max(last_ms, since_ms) >= timeout_ms:
                    pulse.timed_out = True
                    yield room, trust, last_ms

    def prune(self, now_ms: int) -> None:
        """Forgets rooms that nothing was heard of for a day."""
        while self._rooms:
            oldest = next(iter(self._rooms.values()))
            if now_ms - oldest.touched_ms < KEEP_ROOM_MS:
                return
            self._rooms.popitem(last=False)

    def as_record(self) -> list[dict[str, Any]]:
        return [room.as_record() for room in self._rooms.values()]


def _put(seen: dict[Role | None, Seen], role: Role | None, new: Seen) -> None:
    if role not in seen or seen[role].trust <= new.trust:
        seen[role] = new
