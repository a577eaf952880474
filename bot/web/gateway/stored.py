"""A room as text, and back: what of it survives a restart.

Promises: `load` of a `dump` is an equal room. Anything else raises ValueError, KeyError, TypeError or AttributeError.
"""

from __future__ import annotations

import json
from typing import Any

from bot.domain.facts import Beats, Role, Trust
from bot.feeds import wire
from bot.web.gateway.room import End, Pulse, Room, Seen


def dump(room: Room) -> str:
    end = room.ended
    said: dict[str, Any] = {
        "touched": room.touched_ms,
        "student": room.student,
        "tutor": room.tutor,
        "trust": room.trust,
        "language": room.language_id,
        "start": room.start_ms,
        "ended": None if end is None else [end.at_ms, end.ended_by, end.reason, end.trust],
        "here": _seen(room.here),
        "away": _seen(room.away),
        "graced": list(room.graced),
        "pulses": [
            [trust, *_beats(pulse.beats), pulse.unsent, pulse.sent_ms, pulse.timed_out]
            for trust, pulse in room.pulses.items()
        ],
        "statements": room.statements,
    }
    return json.dumps(said, separators=(",", ":"))


def load(name: str, text: str) -> Room:
    said = json.loads(text)
    room = Room(name, int(said["touched"]))
    room.student, room.tutor = wire.as_address(said["student"]), wire.as_address(said["tutor"])
    room.trust = Trust(said["trust"])
    room.language_id, room.start_ms = _number(said["language"]), _number(said["start"])
    if said["ended"] is not None:
        at_ms, ended_by, reason, trust = said["ended"]
        room.ended = End(int(at_ms), str(ended_by), str(reason), Trust(trust))
    room.here, room.away = _unseen(said["here"]), _unseen(said["away"])
    room.graced = {_role(role) for role in said["graced"]}
    for trust, count, first_ms, last_ms, unsent, sent_ms, timed_out in said["pulses"]:
        beats = Beats(int(count), int(first_ms), int(last_ms))
        room.pulses[Trust(trust)] = Pulse(beats, int(unsent), _number(sent_ms), bool(timed_out))
    room.statements = [dict(one) for one in said["statements"] if int(one["expires"]) and int(one["at"])]
    return room


def _beats(beats: Beats) -> tuple[int, int, int]:
    return beats.count, beats.first_ms, beats.last_ms


def _seen(seen: dict[Role | None, Seen]) -> list[Any]:
    return [[role, one.at_ms, one.trust] for role, one in seen.items()]


def _unseen(rows: list[Any]) -> dict[Role | None, Seen]:
    return {_role(role): Seen(int(at_ms), Trust(trust)) for role, at_ms, trust in rows}


def _role(value: Any) -> Role | None:
    return None if value is None else Role(value)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
