"""What the gateway knows of one room, in which words of different trust are kept apart. Data; `Rooms` changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bot.domain.address import Address
from bot.domain.facts import Beats, Role, Trust
from bot.feeds import wire

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
    graced: set[Role | None] = field(default_factory=set)  # those away of whom it was told that the grace is over
    pulses: dict[Trust, Pulse] = field(default_factory=dict)
    statements: list[dict[str, Any]] = field(default_factory=list)  # signed, with the time they came at

    def name_addresses(self, student: Address | None, tutor: Address | None, trust: Trust) -> None:
        """Takes addresses that are trusted more than the known ones, and otherwise only what is missing."""
        if trust > self.trust:
            self.student, self.tutor, self.trust = student or self.student, tutor or self.tutor, trust
        else:
            self.student, self.tutor = self.student or student, self.tutor or tutor

    def fill(self, older: Room) -> None:
        """Takes in what was known of it before, as far as nothing is known now."""
        self.name_addresses(older.student, older.tutor, older.trust)
        self.language_id = older.language_id if self.language_id is None else self.language_id
        self.start_ms = older.start_ms if self.start_ms is None else self.start_ms
        self.ended = self.ended or older.ended
        self.here = older.here | self.here
        self.away = {role: one for role, one in older.away.items() if role not in self.here} | self.away
        self.pulses = older.pulses | self.pulses
        self.statements = self.statements or older.statements

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
