"""What happened to a session or room, from the record, in time order.

Promises: one event for each stored row, with its words, its source and its id; `in_order` sorts by time and, within a
millisecond, puts causes before effects. The chain's events carry the chain's time, all others ours.
Doesn't promise that both clocks agree: `doctor` measures by how much they don't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bot.domain.facts import Trust
from bot.ops.words import amount, duration, moment, short
from bot.store.queries import Row

_HOLDS = {
    "watching": "this keeper only watches: it has no key (BACKEND_PRIVATE_KEY), or runs with --dry-run",
    "finality": "the node took back blocks that it had called final: nothing is signed on such a chain",
    "paused": "the keeper is paused (`langdao-keeper resume`)",
    "mass-end": "too many lessons seemed to end at once, and the mass-end breaker holds what it knew by then "
    "(`langdao-keeper resume`, or new evidence of this session)",
}


def hold_in_words(hold: str | None) -> str:
    """Why an end that is due isn't signed."""
    if not hold:
        return "something forbids it"
    return _HOLDS.get(hold, hold)


# Of things in the same millisecond, causes come first.
_ORDER = ("chain", "room", "fact", "request", "decision", "action", "tx", "alert")


def _event(at_ms: int | None, what: str, source: str, text: str, **details: Any) -> Row:
    return {
        "at_ms": at_ms,
        "what": what,
        "source": source,
        "text": text,
        "details": details,
    }


def in_order(events: Iterable[Row]) -> list[Row]:
    """The events, earliest first; what has no known time comes before everything else."""
    return sorted(events, key=lambda event: (event["at_ms"] or 0, _ORDER.index(event["what"])))


def chain_events(logs: list[Row], row: Row, settlement: Row | None) -> Iterable[Row]:
    for log in logs:
        at_ms = log["timestamp_s"] * 1000 if log["timestamp_s"] is not None else None
        if log["name"] == "SessionStarted":
            at_ms = at_ms or (row["started_at"] or 0) * 1000 or None
            rate = f", {amount(int(row['rate']))} a second" if row["rate"] else ""
            text = f"the session started: student {short(row['student'])}, tutor {short(row['tutor'])}{rate}"
        elif log["name"] == "SessionEnded" and settlement is not None:
            at_ms = at_ms or (settlement["ended_at"] or 0) * 1000 or None
            by = f" by {settlement['ended_by']}" if settlement["ended_by"] else ""
            text = f"the session ended{by}: {settlement['billed_s']} s billed, {amount(int(settlement['paid']))} paid"
            text += f" ({settlement['finality']})"
            if settlement["overbilled_amount"] is not None:
                over = amount(int(settlement["overbilled_amount"]))
                text += f"; {settlement['overbilled_s']} s and {over} of it after the call's own end"
        else:
            text = log["name"] or "an event that the keeper doesn't know"
        yield _event(
            at_ms, "chain", "chain", f"{text}, block {log['block_number']}", tx_hash=log["tx_hash"], name=log["name"]
        )


def room_events(rooms: list[Row]) -> Iterable[Row]:
    for room in rooms:
        joined = f", joined by rule `{room['rule']}`" if room["rule"] else ""
        yield _event(room["first_ms"], "room", "keeper", f"room {room['room']} was first heard of{joined}")
        if room["beats"]:
            since = moment(room["beat_first_ms"], now_ms=room["beat_last_ms"])
            yield _event(
                room["beat_last_ms"],
                "room",
                "heartbeat",
                f"newest of {room['beats']} heartbeats of room {room['room']}, which began at {since}",
                count=room["beats"],
            )


def fact_events(facts: list[Row]) -> Iterable[Row]:
    for fact in facts:
        if fact["kind"] == "tx" and fact["payload"].get("step") in ("stored", "sent"):
            continue  # the transaction's own row says it
        trust = Trust(fact["trust"]).name.lower() if fact["trust"] in tuple(Trust) else str(fact["trust"])
        yield _event(
            fact["received_ms"], "fact", fact["source"], _fact_text(fact), kind=fact["kind"], trust=trust, id=fact["id"]
        )


