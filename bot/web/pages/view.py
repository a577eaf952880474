"""From a session's state to what the page says before any script runs, which is all there is without one.

Promises: pure; an answer for every state, also for one that is half known. Amounts are base units with 6 decimals,
shown as PYUSD; durations are counted from chain time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bot.web.pages import words

DECIMALS = 6


def view(state: dict[str, Any] | None) -> dict[str, Any]:
    """The template's values. None: nobody knows this session."""
    session = (state or {}).get("session")
    name = _name(state, session)
    said: dict[str, Any] = {
        "state": name,
        "pill": words.PILLS[name],
        "headline": words.HEADLINES["ask" if session and session["ask"] and name == "due" else name],
        "why": (session or {}).get("why") or words.WHY.get(name, ""),
        "session": session,
        "seconds": None,
        "cost": None,
        "when": "",
        "left": None,
        "trouble": _trouble(state, session, name),
    }
    if state is None or session is None:
        return said
    if session["bill"] is not None:
        return said | {"seconds": clock(session["bill"]["seconds"]), "cost": money(session["bill"]["paid"])}
    seconds = max(0, state["chainNow"] - session["startedAt"]) if session["startedAt"] else 0
    cost = int(session["rate"]) * seconds if session["rate"] is not None else None
    if cost is not None and session["balance"] is not None:
        cost = min(cost, int(session["balance"]))
    left = None if session["dueMs"] is None else max(0, session["dueMs"] - state["nowMs"]) // 1000
    when = words.WHEN.get(name, "") if name != "due" or left is not None else words.WHEN["open"]
    return said | {
        "seconds": clock(seconds),
        "cost": None if cost is None else money(cost),
        "when": "" if name == "held" else when,
        "left": clock(left) if left is not None and name == "due" else None,
    }


def _name(state: dict[str, Any] | None, session: dict[str, Any] | None) -> str:
    if state is None:
        return words.UNKNOWN
    return "none" if session is None else str(session["state"])


def _trouble(state: dict[str, Any] | None, session: dict[str, Any] | None, name: str) -> tuple[str, str, str] | None:
    if state is None:
        return words.TROUBLE[words.UNKNOWN]
    if session is None or name == "ended":
        return None
    if state["keeper"] == "down":
        return words.TROUBLE["keeper-away"]
    return words.TROUBLE.get(session["hold"] or "")


def clock(seconds: int) -> str:
    """`12:04`, `1:02:09`."""
    hours, rest = divmod(max(0, seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def money(amount: int | str) -> str:
    """Base units as PYUSD, with at least three decimals: `0.724`."""
    whole, part = divmod(int(amount), 10**DECIMALS)
    return f"{whole}.{f'{part:06d}'.rstrip('0').ljust(3, '0')}"


def short(address: str) -> str:
    return f"{address[:6]}…{address[-4:]}"


def moment(seconds: int | None) -> str:
    """A chain time for a person, in UTC."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%d %b %Y, %H:%M:%S} UTC"
