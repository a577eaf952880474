"""Why the keeper does what it does about a session, in words, from the record.

Promises: everything that is known of a session or room in time order; the rule behind the present decision with the
values it saw and the settings it goes by; what happens next, and when. Every sentence comes from a stored row.
Doesn't promise that the settings were the same when an old decision was made: values are the decision's own, limits
are those of now. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlmodel import Session

from bot.domain.decide import Action
from bot.domain.policy import Policy
from bot.ops import overview, timeline
from bot.ops.timeline import hold_in_words
from bot.ops.words import away, moment, short
from bot.store import queries
from bot.store.queries import Row

Inputs = dict[str, Any]

_LATE_MS = 5_000  # a running keeper looks within a second


def explain(session: Session, asked: str, policy: Policy, now_ms: int) -> Row | None:
    """All that is known of `asked`, a chain id or a room id, as `--json` prints it; None when there is neither."""
    row = queries.session(session, int(asked)) if _is_id(asked) else None
    room = queries.room(session, asked)
    if row is None and room is not None and room["session_key"] is not None:
        row = queries.session(session, int(room["session_key"].partition(":")[0]))
        # After a reorg the id may be another couple's: that is another session.
        if row is not None and queries.key_of(row) != room["session_key"]:
            row = None
    if row is not None:
        return _of_session(session, asked, row, policy, now_ms)
    facts = queries.facts_of(session, None, [asked])
    if room is not None or facts:
        return _of_room(asked, room, facts, now_ms)
    return None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _of_session(session: Session, asked: str, row: Row, policy: Policy, now_ms: int) -> Row:
    key = queries.key_of(row)
    line = overview.lines(session, [row], now_ms)[0]
    rooms = queries.rooms_of(session, [key]).get(key, [])
    decisions = queries.decisions_of(session, key)
    txs = queries.txs(session, key=key)
    settlement = queries.settlement(session, row["session_id"])
    present = decisions[-1] if decisions else None
    events = [
        *timeline.chain_events(queries.logs_of(session, row["session_id"]), row, settlement),
        *timeline.room_events(rooms),
        *timeline.fact_events(queries.facts_of(session, key, [room["room"] for room in rooms])),
        *timeline.decision_events(decisions, now_ms),
        *timeline.action_events(queries.actions_of(session, key)),
        *timeline.tx_events(txs),
        *timeline.alert_events(queries.alerts_of(session, key)),
        *timeline.request_events(queries.requests_for(session, row["session_id"])),
    ]
    return {
        "asked": asked,
        "session": line,
        "rooms": rooms,
        "timeline": timeline.in_order(events),
        "decision": present,
        "rule": rule_in_words(present, line, policy, now_ms),
        "values": values_in_words(present["inputs"] if present else {}, now_ms),
        "next": next_in_words(present, line, txs, settlement, now_ms),
        "cost": line["cost"],
        "settlement": settlement,
    }


def _of_room(asked: str, room: Row | None, facts: list[Row], now_ms: int) -> Row:
    expired = room is not None and room["state"] == "expired"
    if expired:
        said, then = "This room joined no session in time and was given up.", "Nothing: it has expired."
    else:
        said = (
            "This room joined no session: no id, address or earlier word connects it with a session on chain. "
            "What was said of it waits for a SessionStarted that fits, and expires if none comes."
        )
        then = "When a SessionStarted of its student and tutor arrives, the room joins that session."
    events = [*timeline.room_events([room] if room else []), *timeline.fact_events(facts)]
    return {
        "asked": asked,
        "session": None,
        "rooms": [room] if room else [],
        "timeline": timeline.in_order(events),
        "decision": None,
        "rule": said,
        "values": [],
        "next": {"at_ms": None, "text": then},
        "cost": None,
        "settlement": None,
    }


# The rule behind the decision ----------------------------------------------------------------------------------------


def rule_in_words(decision: Row | None, line: Row, policy: Policy, now_ms: int) -> str:
    """The rule behind a decision, with its values and the settings it goes by."""
    if decision is None:
        if line["state"] != "active":
            return "It ended on chain before the keeper had to decide anything."
        return "Nothing was decided yet: the keeper hasn't looked at it, or isn't running."
    inputs = decision["inputs"]
    name, _, role = decision["reason"].partition(":")
    words = _RULES.get(name)
    said = [words(inputs, policy, now_ms, role) if words else f"Rule `{decision['reason']}`."]
    if decision["action"] != Action.END and (waits := _WAITS.get(inputs.get("waits_for") or "")):
        said.append(waits)
    if off := _PUT_OFF.get(inputs.get("put_off_by") or ""):
        said.append(off(policy))
    if name in _READ_SILENCE:
        said += _of_silence(name, inputs, policy, now_ms)
    return " ".join(said)


def _of_silence(rule: str, inputs: Inputs, policy: Policy, now_ms: int) -> list[str]:
    """What else moves a clock that reads silence."""
    said = []
    last, weak, back = _last(inputs), inputs.get("weak_life_ms") or 0, inputs.get("feed_since_ms") or 0
    since = inputs.get("since_ms") or 0 if rule == "away" else last
    if rule != "timeout" and back > since and inputs.get("feed_until_ms") is None:
        said.append(f"Its feed is heard since {moment(back, now_ms=now_ms)} only, and silence counts from then.")
    if weak > last:
        said.append(
            f"A sign of life at {moment(weak, now_ms=now_ms)} could be anybody's: it puts an end off by "
            f"CONTRADICTION_CAP_S ({_s(policy.contradiction_cap_ms)}) at most."
        )
    return said


def _last(inputs: Inputs) -> int:
    """The newest sign of life that is believed, 0 if there was none."""
    return max(inputs.get(name) or 0 for name in ("last_beat_ms", "life_ms", "still_here_ms"))


def _window(inputs: Inputs, policy: Policy) -> str | None:
    """The window that participants have to end it themselves; None where nobody can be told."""
    nobody = inputs.get("reachable") is False or inputs.get("reached") is False
    return None if nobody else f"NUDGE_WINDOW_S ({_s(policy.nudge_window_ms)})"


def _at(inputs: Inputs, name: str, now_ms: int) -> str:
    at = inputs.get(name)
    return f"at {moment(at, now_ms=now_ms)}" if at else "at an unknown time"


def _s(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"


def _running(_inputs: Inputs, _policy: Policy, _now: int, _role: str) -> str:
    return "The lesson goes on, as far as anybody said: no end, no loss and no silence is known."


def _ended(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    text = f"The call was reported over {_at(inputs, 'since_ms', now)}. "
    grace, window = f"DISCONNECT_GRACE_S ({_s(policy.disconnect_grace_ms)})", _window(inputs, policy)
    if window is None:
        text += f"No nudge can reach its participants, so {grace} alone is given"
    else:
        text += f"Its participants have {window} to end and pay themselves"
    if inputs.get("last_beat_ms") and inputs.get("feed_until_ms"):
        text += f", and, as the feed of its heartbeats is down, the last one has to be {_long(policy)} old"
    elif inputs.get("last_beat_ms"):
        text += f", and the last heartbeat has to be {grace} old"
    return f"{text}. Then the keeper ends it."


def _long(policy: Policy) -> str:
    return f"SOLE_ROOM_TIMEOUT_S ({_s(policy.sole_room_timeout_ms)})"


def _contradiction(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    last = max(_last(inputs), inputs.get("weak_life_ms") or 0)
    went_on = f" until {moment(last, now_ms=now)}" if last else ""
    cap = f"CONTRADICTION_CAP_S ({_s(policy.contradiction_cap_ms)})"
    text = f"The call was reported over {_at(inputs, 'since_ms', now)}, but signs of life went on{went_on}. "
    if inputs.get("asked_ms"):
        text += (
            f"Participants were asked {_at(inputs, 'asked_ms', now)}: an answer withdraws the report, no answer ends "
            f"it {cap} after the report"
        )
    else:
        text += (
            "Both are asked: an answer withdraws the report; if the question reaches nobody, an operator is told "
            f"{cap} after the report"
        )
    return f"{text}. If the signs of life stop for DISCONNECT_GRACE_S ({_s(policy.disconnect_grace_ms)}), it is ended."


def _away(inputs: Inputs, policy: Policy, now: int, role: str) -> str:
    who = f"The {role}'s connection" if role else "A participant's connection"
    lost = f"{who} was lost {_at(inputs, 'since_ms', now)} and hasn't come back."
    grace, window = f"DISCONNECT_GRACE_S ({_s(policy.disconnect_grace_ms)})", _window(inputs, policy)
    if inputs.get("waits_for") is None and inputs.get("sole_room") and inputs.get("feed_until_ms"):
        lost += " As no other room is heard, it may be the feed that is silent."
        grace = _long(policy)
    if inputs.get("waits_for") == "end-or-timeout":
        return f"{lost} After {grace} both are nudged."
    if window is None:
        return f"{lost} No nudge can reach its participants, so the keeper ends it after {grace} alone."
    return f"{lost} After {grace} both are nudged, and {window} later the keeper ends it."


def _silence(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    text = f"The last of {inputs.get('beats', 'its')} heartbeats came {_at(inputs, 'last_beat_ms', now)}"
    last = _last(inputs)
    if last > (inputs.get("last_beat_ms") or 0):
        text += f", and another sign of life at {moment(last, now_ms=now)}"
    then = f"DISCONNECT_GRACE_S ({_s(policy.disconnect_grace_ms)}) later the keeper ends it"
    if inputs.get("sole_room"):
        then = (
            "as no other room is heard, so that it may be the feed that is silent, the keeper ends it only after "
            f"{_long(policy)}"
        )
    timeout = f"HEARTBEAT_TIMEOUT_S ({_s(policy.heartbeat_timeout_ms)})"
    return f"{text}. After {timeout} of silence both are nudged, and {then}."


def _timeout(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    return (
        f"The backend reported {_at(inputs, 'timeout_hint_ms', now)} that heartbeats are missing. Without a sign of "
        f"life within DISCONNECT_GRACE_S ({_s(policy.disconnect_grace_ms)}) the keeper ends it."
    )


def _told(inputs: Inputs, _policy: Policy, now: int, _role: str) -> str:
    return f"An operator or a participant said {_at(inputs, 'since_ms', now)} to end it, and that holds at once."


def _drained(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    drained = inputs.get("drained_ms") or inputs.get("since_ms") or 0
    if drained > now:
        return (
            f"The lesson goes on. The student's balance lasts until {moment(drained, now_ms=now)}; DRAIN_WARNING_S "
            f"({_s(policy.drain_warning_ms)}) before that both are told, and DRAIN_GRACE_S "
            f"({_s(policy.drain_grace_ms)}) after it the keeper ends it."
        )
    return (
        f"The student's balance is used up since {moment(drained, now_ms=now)}: the tutor works unpaid from then on. "
        f"DRAIN_GRACE_S ({_s(policy.drain_grace_ms)}) later the keeper ends it."
    )


def _orphan(inputs: Inputs, policy: Policy, _now: int, _role: str) -> str:
    told = "an operator was told at the keeper's first start" if inputs.get("reported") else "an operator is told"
    after = "the keeper ends it (END_ORPHANS=1)" if policy.end_orphans else f"{told}; END_ORPHANS=1 ends it"
    return (
        "Nothing was ever heard of it off chain, so nothing can say whether the lesson goes on. At the age of "
        f"ORPHAN_AFTER_S ({_s(policy.orphan_after_ms)}) {after}."
    )


def _anonymous_end(inputs: Inputs, _policy: Policy, now: int, _role: str) -> str:
    return (
        f"Somebody who showed no secret said {_at(inputs, 'since_ms', now)} that it is over. Anybody could have said "
        "that: it makes the keeper ask the participants, never sign."
    )


def _ended_on_chain(_inputs: Inputs, _policy: Policy, _now: int, _role: str) -> str:
    return "It has ended on chain: SessionEnded proves it."


_RULES: dict[str, Callable[[Inputs, Policy, int, str], str]] = {
    "running": _running,
    "ended": _ended,
    "contradiction": _contradiction,
    "away": _away,
    "silence": _silence,
    "timeout": _timeout,
    "told": _told,
    "drained": _drained,
    "orphan": _orphan,
    "anonymous-end": _anonymous_end,
    "ended-on-chain": _ended_on_chain,
}

_READ_SILENCE = {"ended", "contradiction", "away", "silence", "timeout"}

_WAITS = {
    "feed-down": "But the feed that would bring signs of life is down or came back too lately: its silence proves "
    "nothing, and the clock starts when it is back.",
    "end-or-timeout": "But who reported the loss couldn't report a return: that source's own end or time-out decides.",
    "answer": "It waits for their answer.",
    "corroboration": "But by TRUST_BACKEND_HINTS the backend's word alone doesn't end it, and nothing else says so: "
    "an operator is told.",
    "believed-word": "It waits for a word that is believed.",
}

_PUT_OFF: dict[str, Callable[[Policy], str]] = {
    "backend": lambda policy: (
        f"The backend, which has the same key, has BACKEND_HEAD_START_S ({_s(policy.backend_head_start_ms)}) to end it."
    ),
    "paying": lambda policy: (
        "It is put off once: an `endSession` of a participant's own waits in the node's pool, and has PAY_WAIT_S "
        f"({_s(policy.pay_wait_ms)})."
    ),
    "other-session": lambda policy: (
        "It is put off: another session of this student falls due within NUDGE_WINDOW_S "
        f"({_s(policy.nudge_window_ms)}), and both are ended together, so that neither tutor goes unpaid."
    ),
}

_VALUES = {
    "started_ms": "the session started",
    "since_ms": "the rule counts from",
    "ended_hint_ms": "reported over",
    "timeout_hint_ms": "the backend missed heartbeats",
    "last_beat_ms": "last heartbeat",
    "life_ms": "last other sign of life",
    "still_here_ms": "a participant said that the lesson goes on",
    "weak_life_ms": "last sign of life that could be anybody's",
    "asked_ms": "a question was delivered",
    "feed_since_ms": "its feed is heard since",
    "feed_until_ms": "its feed is down since",
    "reported": "told of at the first start",
    "drained_ms": "the student's balance is used up",
    "due_ms": "the end falls due",
    "beats": "heartbeats",
    "reached": "a nudge reached somebody",
    "reachable": "any channel reaches participants",
    "sole_room": "no other room is heard on its feed",
    "put_off_by": "put off by",
    "waits_for": "waits for",
    "hold": "held because",
    "mass_end_ms": "the mass-end breaker tripped",
    "evidence_ms": "the newest that it rests on",
    "mark": "nudge or alert",
}


def values_in_words(inputs: Inputs, now_ms: int) -> list[Row]:
    """The values that a decision saw: name, value as stored, and words."""
    found = []
    for name, value in inputs.items():
        if value is None:
            continue
        label = _VALUES.get(name)
        if label is None and name.startswith("away_"):
            label = f"connection lost ({name.removeprefix('away_').removesuffix('_ms')})"
        is_time = name.endswith("_ms") and isinstance(value, int)
        shown = f"{moment(value, now_ms=now_ms)} ({away(value, now_ms)})" if is_time else _word(value)
        found.append({"name": name, "value": value, "text": f"{label or name}: {shown}"})
    return found


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


# What happens next ---------------------------------------------------------------------------------------------------


def next_in_words(decision: Row | None, line: Row, txs: list[Row], settlement: Row | None, now_ms: int) -> Row:
    """What happens next, and when: {at_ms, text}. `at_ms` is null when it depends on something else."""
    if line["state"] != "active":
        return _next_of_ended(settlement)
    if decision is None:
        return _then(None, "When `langdao-keeper run` follows the chain, it looks at this session.")
    under_way = next((tx for tx in txs if tx["kind"] == "settle" and tx["state"] in queries.TX_OPEN), None)
    if under_way is not None:
        return _then(
            None,
            f"Its end is under way: transaction {short(under_way['hash'])} is {under_way['state']} "
            f"(nonce {under_way['nonce']}). Done is done when SessionEnded with this id is in its receipt.",
        )
    due_ms, look_ms = line["due_ms"], decision["look_again_ms"]
    match decision["action"]:
        case "hold":
            why = hold_in_words(decision["inputs"].get("hold"))
            silent = f" If it stays silent, it is ended {_when(look_ms, now_ms).lower()}." if look_ms else ""
            return _then(
                look_ms,
                f"Its end is due since {moment(due_ms, now_ms=now_ms) if due_ms else 'now'}, but {why}.{silent} "
                f"To end it anyway: langdao-keeper settle {line['session_id']}",
            )
        case "end":
            return _then(due_ms, "The keeper sends endSession as soon as the chain confirms that it is still active.")
        case "alert":
            return _then(look_ms, f"An operator was told. To end it: langdao-keeper settle {line['session_id']}")
    look_past = max(at for at in (due_ms, look_ms, 0) if at is not None)
    if decision["action"] == "wait" and 0 < look_past < now_ms - _LATE_MS:
        return _then(
            None,
            f"It was to be looked at {away(look_past, now_ms)}: either signs of life have moved that since, or no "
            "keeper is running (`langdao-keeper status`).",
        )
    if due_ms is not None and not (look_ms is not None and look_ms < due_ms):
        return _then(due_ms, f"{_when(due_ms, now_ms)} the keeper ends it, unless something is heard before.")
    if look_ms is not None:
        end = f", and ends it {_when(due_ms, now_ms).lower()} unless something is heard before" if due_ms else ""
        return _then(look_ms, f"{_when(look_ms, now_ms)} the keeper looks again{end}.")
    return _then(None, "Nothing, until something is heard of it.")


def _next_of_ended(settlement: Row | None) -> Row:
    finality = settlement["finality"] if settlement else "seen"
    if finality == "final":
        return _then(None, "Nothing: the end is final.")
    return _then(
        None, f"The end is {finality}; when its block is final, the session is closed. A reorg would reopen it."
    )


def _then(at_ms: int | None, text: str) -> Row:
    return {"at_ms": at_ms, "text": text}


def _when(at_ms: int, now_ms: int) -> str:
    if at_ms <= now_ms:
        return f"At once (due since {moment(at_ms, now_ms=now_ms)})"
    return f"At {moment(at_ms, now_ms=now_ms)} ({away(at_ms, now_ms)})"
