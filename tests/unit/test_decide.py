"""The design's table, one case a row, and what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from bot.domain.decide import Action, Decision, call_ended_ms, decide
from bot.domain.facts import Fact, Hint, Kind, Role, Source
from bot.domain.policy import Hints, Policy
from bot.domain.rules import Feed, World
from bot.domain.session import Session, fold, give
from tests.support.sessions import KEY, STUDENT, T0, beating, hint, lesson, nudged

POLICY = Policy()
ONCE = replace(POLICY, nudge_repeats=0)
OPEN = Feed(since_ms=T0 - 3_600_000)
WORLD = World(feed=OPEN)
WORD = Source.SOCKET


def at(seconds: float) -> int:
    return T0 + round(seconds * 1000)


def look(session: Session, seconds: float, world: World = WORLD, policy: Policy = POLICY) -> Decision:
    return decide(session, policy, world, at(seconds))


def first(session: Session, action: Action, world: World = WORLD, policy: Policy = POLICY) -> float | None:
    """When (s after T0) `decide` first says `action`, following `look_again_ms` from T0 on as the daemon does."""
    session = replace(session)
    now = T0
    for _ in range(100):
        decision = decide(session, policy, world, now)
        if decision.action is action:
            return (now - T0) / 1000
        if decision.action in (Action.NUDGE, Action.ALERT):
            give(session, str(decision.mark), now)
            continue
        if decision.look_again_ms is None:
            return None
        assert decision.look_again_ms > now, "a busy loop"
        now = decision.look_again_ms
    raise AssertionError("no end of looking")


# The table -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A signal, and when nudge and end fall due, in seconds after T0."""

    name: str
    session: Session
    nudge: float | None
    end: float | None
    world: World = WORLD
    policy: Policy = POLICY
    alert: float | None = None
    reason: str = ""


def away(role: Role | None = None, *, can_return: bool = True) -> Hint:
    return hint(Kind.DISCONNECTED, 100, Source.WEBHOOK, role=role, can_return=can_return)


ENDED = hint(Kind.ENDED, 100, WORD)
TABLE = (
    # ended by a participant (hint): nudge at t, end at max(t + NUDGE_WINDOW_S, last heartbeat + DISCONNECT_GRACE_S)
    Row("ended", lesson(ENDED), 100, 160, reason="ended"),
    Row("ended, heartbeats until then", lesson(*beating(100), ENDED), 100, 160, reason="ended"),
    Row("ended, a last heartbeat within the grace", lesson(ENDED, hint(Kind.HEARTBEAT, 130)), 100, 160),
    Row(
        "ended, short window: the heartbeat's grace is later",
        lesson(*beating(100), ENDED),
        100,
        130,
        policy=replace(POLICY, nudge_window_ms=10_000),
    ),
    # connection lost, by a source that could also report the return: t + grace, + window
    Row("lost, role known", lesson(away(Role.STUDENT)), 130, 190, reason="away:student"),
    Row("lost, role unknown", lesson(away()), 130, 190, reason="away"),
    # connection lost, by a source that couldn't: nudge only
    Row("lost, return can't be seen", lesson(away(can_return=False)), 130, None),
    # the keeper's own heartbeat timeout: last heartbeat + HEARTBEAT_TIMEOUT_S, + DISCONNECT_GRACE_S
    Row("silence", lesson(*beating(100)), 160, 190, reason="silence"),
    Row("silence, two heartbeats don't arm", lesson(hint(Kind.HEARTBEAT, 0), hint(Kind.HEARTBEAT, 100)), None, None),
    Row("silence, three within 29 s don't arm", lesson(*beating(29, 14.5)), None, None),
    Row("silence, three over 30 s arm", lesson(*beating(30, 15)), 90, 120),
    # `heartbeat-timeout` from the backend: t, t + DISCONNECT_GRACE_S
    Row("backend's timeout", lesson(hint(Kind.TIMEOUT, 100, WORD)), 100, 130, reason="timeout"),
    # a participant's signature, or an operator's `settle`: no nudge, t
    Row("operator", lesson(hint(Kind.SETTLE, 100, Source.OPERATOR)), None, 100, reason="told"),
    Row("signature", lesson(hint(Kind.SETTLE, 100, Source.PARTICIPANT)), None, 100, reason="told"),
    # balance used up: DRAIN_WARNING_S before, and then; + DRAIN_GRACE_S
    Row("drained", lesson(drained_ms=at(1000)), 700, 1300, reason="drained"),
    Row("drained from the start", lesson(drained_ms=at(0)), 0, 300),
    # orphan: alert only
    Row("orphan", lesson(), None, None, alert=7200),
    Row("orphan, to be ended", lesson(), None, 7200, policy=replace(POLICY, end_orphans=True), reason="orphan"),
    # a participant is paying: once, + PAY_WAIT_S
    Row("paying", lesson(ENDED, hint(Kind.PAYING, 160, Source.CHAIN)), 100, 205, reason="ended"),
    Row("paying, long before the end is due", lesson(ENDED, hint(Kind.PAYING, 101, Source.CHAIN)), 100, 160),
    Row(
        "paying, and told to end",
        lesson(hint(Kind.SETTLE, 100, Source.OPERATOR), hint(Kind.PAYING, 90, Source.CHAIN)),
        None,
        135,
    ),
)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_decide__signal_of_the_table__nudges_and_ends_when_it_says(row: Row) -> None:
    assert first(row.session, Action.NUDGE, row.world, row.policy) == row.nudge
    assert first(row.session, Action.END, row.world, row.policy) == row.end
    assert first(row.session, Action.ALERT, row.world, row.policy) == row.alert