def _fact_text(fact: Row) -> str:
    payload: dict[str, Any] = fact["payload"] if isinstance(fact["payload"], dict) else {}
    who = f"the {fact['role']}" if fact["role"] else "a participant"
    match fact["kind"]:
        case "ready":
            return f"room {fact['room']} was made for {short(fact['student'])} and {short(fact['tutor'])}"
        case "connected":
            return f"{who} is in the room"
        case "heartbeat":
            return f"{payload.get('count', 1)} heartbeats"
        case "ended":
            by = payload.get("endedBy")
            reason = payload.get("reason")
            return "the call is over" + (f", ended by {by}" if by else "") + (f" ({reason})" if reason else "")
        case "disconnected":
            reason = payload.get("reason")
            return f"the connection of {who} was lost" + (f" ({reason})" if reason else "")
        case "timeout":
            return "the backend missed heartbeats"
        case "mapping":
            return f"the backend's Redis knows room {fact['room']}"
        case "still-here":
            return f"{who} says that the lesson goes on"
        case "settle":
            return f"end it now, said {payload.get('by') or fact['source']}"
        case "paying":
            return f"{who} is paying: an endSession of theirs waits in the pool"
        case "nudge":
            return _said(payload, "the question whether the lesson goes on" if payload.get("ask") else "the nudge")
        case "bill":
            return _said(payload, "the bill")
        case "settlement":
            more = payload.get("set_aside") or payload.get("error") or payload.get("reason") or payload.get("tx_hash")
            return f"settling: {payload.get('outcome', 'unknown')}" + (f" ({more})" if more else "")
        case "tx":
            block = f" in block {payload['block']}" if payload.get("block") else ""
            note = f" ({payload['note']})" if payload.get("note") else ""
            return f"transaction {short(payload.get('hash'))} {payload.get('step')}{block}{note}"
        case "alert":
            return f"the operator was told ({payload.get('mark')})"
        case kind:
            return kind


def _said(payload: dict[str, Any], what: str) -> str:
    """What came of a nudge or bill, on one channel."""
    if payload.get("channel"):
        what += f" by {payload['channel']}"
    missed = ", ".join(f"{short(who)}: {said}" for who, said in _items(payload.get("missed")))
    why = payload.get("why") or missed
    if payload.get("dropped"):
        return f"{what} couldn't be sent in time" + (f" ({why})" if why else "")
    found = []
    if payload.get("reached") or (payload.get("delivered") and not payload.get("channel")):
        found.append(f"reached {_names(payload.get('reached')) or 'somebody'}")
    if payload.get("sent"):
        found.append(f"was sent to {_names(payload['sent'])}, without word of its arrival")
    if not found:
        return f"{what} reached nobody" + (f" ({why})" if why else "")
    return f"{what} {' and '.join(found)}" + (f"; not {missed}" if missed else "")


def _names(addresses: object) -> str:
    return ", ".join(short(str(one)) for one in addresses) if isinstance(addresses, list) else ""


def _items(value: object) -> Iterable[tuple[str, object]]:
    return value.items() if isinstance(value, dict) else ()


def decision_events(decisions: list[Row], now_ms: int) -> Iterable[Row]:
    for decision in decisions:
        text = f"{decision['action']} by rule `{decision['reason']}`"
        due_ms = decision["inputs"].get("due_ms")
        if due_ms:
            text += f", the end falls due at {moment(due_ms, now_ms=now_ms)}"
        if decision["inputs"].get("hold"):
            text += f"; {hold_in_words(decision['inputs']['hold'])}"
        yield _event(decision["at_ms"], "decision", "keeper", text, id=decision["id"], action=decision["action"])


def action_events(actions: list[Row]) -> Iterable[Row]:
    for action in actions:
        name = f"{action['kind']} (action {action['id']})"
        yield _event(action["created_ms"], "action", "keeper", f"to do: {name}", id=action["id"])
        if action["ended_ms"] is not None:
            outcome = f": {action['outcome']}" if action["outcome"] else ""
            yield _event(action["ended_ms"], "action", "keeper", f"{action['state']}: {name}{outcome}", id=action["id"])


def tx_events(txs: list[Row]) -> Iterable[Row]:
    for tx in txs:
        name = f"transaction {short(tx['hash'])}"
        yield _event(tx["stored_ms"], "tx", "keeper", f"{name} signed and stored: {tx['kind']}, nonce {tx['nonce']}")
        if tx["sent_ms"] is not None:
            block = f" in block {tx['mined_block']}" if tx["mined_block"] is not None else ""
            note = f" ({tx['note']})" if tx["note"] else ""
            yield _event(
                tx["sent_ms"], "tx", "keeper", f"{name} sent; now {tx['state']}{block}{note}", tx_hash=tx["hash"]
            )


def alert_events(alerts: list[Row]) -> Iterable[Row]:
    for alert in alerts:
        yield _event(alert["at_ms"], "alert", "keeper", f"{alert['name']}: {alert['text']}", id=alert["id"])


def request_events(requests: list[Row]) -> Iterable[Row]:
    for request in requests:
        text = f"an operator asked to {request['kind']}"
        if request["answered_ms"] is not None:
            took = duration((request["answered_ms"] - request["asked_ms"]) / 1000)
            said = request["answer"] or {}
            text += f"; answered after {took}" if said.get("ok", True) else f"; refused: {said.get('error')}"
        yield _event(request["asked_ms"], "request", "operator", text, id=request["id"])
