"""What the gateway knows of each room. Pure: the clock is passed in, nothing is sent from here.

Promises: a word counts as far as it is trusted. An anonymous one never overrules, hides or prolongs what came with
the secret: heartbeats and ends are kept apart by trust, and a return takes back only what was said with no more.
Rooms are kept over restarts (`changed`, `dump`, `restore`); one that nothing was heard of for a day is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from bot.domain.address import Address
from bot.domain.facts import Hint, Kind, Role, Trust
from bot.domain.session import EARLY_MS
from bot.feeds import wire
from bot.web.gateway import stored
from bot.web.gateway.room import End, Pulse, Room, Seen

KEEP_ROOM_MS = 24 * 3600 * 1000
MAX_ROOMS = 20_000


class Rooms:
    """All rooms. `changed` names those that differ from what is kept."""

    kind = "room"

    def __init__(self, *, max_rooms: int = MAX_ROOMS) -> None:
        self.changed: set[str] = set()
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
                self.changed.add(self._rooms.popitem(last=False)[0])
        self.changed.add(name)
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
                        room.graced.discard(role)
                _put(room.here, hint.role, seen)
            case Kind.DISCONNECTED:
                if hint.role in room.here and room.here[hint.role].trust <= hint.trust:
                    del room.here[hint.role]
                _put(room.away, hint.role, seen)
                room.graced.discard(hint.role)
            case Kind.ENDED:
                # The first word of an end counts, unless a more trusted one comes.
                if room.ended is None or room.ended.trust < hint.trust:
                    room.ended = End(hint.received_ms, ended_by, reason, hint.trust)
            case Kind.STILL_HERE if hint.trust is Trust.PROVEN:
                room.ended = None
                room.away.clear()
                room.graced.clear()
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
                self.changed.add(room.name)
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
                    self.changed.add(room.name)
                    yield room, trust, last_ms

    def due_graces(self, now_ms: int, grace_ms: int, *, since_ms: int) -> Iterator[tuple[Room, Role | None, Seen]]:
        """Participants who were lost and didn't come back within the grace, each once: room, role, when.

        A return before `since_ms` would have been missed: then the grace is counted from there.
        """
        for room in self._rooms.values():
            for role, lost in room.away.items():
                if role in room.graced or room.is_over(lost.trust):
                    continue
                if now_ms - max(lost.at_ms, since_ms) >= grace_ms:
                    room.graced.add(role)
                    self.changed.add(room.name)
                    yield room, role, lost

    def prune(self, now_ms: int) -> None:
        """Forgets rooms that nothing was heard of for a day."""
        for name in [name for name, room in self._rooms.items() if now_ms - room.touched_ms >= KEEP_ROOM_MS]:
            del self._rooms[name]
            self.changed.add(name)

    def names(self) -> Iterable[str]:
        return self._rooms.keys()

    def dump(self, name: str) -> tuple[str, int] | None:
        room = self._rooms.get(name)
        return None if room is None else (stored.dump(room), room.touched_ms + KEEP_ROOM_MS)

    def restore(self, name: str, text: str) -> None:
        older = stored.load(name, text)
        known = self._rooms.setdefault(name, older)
        if known is not older:
            known.fill(older)
        if any(pulse.unsent for pulse in known.pulses.values()):
            self._unsent.add(name)

    def as_record(self) -> list[dict[str, Any]]:
        """The one heard of last at the end; what was kept comes back in any order."""
        return [room.as_record() for room in sorted(self._rooms.values(), key=lambda room: room.touched_ms)]


def _put(seen: dict[Role | None, Seen], role: Role | None, new: Seen) -> None:
    if role not in seen or seen[role].trust <= new.trust:
        seen[role] = new