@pytest.mark.parametrize("row", [row for row in TABLE if row.end is not None], ids=lambda row: row.name)
def test_decide__one_ms_before_due__waits_and_at_due_ends(row: Row) -> None:
    assert row.end is not None
    before = decide(row.session, row.policy, row.world, at(row.end) - 1)
    then = decide(row.session, row.policy, row.world, at(row.end))
    assert before.action is not Action.END
    assert before.due_ms == at(row.end)
    assert then.action is Action.END
    assert row.reason in ("", then.reason)


@pytest.mark.parametrize("row", [row for row in TABLE if row.nudge is not None], ids=lambda row: row.name)
def test_decide__nudge_due__its_mark_is_nudged_once(row: Row) -> None:
    assert row.nudge is not None
    assert decide(row.session, row.policy, row.world, at(row.nudge) - 1).action is Action.WAIT
    decision = decide(row.session, row.policy, row.world, at(row.nudge))
    assert decision.action is Action.NUDGE
    told = replace(row.session, nudged={str(decision.mark): at(row.nudge)})
    again = decide(told, row.policy, row.world, at(row.nudge) + 1)
    assert again.mark != decision.mark


@pytest.mark.parametrize("row", [row for row in TABLE if row.end is not None], ids=lambda row: row.name)
def test_decide__effects_age_never_excuses_a_settlement__ends_a_day_later(row: Row) -> None:
    """Age never excuses a settlement: a session still active on chain is decided by the table."""
    assert decide(row.session, row.policy, row.world, at(86_400)).action is Action.END


def test_decide__signal_returns_before_the_grace_is_over__running() -> None:
    """connection lost … back again → alive"""
    back = hint(Kind.CONNECTED, 120, Source.WEBHOOK, role=Role.STUDENT)
    assert first(lesson(away(Role.STUDENT), back), Action.END) is None
    assert look(lesson(away(Role.STUDENT), back), 500).reason == "running"


def test_decide__one_role_lost_while_the_other_beats__ends_all_the_same() -> None:
    """a disconnect with a known role is contradicted only by that role's return … not by the other's heartbeats"""
    session = lesson(*beating(100), away(Role.STUDENT), hint(Kind.HEARTBEAT, 180))
    assert look(session, 190).action is Action.END


def test_decide__no_role_lost_and_heartbeats_go_on__alive() -> None:
    """one [disconnect] without a role by any heartbeat received after it"""
    session = lesson(*beating(100), away(), hint(Kind.HEARTBEAT, 105))
    assert look(session, 164).reason == "running"
    assert first(session, Action.END) == 195


