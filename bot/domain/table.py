"""The design's table as data: each signal, when participants are nudged about it, and when the end falls due.

Times are sums of *t*, when the keeper received the signal, *last*, the newest sign of life, *drained*, when the balance
is used up, *started*, *due*, when the end would be due otherwise, and settings. `docs/operate.md` shows this table, and
a test holds each row against `decide`, evaluating it as it stands here.
Doesn't promise anything of itself: the rules are in `bot.domain.rules`.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    rule: str
    signal: str
    nudge: str | None  # None: nobody is nudged
    end: str | None  # None: never by this rule
    alert: str | None = None
    note: str = ""


TABLE: tuple[Row, ...] = (
    Row("told", "a participant's signed end, or an operator's `settle`", None, "t"),
    Row(
        "ended",
        "a participant ended the call",
        "t",
        "max(t + NUDGE_WINDOW_S, last + DISCONNECT_GRACE_S)",
        note="without a heartbeat, *last* is t; said again, t is the first that no sign of life contradicts",
    ),
    Row(
        "contradiction",
        "as `ended`, but signs of life go on for longer than `DISCONNECT_GRACE_S`; the question is delivered",
        "t + DISCONNECT_GRACE_S",
        "t + CONTRADICTION_CAP_S",
        note="both are asked; an answer withdraws the report; when the signs of life stop, as `ended`",
    ),
    Row(
        "contradiction",
        "the same, and the question reaches nobody",
        "t + DISCONNECT_GRACE_S",
        None,
        alert="t + CONTRADICTION_CAP_S",
    ),
    Row(
        "away",
        "a connection was lost (`away:student`, `away:tutor`, `away`), and who says so could report the return",
        "t + DISCONNECT_GRACE_S",
        "t + DISCONNECT_GRACE_S + NUDGE_WINDOW_S",
        note="back again: never",
    ),
    Row(
        "away",
        "the same, by a source that couldn't report the return",
        "t + DISCONNECT_GRACE_S",
        None,
        note="its own end or time-out decides",
    ),
    Row(
        "silence",
        "`HEARTBEAT_ARM_COUNT` heartbeats over `HEARTBEAT_ARM_S` or more, then none",
        "last + HEARTBEAT_TIMEOUT_S",
        "last + HEARTBEAT_TIMEOUT_S + DISCONNECT_GRACE_S",
    ),
    Row(
        "silence",
        "the same, of the only room heard on the webhook, and no canary",
        "last + HEARTBEAT_TIMEOUT_S",
        "last + SOLE_ROOM_TIMEOUT_S",
    ),
    Row(
        "timeout",
        "the backend's `heartbeat-timeout`",
        "t",
        "t + DISCONNECT_GRACE_S",
        note="a sign of life withdraws it",
    ),
    Row(
        "drained",
        "the student's balance is used up, over all their sessions together",
        "drained - DRAIN_WARNING_S",
        "drained + DRAIN_GRACE_S",
        note="nudged again when it is used up",
    ),
    Row(
        "orphan",
        "nothing was ever heard of it off chain",
        None,
        None,
        alert="started + ORPHAN_AFTER_S",
        note="`END_ORPHANS=1` ends it then",
    ),
    Row("anonymous-end", "an end that anybody could have sent", "t", None, note="once a session"),
    Row(
        "any",
        "an `endSession` of a participant's own waits in the node's pool (heard of at t)",
        None,
        "max(due, t + PAY_WAIT_S)",
        note="once; also for `told`",
    ),
    Row("any", "a hint, in `direct` mode", None, "max(due, t + BACKEND_HEAD_START_S)"),
    Row(
        "any",
        "a report, and no channel reaches either participant",
        None,
        "max(t, last + DISCONNECT_GRACE_S)",
        note="no window, the grace alone; without a heartbeat, *last* is t",
    ),
)


def as_markdown() -> str:
    """The table as the guide shows it."""
    rows = [["rule", "signal", "nudge at", "end due at", "", ""], ["---"] * 6]
    for row in TABLE:
        alert = f"alert at {_code(row.alert)}" if row.alert else ""
        rule = f"`{row.rule}`" if row.rule != "any" else "any"
        rows.append([rule, row.signal, _code(row.nudge), _code(row.end), alert, row.note])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else "–"
