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
    text = words(inputs, policy, now_ms, role) if words else f"Rule `{decision['reason']}`."
    waits = _WAITS.get(inputs.get("waits_for") or "")
    return f"{text} {waits}" if waits else text


def _at(inputs: Inputs, name: str, now_ms: int) -> str:
    at = inputs.get(name)
    return f"at {moment(at, now_ms=now_ms)}" if at else "at an unknown time"


def _s(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"


def _running(_inputs: Inputs, _policy: Policy, _now: int, _role: str) -> str:
    return "The lesson goes on, as far as anybody said: no end, no loss and no silence is known."


def _ended(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    text = f"The call was reported over {_at(inputs, 'ended_hint_ms', now)}. "
    grace = f"DISCONNECT_GRACE_S ({_s(policy.disconnect_grace_ms)})"
    due, said = inputs.get("due_ms"), inputs.get("ended_hint_ms")
    if due and said and due - said < policy.nudge_window_ms:
        text += f"No nudge can reach its participants, so {grace} alone is given"
    else:
        text += f"Its participants have NUDGE_WINDOW_S ({_s(policy.nudge_window_ms)}) to end and pay themselves"
    if inputs.get("last_beat_ms"):
        text += f", and the last heartbeat has to be {grace} old"
    return f"{text}. Then the keeper ends it."


def _contradiction(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    last = max(inputs.get("last_beat_ms") or 0, inputs.get("life_ms") or 0)
    went_on = f" until {moment(last, now_ms=now)}" if last else ""
    return (
        f"The call was reported over {_at(inputs, 'ended_hint_ms', now)}, but signs of life went on{went_on}. Both "
        "participants are asked; an answer withdraws the report, no answer to a delivered question within "
        f"CONTRADICTION_CAP_S ({_s(policy.contradiction_cap_ms)}) ends it, and otherwise an operator decides."
    )


def _away(inputs: Inputs, policy: Policy, now: int, role: str) -> str:
    who = f"The {role}'s connection" if role else "A participant's connection"
    return (
        f"{who} was lost {_at(inputs, 'since_ms', now)} and hasn't come back. After DISCONNECT_GRACE_S "
        f"({_s(policy.disconnect_grace_ms)}) both are nudged, and NUDGE_WINDOW_S ({_s(policy.nudge_window_ms)}) later "
        "the keeper ends it."
    )


def _silence(inputs: Inputs, policy: Policy, now: int, _role: str) -> str:
    return (
        f"The last of {inputs.get('beats', 'its')} heartbeats came {_at(inputs, 'last_beat_ms', now)}. After "
        f"HEARTBEAT_TIMEOUT_S ({_s(policy.heartbeat_timeout_ms)}) of silence both are nudged, and DISCONNECT_GRACE_S "
        f"({_s(policy.disconnect_grace_ms)}) later the keeper ends it."
    )


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


def _orphan(_inputs: Inputs, policy: Policy, _now: int, _role: str) -> str:
    after = "the keeper ends it (END_ORPHANS=1)" if policy.end_orphans else "an operator is told; END_ORPHANS=1 ends it"
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

_WAITS = {
    "feed-down": "But the feed that would bring signs of life is down or came back too lately: its silence proves "
    "nothing, and the clock starts when it is back.",
    "end-or-timeout": "But who reported the loss couldn't report a return: that source's own end or time-out decides.",
    "answer": "It waits for their answer.",
    "corroboration": "But by TRUST_BACKEND_HINTS the backend's word alone doesn't end it, and nothing else says so: "
    "an operator is told.",
    "believed-word": "It waits for a word that is believed.",
}

_VALUES = {
    "started_ms": "the session started",
    "since_ms": "the rule counts from",
    "ended_hint_ms": "reported over",
    "timeout_hint_ms": "the backend missed heartbeats",
    "last_beat_ms": "last heartbeat",
    "life_ms": "last other sign of life",
    "drained_ms": "the student's balance is used up",
    "due_ms": "the end falls due",
    "beats": "heartbeats",
    "reached": "a nudge reached somebody",
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