# What delays ---------------------------------------------------------------------------------------------------------


def test_decide__direct_mode__the_backend_gets_a_head_start() -> None:
    """In `direct` mode no hint makes an end due before t + BACKEND_HEAD_START_S."""
    short = replace(POLICY, nudge_window_ms=0, disconnect_grace_ms=1_000)
    session = lesson(ENDED)
    assert first(session, Action.END, WORLD, short) == 112
    assert first(session, Action.END, replace(WORLD, direct=False), short) == 101


@pytest.mark.parametrize(
    ("session", "end_s"),
    [
        (lesson(hint(Kind.READY), hint(Kind.SETTLE, 100, Source.OPERATOR)), 100),
        (lesson(hint(Kind.READY), drained_ms=at(1_000)), 1_000),
        (lesson(), 50),
        (lesson(hint(Kind.TIMEOUT, 100)), 112),
        (lesson(ENDED, hint(Kind.HEARTBEAT, 101)), 112),
        (lesson(away()), 112),
        (lesson(*beating(100)), 172),
    ],
    ids=["operator", "drained", "orphan", "timeout", "contradiction", "lost", "silence"],
)
def test_decide__direct_mode__only_what_rests_on_hints_gives_the_backend_its_head_start(
    session: Session, end_s: float
) -> None:
    """In `direct` mode no hint makes an end due before t + BACKEND_HEAD_START_S."""
    at_once = replace(POLICY, nudge_window_ms=0, disconnect_grace_ms=0, drain_grace_ms=0)
    at_once = replace(at_once, end_orphans=True, orphan_after_ms=50_000)
    assert first(session, Action.END, WORLD, at_once) == end_s


@pytest.mark.parametrize(
    ("session", "world"),
    [
        (lesson(ENDED), replace(WORLD, reachable=False)),
        (lesson(ENDED, nudged(101, f"ended@{at(100)}", delivered=False)), WORLD),
    ],
    ids=["no channel", "nudge undelivered"],
)
def test_decide__nobody_reachable__no_window_but_the_grace(session: Session, world: World) -> None:
    """No channel reaches either participant → no nudge window, the grace alone."""
    assert first(session, Action.END, world) == 130


def test_decide__nobody_reachable_and_heartbeats_stopped_before__grace_after_the_last_heartbeat() -> None:
    assert first(lesson(*beating(95), ENDED), Action.END, replace(WORLD, reachable=False)) == 125


def test_decide__lost_and_nobody_reachable__the_grace_alone() -> None:
    assert first(lesson(away()), Action.END, replace(WORLD, reachable=False)) == 130


def test_decide__nudge_dropped_as_too_late__says_nothing_of_reach() -> None:
    session = lesson(ENDED, nudged(131, f"ended@{at(100)}", delivered=False, dropped=True))
    assert first(session, Action.END) == 160


# Contradiction -------------------------------------------------------------------------------------------------------


def contradicted(*more: Hint, until_s: float = 1_000) -> Session:
    """An end at 100 s, and heartbeats that go on."""
    return lesson(*beating(until_s), ENDED, *more)


@pytest.mark.parametrize("source", [Source.WEBHOOK, Source.OPEN_WEBHOOK])
@pytest.mark.parametrize(("beat_s", "asks"), [(130, False), (130.001, True)])
def test_decide__contradiction__both_are_asked(source: Source, beat_s: float, asks: bool) -> None:
    """signs of life go on for longer than `DISCONNECT_GRACE_S`"""
    session = lesson(ENDED, hint(Kind.HEARTBEAT, beat_s, source), nudged={f"ended@{at(100)}": at(100)})
    decision = look(session, 131, policy=ONCE)
    assert (decision.action is Action.NUDGE, decision.ask) == (asks, asks)
    assert decision.reason == ("contradiction" if asks else "ended")


def test_decide__contradiction_and_question_delivered__ends_at_the_cap() -> None:
    """no answer to a delivered question ends it [after CONTRADICTION_CAP_S]"""
    session = contradicted(nudged(131, f"ask@{at(100)}", ask=True))
    assert look(session, 699.999, policy=ONCE).action is Action.WAIT
    assert look(session, 700, policy=ONCE).action is Action.END


