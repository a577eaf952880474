"""What the record says about a session, in words. The database is a real SQLite file."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from bot.domain import breaker, decide, rules
from bot.domain.policy import Policy
from bot.ops import explain as explaining
from bot.ops import overview, timeline
from bot.store import queries
from tests.support.record import NOW_MS, NOW_S, Record, address, record

POLICY = Policy()


@pytest.fixture
def one(tmp_path: Path) -> Record:
    return record(tmp_path / "keeper.db")


def explained(one: Record, asked: str) -> dict[str, Any]:
    with one.database.read() as session:
        found = explaining.explain(session, asked, POLICY, NOW_MS)
    assert found is not None
    return found


def lines(one: Record, **options: Any) -> list[dict[str, Any]]:
    with one.database.read() as session:
        return overview.lines(session, queries.sessions(session, **options), NOW_MS)


def test_explain__unknown_id__is_none(one: Record) -> None:
    with one.database.read() as session:
        assert explaining.explain(session, "5", POLICY, NOW_MS) is None
        assert explaining.explain(session, "req_nobody", POLICY, NOW_MS) is None


def test_explain__number_longer_than_any_id__is_none(one: Record) -> None:
    with one.database.read() as session:
        assert explaining.explain(session, "9" * 60, POLICY, NOW_MS) is None


def test_explain__room_id__is_the_session_it_belongs_to(one: Record) -> None:
    key = one.session(5)
    one.room("req_qn8g", key)
    found = explained(one, "req_qn8g")
    assert found["session"]["session_id"] == 5
    assert found["session"]["room_id"] == "req_qn8g"


def test_explain__room_of_a_session_taken_away_by_a_reorg__isnt_the_new_one(one: Record) -> None:
    old = one.session(5)
    one.room("req_old", old)
    one.session(5, student=0xFF, tutor=0xFE)
    found = explained(one, "req_old")
    assert found["session"] is None


def test_explain__room_without_a_session__says_what_it_waits_for(one: Record) -> None:
    one.room("req_lost")
    one.fact("ended", None, room="req_lost", payload={"endedBy": "student"})
    found = explained(one, "req_lost")
    assert found["session"] is None
    assert "joined no session" in found["rule"]
    assert [event["what"] for event in found["timeline"]] == ["room", "fact"]


def test_explain__expired_room__says_so(one: Record) -> None:
    one.room("req_lost", state="expired")
    assert "given up" in explained(one, "req_lost")["rule"]


def test_explain__everything_known__stands_in_time_order(one: Record) -> None:
    key = one.session(5)
    one.room("req_qn8g", key, beats=56)
    one.fact("ready", key, ago_s=612, room="req_qn8g")
    one.fact("ended", key, ago_s=30, room="req_qn8g", payload={"endedBy": "student"})
    one.decision(key, "nudge", "ended", ago_s=29.9)
    one.action(key, "nudge", "done", created_ms=NOW_MS - 29_900, ended_ms=NOW_MS - 29_000, outcome="delivered")
    one.fact("nudge", key, ago_s=29, source="keeper", payload={"delivered": True})
    one.decision(key, "end", "ended", ago_s=15)
    one.tx(key)
    one.alert("alert.test", key, ago_s=5)
    events = explained(one, "5")["timeline"]
    assert [event["at_ms"] for event in events] == sorted(event["at_ms"] for event in events)
    assert [event["what"] for event in events] == [
        "fact", "room", "chain", "room", "fact", "decision", "action", "fact", "action", "decision", "tx", "tx",
        "alert",
    ]  # fmt: skip


def test_explain__hang_up__names_rule_values_settings_and_due_time(one: Record) -> None:
    key = one.session(5)
    due = NOW_MS + 30_000
    one.decision(
        key, "wait", "ended", since_ms=NOW_MS - 30_000, due_ms=due, last_beat_ms=NOW_MS - 40_000, look_again_ms=due
    )
    found = explained(one, "5")
    assert "reported over at 07:59:30" in found["rule"]
    assert "NUDGE_WINDOW_S (60 s)" in found["rule"]
    assert "DISCONNECT_GRACE_S (30 s)" in found["rule"]
    assert found["next"] == {
        "at_ms": due,
        "text": "At 08:00:30 (in 30 s) the keeper ends it, unless something is heard before.",
    }
    assert "last heartbeat: 07:59:20 (40 s ago)" in [value["text"] for value in found["values"]]
    assert found["cost"] == "600000"


def test_explain__held__says_why_and_what_to_type(one: Record) -> None:
    key = one.session(5)
    one.decision(key, "hold", "ended", due_ms=NOW_MS - 1_000, hold="watching")
    text = explained(one, "5")["next"]["text"]
    assert "BACKEND_PRIVATE_KEY" in text
    assert "langdao-keeper settle 5" in text


def test_explain__set_aside__says_the_reason(one: Record) -> None:
    key = one.session(5)
    one.decision(key, "hold", "ended", due_ms=NOW_MS - 1_000, hold="its end reverts")
    assert "its end reverts" in explained(one, "5")["next"]["text"]


def test_explain__transaction_under_way__is_what_happens_next(one: Record) -> None:
    key = one.session(5)
    one.decision(key, "end", "ended", due_ms=NOW_MS - 1_000)
    one.tx(key, "sent")
    assert "under way" in explained(one, "5")["next"]["text"]


def test_explain__due_time_long_past__doesnt_promise_it(one: Record) -> None:
    key = one.session(5)
    one.decision(key, "wait", "silence", due_ms=NOW_MS - 60_000, look_again_ms=NOW_MS - 60_000)
    assert "no keeper is running" in explained(one, "5")["next"]["text"]


def test_explain__feed_down__says_that_silence_proves_nothing(one: Record) -> None:
    key = one.session(5)
    one.decision(key, "wait", "silence", waits_for="feed-down", last_beat_ms=NOW_MS - 90_000, beats=7)
    assert "proves nothing" in explained(one, "5")["rule"]


def test_explain__lost_connection__names_who(one: Record) -> None:
    key = one.session(5)
    one.decision(key, "wait", "away:student", away_student_ms=NOW_MS - 10_000)
    found = explained(one, "5")
    assert found["rule"].startswith("The student's connection was lost")
    assert any("connection lost (student)" in value["text"] for value in found["values"])


@pytest.mark.parametrize(
    ("drained_ms", "words"), [(NOW_MS + 60_000, "The lesson goes on"), (NOW_MS - 60_000, "works unpaid")]
)
def test_explain__balance__lasts_or_is_used_up(one: Record, drained_ms: int, words: str) -> None:
    key = one.session(5)
    one.decision(key, "wait", "drained", drained_ms=drained_ms)
    assert words in explained(one, "5")["rule"]


def test_explain__settled__tells_the_payment_and_that_it_is_final(one: Record) -> None:
    key = one.session(5)
    one.end(key, ended_by="keeper", finality="final", overbilled_s=3, overbilled_amount="3000")
    found = explained(one, "5")
    assert found["next"]["text"] == "Nothing: the end is final."
    assert "0.062 PYUSD paid (final); 3 s and 0.003 PYUSD of it" in found["timeline"][-1]["text"]
    assert found["settlement"]["paid"] == "62000"


def test_explain__request_refused__says_so(one: Record) -> None:
    from bot.store.tables import InboxRow

    key = one.session(5)
    asked = {"session_id": key.session_id, "by": "operator"}
    answer = {"ok": False, "error": "the daemon is paused"}
    one.add(InboxRow(kind="settle", payload=asked, asked_ms=NOW_MS - 9, answered_ms=NOW_MS, answer=answer))
    assert "the daemon is paused" in explained(one, "5")["timeline"][-1]["text"]


def test_words__everything_that_a_decision_waits_for_or_is_held_by__has_them() -> None:
    source = inspect.getsource(rules) + inspect.getsource(decide)
    waits = set(re.findall(r'waits_for="([a-z-]+)"', source)) | {"feed-down", "end-or-timeout"}
    assert "corroboration" in waits
    assert waits <= set(explaining._WAITS)
    assert {"watching", "paused", breaker.HOLD} <= set(timeline._HOLDS)


def test_next__held_by_the_breaker__says_until_when(one: Record) -> None:
    key = one.session(5)
    inputs = {"hold": breaker.HOLD, "due_ms": NOW_MS - 60_000, "mass_end_ms": NOW_MS - 30_000}
    one.decision(key, "hold", "ended", look_again_ms=NOW_MS + 870_000, **inputs)
    found = explained(one, "5")
    assert "If it stays silent, it is ended" in found["next"]["text"]
    assert "mass-end breaker" in found["next"]["text"]
    assert found["next"]["at_ms"] == NOW_MS + 870_000


def test_rules__every_reason_that_decide_gives__has_words() -> None:
    given = set(re.findall(r'Due\(\s*"([a-z-]+)"', inspect.getsource(rules)))
    given |= {"away", "running", "ended-on-chain"}  # made in other ways
    assert given == set(explaining._RULES)


def test_overview__active_session__counts_up_to_now(one: Record) -> None:
    one.session(5, age_s=600)
    [line] = lines(one)
    assert (line["state"], line["age_s"], line["cost"], line["rate"]) == ("active", 600, "600000", "1000")


def test_overview__chain_ahead_of_our_clock__counts_by_the_chain(one: Record) -> None:
    one.session(5, age_s=600)
    one.block(120, NOW_S + 100)
    assert lines(one)[0]["age_s"] == 700


def test_overview__balance_used_up__costs_no_more(one: Record) -> None:
    key = one.session(5, age_s=600)
    one.decision(key, "wait", "drained", drained_ms=NOW_MS - 500_000)
    assert lines(one)[0]["cost"] == "100000"


def test_overview__rate_not_read_yet__cost_is_unknown(one: Record) -> None:
    one.session(5, rate=None)
    assert lines(one)[0]["cost"] is None


def test_overview__amounts_over_uint256__are_exact(one: Record) -> None:
    one.session(5, rate=2**255, age_s=1)
    assert lines(one)[0]["cost"] == str(2**255)


def test_waiting_cost__over_running_and_drained__only_what_still_pays_counts(one: Record) -> None:
    over, running, drained = one.session(5), one.session(6, student=2, tutor=3), one.session(7, student=4, tutor=5)
    one.decision(over, "wait", "away:student")
    one.decision(running, "wait", "running")
    one.decision(drained, "wait", "silence", drained_ms=NOW_MS - 10_000)
    told = overview.waiting_cost(lines(one), NOW_MS)
    assert told["sessions"] == 2
    assert told["per_minute"] == "60000"


def test_sessions__filters__give_what_they_say(one: Record) -> None:
    linked, unlinked, ended = one.session(5), one.session(6, student=0xA2, tutor=0xB2), one.session(7, tutor=0xB3)
    one.room("req_a", linked)
    one.end(ended)

    def ids(**options: Any) -> list[int]:
        return [line["session_id"] for line in lines(one, **options)]

    assert ids() == [7, 6, 5]
    assert ids(state="active") == [6, 5]
    assert ids(state="ended") == [7]
    assert ids(state="unlinked") == [unlinked.session_id]
    assert ids(student=address(0xA2)) == [6]
    assert ids(tutor=address(0xB3)) == [7]
    assert ids(limit=1) == [7]


def test_settlements__public_columns__are_the_documented_ones_in_order(one: Record) -> None:
    one.end(one.session(5))
    with one.database.read() as session:
        [row] = queries.settlements(session)
    assert (
        list(row)
        == (
            "session_id room_id student tutor token language started_at ended_at billed_s rate paid ended_by by_keeper "
            "tx_hash block_number finality reason call_ended_at overbilled_s overbilled_amount"
        ).split()
    )


def test_txs__listed__without_the_signed_bytes(one: Record) -> None:
    one.tx(one.session(5))
    with one.database.read() as session:
        [row] = queries.txs(session)
    assert "raw" not in row
    assert row["state"] == "sent"


def test_open_alerts__session_ended__is_no_longer_open(one: Record) -> None:
    over, active = one.session(5), one.session(6, student=2, tutor=3)
    one.end(over)
    one.alert("alert.a", over)
    one.alert("alert.b", active)
    one.alert("alert.c")
    with one.database.read() as session:
        names = [row["name"] for row in queries.open_alerts(session, 0)]
    assert names == ["alert.c", "alert.b"]


ANN, BOB = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("nudge", {"channel": "gateway", "outcome": "delivered", "reached": [ANN], "missed": {BOB: "not-connected"}},
         "the nudge by gateway reached 0x7099…79C8; not 0x3C44…93BC: not-connected"),
        ("nudge", {"channel": "webhook", "outcome": "sent", "sent": [ANN, BOB]},
         "the nudge by webhook was sent to 0x7099…79C8, 0x3C44…93BC, without word of its arrival"),
        ("nudge", {"channel": "gateway", "outcome": "undelivered", "ask": True, "missed": {ANN: "no-ack"}},
         "the question whether the lesson goes on by gateway reached nobody (0x7099…79C8: no-ack)"),
        ("nudge", {"channel": "apprise", "outcome": "dropped", "dropped": True, "missed": {ANN: "no answer in time"}},
         "the nudge by apprise couldn't be sent in time (0x7099…79C8: no answer in time)"),
        ("nudge", {"outcome": "undelivered", "delivered": False, "why": "no channel reaches participants"},
         "the nudge reached nobody (no channel reaches participants)"),
        ("bill", {"channel": "gateway", "outcome": "delivered", "reached": [ANN, BOB]},
         "the bill by gateway reached 0x7099…79C8, 0x3C44…93BC"),
    ],
)  # fmt: skip
def test_explain__nudge_or_bill__tells_channel_and_participants(
    one: Record, kind: str, payload: dict[str, Any], text: str
) -> None:
    """Delivered per participant and channel recorded as facts"""
    key = one.session(5)
    one.fact(kind, key, source="keeper", payload=payload)
    assert text in [event["text"] for event in explained(one, "5")["timeline"]]
