"""A session in one line: what the chain says of it, what the keeper thinks of it, what it costs.

Promises: pure reading; the keys are those of `--json`; amounts are decimal text in base units, or null where the
chain hasn't told the rate yet. "Now" on the chain is the later of our clock and the newest block's time, because that
is when an end would be billed.
Doesn't promise the exact bill of an active session: what a shared balance still holds is known by the chain alone,
so the cost is counted up to the predicted end of the balance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session

from bot.domain import bill
from bot.store import queries
from bot.store.queries import Row

# Rules that say that the call is over, or may be. The others speak of lessons that go on.
_OVER = ("told", "ended", "contradiction", "away", "silence", "timeout")


def chain_now_s(session: Session, now_ms: int) -> int:
    """The chain's present, in seconds."""
    newest = queries.newest_block(session)
    return max(now_ms // 1000, newest["timestamp_s"] if newest else 0)


def lines(session: Session, rows: Sequence[Row], now_ms: int) -> list[Row]:
    """A line for each of these sessions of the chain."""
    keys = [queries.key_of(row) for row in rows]
    rooms = queries.rooms_of(session, keys)
    decisions = queries.latest_decisions(session, keys)
    ended = queries.settlements_by_id(session, [row["session_id"] for row in rows if row["end_block"] is not None])
    now_s = chain_now_s(session, now_ms)
    return [
        _line(row, rooms.get(key, []), decisions.get(key), ended.get(row["session_id"]), now_s)
        for key, row in zip(keys, rows, strict=True)
    ]


def _line(row: Row, rooms: Sequence[Row], decision: Row | None, settlement: Row | None, now_s: int) -> Row:
    inputs: dict[str, Any] = decision["inputs"] if decision else {}
    active = row["end_block"] is None
    started_at = row["started_at"]
    ended_at = settlement["ended_at"] if settlement else None
    until = now_s if active else ended_at
    return {
        "session_id": row["session_id"],
        "room_id": rooms[0]["room"] if rooms else (settlement["room_id"] if settlement else None),
        "student": row["student"],
        "tutor": row["tutor"],
        "language": row["language"],
        "state": "active" if active else ("closed" if row["closed"] else "ended"),
        "started_at": started_at,
        "ended_at": ended_at,
        "age_s": max(0, until - started_at) if started_at is not None and until is not None else None,
        "rate": row["rate"],
        "cost": _cost(row, inputs, now_s) if active else (settlement["paid"] if settlement else None),
        "drained_ms": inputs.get("drained_ms") if active else None,
        "action": decision["action"] if decision else None,
        "reason": decision["reason"] if decision else None,
        "decided_ms": decision["at_ms"] if decision else None,
        "look_again_ms": decision["look_again_ms"] if decision and active else None,
        "due_ms": inputs.get("due_ms") if active else None,
        "waits_for": inputs.get("waits_for") if active else None,
        "hold": inputs.get("hold") if active else None,
        "life_ms": _last_life(rooms, inputs),
        "over": active and decision is not None and seems_over(decision["reason"]),
    }


def seems_over(reason: str) -> bool:
    """True for the rules by which the call itself is over, or may be."""
    return reason.partition(":")[0] in _OVER


def _cost(row: Row, inputs: dict[str, Any], now_s: int) -> str | None:
    if row["rate"] is None or row["started_at"] is None:
        return None
    drained_ms = inputs.get("drained_ms")
    until = now_s if drained_ms is None else min(now_s, drained_ms // 1000)
    return str(bill.cost(int(row["rate"]), row["started_at"], until))


def _last_life(rooms: Sequence[Row], inputs: dict[str, Any]) -> int | None:
    """The last sign of life (our receive time): a heartbeat, or what the decision saw."""
    seen = [room["beat_last_ms"] for room in rooms] + [inputs.get("life_ms"), inputs.get("last_beat_ms")]
    return max((at for at in seen if at), default=None)


def waiting_cost(found: Sequence[Row], now_ms: int) -> Row:
    """What waiting costs now: the sessions whose call seems over, and what they cost their students a minute."""
    over = [line for line in found if line["over"]]
    # A balance that is used up pays nothing more: then it's the tutor who waits for nothing.
    paying = [line for line in over if line["rate"] and not (line["drained_ms"] and line["drained_ms"] <= now_ms)]
    return {
        "sessions": len(over),
        "per_minute": str(60 * sum(int(line["rate"]) for line in paying)),
        "cost": str(sum(int(line["cost"]) for line in over if line["cost"])),
    }
