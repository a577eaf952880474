"""`replay`: the stored decisions made again, and what another policy would have led to.

Promises: reads only, so the daemon may run meanwhile. Names and units are those of the settings; a name that no
decision goes by is refused, with those that are near.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session

from bot.domain import replay
from bot.domain.policy import Policy
from bot.errors import Misconfigured
from bot.loading import in_words
from bot.settings import Settings
from bot.store import history

# Counted over all sessions together, while replay makes each session's decisions by themselves.
_TOGETHER = ("MASS_END_COUNT", "MASS_END_SHARE")


def _field_of(name: str) -> str:
    low = name.lower()
    if low == "trust_backend_hints":
        return "hints"
    return low.removesuffix("_s") + "_ms" if low.endswith("_s") else low


POLICY_FIELDS = {one.name for one in fields(Policy)}
NAMES = tuple(
    name.upper() for name in Settings.model_fields if _field_of(name) in POLICY_FIELDS and name.upper() not in _TOGETHER
)


def read_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines, as in `.env`. Raises Misconfigured."""
    from dotenv import dotenv_values

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"--policy: {path} can't be read ({getattr(error, 'strerror', None) or error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#") and "=" not in line:
            raise Misconfigured(f"--policy: line {number} of {path} is no NAME=VALUE")
    return {name: value or "" for name, value in dotenv_values(path).items()}


def changes(given: Mapping[str, str]) -> dict[str, Any]:
    """Fields of the policy, from settings by name. Raises Misconfigured for one that no decision goes by."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        upper = name.strip().upper()
        if upper in _TOGETHER:
            raise Misconfigured(f"{upper} counts over all sessions together; replay takes each session by itself")
        if upper not in NAMES:
            near = difflib.get_close_matches(upper, NAMES, n=3, cutoff=0.5)
            hint = f"Near it: {', '.join(near)}" if near else f"Those that do: {', '.join(NAMES)}"
            known = (
                "isn't a setting that decisions go by" if upper.lower() in Settings.model_fields else "is no setting"
            )
            raise Misconfigured(f"{upper} {known}. {hint}")
        try:
            settings = Settings.model_validate({upper.lower(): value})
        except ValidationError as error:
            raise Misconfigured(in_words(error)) from None
        field = _field_of(upper)
        found[field] = getattr(settings.policy(), field)
    return found


def checked(session: Session, session_id: int | None) -> dict[str, Any] | None:
    """All stored decisions made again; None if there is none of that session."""
    keys = history.sessions(session, session_id)
    if session_id is not None and not keys:
        return None
    policies = history.Policies(session)
    made = old = 0
    different: list[dict[str, Any]] = []
    for one in history.read(session, keys):
        count, differences = replay.check(one, policies.at)
        made += count
        old += len(one.decisions) - count
        different += [
            {
                "session_id": one.key.session_id,
                "decision": diff.id,
                "at_ms": diff.at_ms,
                "was": diff.was,
                "now": diff.now,
            }
            for diff in differences
        ]
    return {"sessions": len(keys), "decisions": made, "without_inputs": old, "different": different}


def supposed(session: Session, changed: Mapping[str, Any], session_id: int | None, now: int) -> dict[str, Any] | None:
    """What would have become of each session under a changed policy, against its own; None if there is none such.

    Amounts are base units and wei, as text; what is more costs, what is less saves.
    """
    keys = history.sessions(session, session_id)
    if session_id is not None and not keys:
        return None
    policies = history.Policies(session)
    read = list(history.read(session, keys))
    gas = [one.gas_wei for one in read if one.gas_wei is not None]
    gas_wei = sum(gas) // len(gas) if gas else None
    lag_ms = _lag_ms(read)

    def otherwise(decision: int) -> Policy:
        return replace(policies.at(decision), **changed)

    rows = [row for one in read if (row := _compared(one, policies.at, otherwise, lag_ms, now)) is not None]
    settlements = sum(row["settlements"] for row in rows)
    return {
        "sessions": len(keys),
        "without_inputs": sum(1 for one in read if all(each.saw is None for each in one.decisions)),
        "changed": rows,
        "billed_s": sum(row["billed_s"] for row in rows),
        "amount": str(sum(int(row["amount"] or 0) for row in rows)),
        "settlements": settlements,
        "gas_wei": None if gas_wei is None else str(gas_wei * settlements),
        "nudges": sum(row["nudges"] for row in rows),
    }


def _lag_ms(read: list[replay.History]) -> int:
    """From a decided end to the end on chain, as it usually was."""
    lags = [
        max(0, one.ended_at * 1000 - ends[-1].at_ms)
        for one in read
        if one.by_keeper and one.ended_at is not None
        if (ends := [each for each in one.decisions if each.action == "end"])
    ]
    return round(median(lags)) if lags else 0


def _compared(
    one: replay.History,
    policy_at: Callable[[int], Policy],
    otherwise: Callable[[int], Policy],
    lag_ms: int,
    now: int,
) -> dict[str, Any] | None:
    newest_ms = one.decisions[-1].at_ms
    until_ms = max(now, newest_ms + (replay.HORIZON_MS if one.by_keeper else 0))
    plays = [replay.lived(one, policy, until_ms) for policy in (policy_at, otherwise)]
    was, then = (replay.outcome(one, play, lag_ms, until_ms) for play in plays)
    if plays[0].steps == plays[1].steps and was == then:
        return None
    billed_s = round((then.end_ms - was.end_ms) / 1000)
    return {
        "session_id": one.key.session_id,
        "was": _said(plays[0], was),
        "then": _said(plays[1], then),
        "billed_s": billed_s,
        "amount": None if one.rate is None else str(billed_s * one.rate),
        "settlements": (then.by is not None) - (was.by is not None),
        "nudges": then.nudges - was.nudges,
    }


def _said(play: replay.Play, outcome: replay.Outcome) -> dict[str, Any]:
    return {
        "end_ms": outcome.end_ms if outcome.by is not None else None,
        "reason": outcome.by,
        "held": play.held,
        "decisions": [{"at_ms": at_ms, "action": action, "reason": reason} for at_ms, action, reason in play.steps],
    }