def test_decide__contradiction_and_question_undelivered__goes_to_the_operator_at_the_cap() -> None:
    """no answer to a delivered question ends it, else it goes to the operator"""
    session = contradicted(nudged(131, f"ask@{at(100)}", ask=True, delivered=False))
    assert look(session, 699.999, policy=ONCE).action is Action.WAIT
    decision = look(session, 700, policy=ONCE)
    assert (decision.action, decision.reason) == (Action.ALERT, "contradiction")
    give(session, str(decision.mark), at(700))
    assert look(session, 701, policy=ONCE).action is Action.WAIT


def test_decide__contradiction_answered_still_in_the_lesson__hint_withdrawn() -> None:
    """an answer withdraws the hint"""
    answer = hint(Kind.STILL_HERE, 200, Source.PARTICIPANT)
    session = contradicted(nudged(131, f"ask@{at(100)}", ask=True), answer)
    assert look(session, 1_000).action is Action.WAIT
    assert session.ended_hint is None


def test_decide__contradiction_then_silence__ends_after_the_grace() -> None:
    session = contradicted(until_s=300)
    assert look(session, 329.999).action is not Action.END
    assert look(session, 330).action is Action.END
    assert first(session, Action.END, policy=replace(POLICY, nudge_window_ms=280_000)) == 380


def test_decide__contradiction_while_the_feed_is_down__silence_is_no_evidence() -> None:
    """Silence is not evidence."""
    session = contradicted(nudged(131, "ask", ask=True, delivered=False), until_s=300)
    world = World(feed=Feed(OPEN.since_ms, until_ms=at(310)))
    assert first(session, Action.END, world) is None


def test_decide__question_delivered_just_before_the_cap__leaves_a_window_to_answer() -> None:
    session = contradicted(nudged(699, f"ask@{at(100)}", ask=True))
    assert look(session, 700).action is Action.WAIT
    assert look(session, 759).action is Action.END


def test_decide__second_end_hint_after_a_contradicted_one__counts_from_itself() -> None:
    """ended by a participant: nudge at t, end due at max(t + NUDGE_WINDOW_S, …)"""
    session = lesson(*beating(500), ENDED, hint(Kind.ENDED, 501, WORD, payload={"n": 2}))
    give(session, f"ask@{at(100)}", at(131))
    assert look(session, 501).action is Action.NUDGE
    assert look(session, 560).action is not Action.END
    assert look(session, 561).action is Action.END


def test_decide__end_said_again_and_again__counts_from_the_first_that_no_sign_of_life_contradicts() -> None:
    """said again, t is the first that no sign of life contradicts"""
    again = [hint(Kind.ENDED, second) for second in range(150, 210, 10)]
    assert first(lesson(ENDED, hint(Kind.HEARTBEAT, 135), *again), Action.END) == 150 + 60


@pytest.mark.parametrize("every_s", [3, 7, 20, 31, 59])
def test_decide__end_said_for_ever__is_not_put_off_for_ever(every_s: int) -> None:
    """said again, t is the first that no sign of life contradicts"""
    session = lesson(hint(Kind.HEARTBEAT, 0))
    for second in range(100, 2_000):
        if (second - 100) % every_s == 0:
            fold(session, Fact(second, hint(Kind.ENDED, second), KEY))
        if second == 500:  # of two that are no series, so that no time-out of the keeper's own is armed
            fold(session, Fact(second, hint(Kind.HEARTBEAT, second), KEY))
        if second >= 500 and look(session, second).action is Action.END:
            break
    assert second <= 500 + 30 + 60


def test_decide__end_said_again_and_again_while_signs_of_life_go_on__the_first_is_still_asked_about() -> None:
    """no answer to a delivered question ends it [after CONTRADICTION_CAP_S]"""
    again = [hint(Kind.ENDED, 100 + 20 * number) for number in range(1, 100)]
    asked = contradicted(*again, nudged(131, f"ask@{at(100)}", ask=True), until_s=2_000)
    assert look(asked, 699.999).action is not Action.END
    assert (look(asked, 700).action, look(asked, 700).reason) == (Action.END, "contradiction")
    unasked = contradicted(*again, nudged(131, f"ask@{at(100)}", ask=True, delivered=False), until_s=2_000)
    assert look(unasked, 700, policy=replace(ONCE, effect_max_age_ms=0)).mark == f"alert:contradiction@{at(100)}"


# Feeds ---------------------------------------------------------------------------------------------------------------


def test_decide__silence_while_its_feed_is_down__waits() -> None:
    """what didn't arrive outside proves nothing"""
    session = lesson(*beating(100))
    decision = look(session, 10_000, World(feed=Feed(OPEN.since_ms, until_ms=at(150))))
    assert (decision.action, decision.reason) == (Action.WAIT, "silence")
    assert (decision.inputs["waits_for"], decision.inputs["since_ms"]) == ("feed-down", at(100))


def test_decide__silence_after_its_feed_returned__starts_afresh() -> None:
    """every clock that reads silence starts afresh"""
    session = lesson(*beating(100))
    world = World(feed=Feed(since_ms=at(1000)))
    assert look(session, 1059.999, world).action is Action.WAIT
    assert look(session, 1060, world).action is Action.NUDGE
    assert look(session, 1090, world).action is Action.END


def test_decide__silence_proven_before_its_feed_went_down__counts() -> None:
    """what didn't arrive between the two proves silence"""
    world = World(feed=Feed(OPEN.since_ms, until_ms=at(160)))
    assert first(lesson(*beating(100)), Action.END, world) == 190


@pytest.mark.parametrize(
    ("words", "down_s", "end_s"),
    [
        (beating(100), 160, 120 + 60 + 30),
        ([away()], 130, 120 + 30 + 60),
        ([hint(Kind.ENDED, 80)], 0, 120 + 30),
        ([hint(Kind.TIMEOUT, 100)], 0, 120 + 30),
    ],
    ids=["silence", "lost", "ended", "timeout"],
)
def test_decide__anonymous_sign_of_life_and_then_its_feed_is_down__puts_off_what_was_proven_before(
    words: list[Hint], down_s: float, end_s: float
) -> None:
    """an unauthenticated word … puts one off by CONTRADICTION_CAP_S at most"""
    world = World(feed=Feed(OPEN.since_ms, until_ms=at(down_s)))
    anonymous = [hint(Kind.HEARTBEAT, second, Source.OPEN_WEBHOOK) for second in range(120, 5_000, 10)]
    assert first(lesson(*words, anonymous[0]), Action.END, world, ONCE) == end_s
    without, with_all = (first(lesson(*words, *more), Action.END, world, ONCE) for more in ([], anonymous))
    assert without is not None
    assert with_all is not None
    assert end_s < with_all <= without + POLICY.contradiction_cap_ms / 1_000


@pytest.mark.parametrize("until_s", [101, 129.999])
def test_decide__lost_while_its_feed_went_down__return_can_not_be_seen(until_s: float) -> None:
    world = World(feed=Feed(OPEN.since_ms, until_ms=at(until_s)))
    assert first(lesson(away()), Action.END, world) is None


def test_decide__lost_and_its_feed_returned_later__grace_counts_from_the_return() -> None:
    world = World(feed=Feed(since_ms=at(500)))
    assert first(lesson(away()), Action.NUDGE, world) == 530
    assert first(lesson(away()), Action.END, world) == 590


def test_decide__ended_and_its_feed_returned_later__last_heartbeat_counts_from_the_return() -> None:
    """`last heartbeat + DISCONNECT_GRACE_S` counts from the later of the last heartbeat and the last return"""
    world = World(feed=Feed(since_ms=at(200)))
    assert first(lesson(*beating(100), ENDED), Action.END, world) == 230


def test_decide__ended_without_heartbeats_and_no_feed__window_runs_on() -> None:
    """Only clocks that read silence stop when a feed is down; the window after an explicit end runs on."""
    world = World(feed=Feed(at(0), until_ms=at(0)))
    assert first(lesson(hint(Kind.CONNECTED, 5), ENDED), Action.END, world) == 160


def test_decide__ended_with_heartbeats_and_the_feed_down__waits_a_long_silence() -> None:
    world = World(feed=Feed(OPEN.since_ms, until_ms=at(101)))
    assert first(lesson(*beating(100), ENDED), Action.END, world) == 400


def test_decide__silence_of_the_only_room__nudges_then_ends_much_later() -> None:
    """with a single room and no canary, silence nudges, and ends only after SOLE_ROOM_TIMEOUT_S"""
    world = World(feed=Feed(OPEN.since_ms, until_ms=at(145), sole_room=True))
    session = lesson(*beating(100))
    assert first(session, Action.NUDGE, world) == 160
    assert first(session, Action.END, world) == 400


def test_decide__still_here_restarts_the_silence__not_ended() -> None:
    """a session that a participant's signature … show[s] alive within the grace is never ended … by silence"""
    session = lesson(*beating(100), hint(Kind.STILL_HERE, 185, Source.PARTICIPANT))
    assert look(session, 190).action is Action.WAIT
    assert first(session, Action.END) == 275


# Holding, telling, closing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["watching", "paused"])
def test_decide__end_due_but_nothing_may_be_signed__holds_and_says_why(why: str) -> None:
    decision = look(lesson(ENDED), 200, replace(WORLD, hold=why))
    assert (decision.action, decision.reason, decision.inputs["hold"]) == (Action.HOLD, "ended", why)


def test_decide__set_aside__holds_and_says_why() -> None:
    decision = look(lesson(ENDED, set_aside="the token is paused"), 200)
    assert (decision.action, decision.inputs["hold"]) == (Action.HOLD, "the token is paused")


def test_decide__ended_on_chain__closes_whatever_was_said() -> None:
    session = lesson(ENDED, hint(Kind.SETTLE, 100, Source.OPERATOR), ended=True)
    assert look(session, 50) == Decision(Action.CLOSE, "ended-on-chain")


@pytest.mark.parametrize("seconds", [100, 1_000, 1_000_000])
def test_decide__end_that_anybody_could_have_said__never_ends(seconds: float) -> None:
    """what anybody could have sent makes the keeper look and nudge, never sign"""
    session = lesson(hint(Kind.ENDED, 100, Source.OPEN_WEBHOOK), drained_ms=None)
    assert look(session, seconds).action is not Action.END
    assert first(session, Action.END) is None


def test_decide__anonymous_end__nudges_once() -> None:
    session = lesson(hint(Kind.ENDED, 100, Source.OPEN_WEBHOOK))
    assert look(session, 100).mark == "anonymous-end"
    give(session, "anonymous-end", at(100))
    waiting = look(session, 101)
    assert (waiting.action, waiting.reason) == (Action.WAIT, "anonymous-end")
    assert waiting.inputs["waits_for"] == "believed-word"


@pytest.mark.parametrize(("beat_s", "action"), [(100, Action.NUDGE), (100.001, Action.WAIT)])
def test_decide__anonymous_sign_of_life_after_an_anonymous_end__no_nudge(beat_s: float, action: Action) -> None:
    words = (hint(Kind.ENDED, 100, Source.OPEN_WEBHOOK), hint(Kind.HEARTBEAT, beat_s, Source.OPEN_WEBHOOK))
    assert look(lesson(*words), 102).action is action


def test_decide__nudge_older_than_effect_max_age__nobody_is_messaged() -> None:
    """A … hint older than EFFECT_MAX_AGE_S causes no message to participants."""
    session = lesson(away(can_return=False))
    assert look(session, 130 + 600).action is Action.NUDGE
    assert look(session, 130 + 600.001).action is Action.WAIT


def test_decide__drained__warned_before_and_told_then() -> None:
    session = lesson(drained_ms=at(1000))
    assert look(session, 700).mark == "drain-warning"
    give(session, "drain-warning", at(700))
    assert look(session, 999.999).action is Action.WAIT
    assert look(session, 1000).mark == "drained"


def test_decide__drained_moved_by_a_deposit__due_moves_with_it() -> None:
    """deposits and withdrawals move it"""
    session = lesson(drained_ms=at(1000))
    assert look(session, 1300).action is Action.END
    session.drained_ms = at(5000)
    assert look(session, 1300).action is Action.WAIT


def test_decide__two_ends_due__the_earliest_wins() -> None:
    session = lesson(ENDED, drained_ms=at(1000))
    assert (look(session, 160).action, look(session, 160).reason) == (Action.END, "ended")


def test_decide__heard_of_once__no_orphan() -> None:
    assert look(lesson(hint(Kind.READY, 0, WORD)), 7200).action is Action.WAIT


# When the call ended -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "by_s", "expected_s"),
    [
        (lesson(*beating(95), ENDED), 170, 100),
        (lesson(*beating(100)), 195, 100),
        (lesson(*beating(100)), 160, 100),
        (lesson(*beating(100)), 159.999, None),
        (lesson(*beating(100), hint(Kind.ENDED, 160)), 300, 100),
        (lesson(*beating(100), hint(Kind.ENDED, 159.999)), 300, 159.999),
        (lesson(*beating(60), hint(Kind.TIMEOUT, 100)), 300, 60),
        (lesson(hint(Kind.TIMEOUT, 100)), 300, 100),
        (lesson(*beating(100), away(Role.STUDENT)), 105, 100),
        (lesson(*beating(200), ENDED), 205, None),
        (lesson(hint(Kind.SETTLE, 100, Source.OPERATOR)), 105, 100),
        (lesson(drained_ms=at(50)), 400, None),
        (lesson(hint(Kind.ENDED, 100, Source.OPEN_WEBHOOK)), 300, None),
    ],
    ids=[
        *("hint", "silence", "silent just long enough", "not silent for long"),
        *("silent just long enough before a hint", "not silent for long before a hint"),
        *("missed by the backend", "missed by the backend, never heard here"),
        *("lost", "contradicted", "told", "drained", "anonymous"),
    ],
)
def test_call_ended_ms__what_was_heard__earliest_believed_word(
    session: Session, by_s: float, expected_s: float | None
) -> None:
    """The real end of a call is the earliest believed hint that no later sign of life contradicts; for silence, the
    last heartbeat received."""
    expected = None if expected_s is None else at(expected_s)
    assert call_ended_ms(session, POLICY, WORLD, at(by_s)) == expected


def test_decide__two_reasons__the_one_with_the_earliest_end_is_named() -> None:
    """the earliest due end that nothing holds wins"""
    session = lesson(
        ENDED, hint(Kind.TIMEOUT, 101), nudged={f"ended@{at(100)}": at(100), f"timeout@{at(101)}": at(101)}
    )
    assert (look(session, 102).action, look(session, 102).reason) == (Action.WAIT, "timeout")
    held = look(session, 200, replace(WORLD, hold="paused"))
    assert (held.action, held.reason, held.due_ms) == (Action.HOLD, "timeout", at(131))
    broken = look(session, 200, replace(WORLD, mass_end_ms=at(150)))
    assert (broken.action, broken.reason, broken.due_ms) == (Action.HOLD, "timeout", at(131))


def test_decide__nudge_and_alert__say_when_it_looks_again_and_when_the_end_is_due() -> None:
    said = lesson(ENDED, drained_ms=at(10_000))
    nudge = look(said, 100)
    assert (nudge.action, nudge.look_again_ms, nudge.due_ms) == (Action.NUDGE, at(160), at(160))
    uncertain = look(replace(said, nudged={f"ended@{at(100)}": at(100)}), 160, policy=replace(ONCE, hints=Hints.NO))
    assert uncertain.mark == f"alert:ended@{at(100)}"
    assert (uncertain.action, uncertain.look_again_ms, uncertain.due_ms) == (Action.ALERT, at(9_700), at(10_300))


def test_decide__inputs__say_what_was_seen() -> None:
    running = look(lesson(*beating(95)), 100)
    assert (running.reason, running.inputs["last_beat_ms"]) == ("running", at(95))
    decision = look(lesson(*beating(95), ENDED), 200)
    assert decision.inputs["ended_hint_ms"] == at(100)
    assert decision.inputs["last_beat_ms"] == at(95)
    assert decision.due_ms == at(160)
    assert STUDENT not in str(decision.inputs)
