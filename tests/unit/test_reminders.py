"""A nudge is repeated with backoff while its rule stands, and no longer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from bot.domain.decide import Action, decide
from bot.domain.facts import Fact, Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.policy import Hints, Policy
from bot.domain.rules import World
from bot.domain.session import Session, fold, give

T0 = 1_800_000_000_000
POLICY = Policy()
WORLD = World(direct=False)
KEY = SessionKey(7, "0x00000000000000000000000000000000000000A0", "0x00000000000000000000000000000000000000b0")


def lesson(*hints: Hint, **more: int) -> Session:
    session = Session(KEY, T0, **more)
    for number, hint in enumerate(hints, 1):
        fold(session, Fact(number, hint, KEY))
    return session


def said(kind: Kind, seconds: float, trust: Trust = Trust.CONFIGURED, source: Source = Source.SOCKET) -> Hint:
    return Hint(kind, source, trust, T0 + round(seconds * 1000), can_return=True)


def given(session: Session, until_s: float, policy: Policy = POLICY, world: World = WORLD) -> list[tuple[float, str]]:
    """The nudges that the daemon would give until then: when (s), and their marks without times."""
    session, now, found = replace(session), T0, []
    while now <= T0 + until_s * 1000:
        decision = decide(session, policy, world, now)
        if decision.action in (Action.NUDGE, Action.ALERT):
            give(session, str(decision.mark), now)
            if decision.action is Action.NUDGE:
                name, _, rest = str(decision.mark).partition("@")
                found.append(((now - T0) / 1000, name + rest[13:]))
            continue
        if decision.action is Action.END or decision.look_again_ms is None:
            break
        now = decision.look_again_ms
    return found


def test_nudge__window_of_60_s__again_in_the_middle_and_never_after_the_end() -> None:
    assert given(lesson(said(Kind.ENDED, 100)), 1000) == [(100, "ended"), (130, "ended#1")]


def test_nudge__nothing_ends_it__again_at_growing_distances_and_then_no_more() -> None:
    world = replace(WORLD, hold="paused")
    policy = replace(POLICY, drain_grace_ms=10**9, drain_warning_ms=0)
    assert given(lesson(drained_ms=T0 + 100_000), 9000, policy, world) == [
        (100, "drain-warning"),
        (100, "drained"),
        (130, "drained#1"),
        (190, "drained#2"),
        (310, "drained#3"),
    ]


def test_nudge__repeats_switched_off__once() -> None:
    assert given(lesson(said(Kind.ENDED, 100)), 1000, replace(POLICY, nudge_repeats=0)) == [(100, "ended")]


def test_nudge__given_late__its_repetition_keeps_the_distance_to_it() -> None:
    """never two of the same at once, after the keeper itself was down"""
    session = lesson(said(Kind.DISCONNECTED, 100))
    give(session, f"away@{T0 + 100_000}", T0 + 185_000)
    at_ms = T0 + 185_001
    world = replace(WORLD, hold="paused")
    long = replace(POLICY, nudge_window_ms=600_000)
    assert decide(session, long, world, at_ms).action is Action.WAIT
    assert decide(session, long, world, T0 + 215_000).mark == f"away@{T0 + 100_000}#1"


def test_nudge__its_reason_is_gone__is_not_repeated() -> None:
    session = lesson(said(Kind.DISCONNECTED, 100))
    give(session, f"away@{T0 + 100_000}", T0 + 130_000)
    fold(session, Fact(9, said(Kind.CONNECTED, 140), KEY))
    assert decide(session, POLICY, WORLD, T0 + 160_000).action is Action.WAIT


@pytest.mark.parametrize("ended_s", [100, 129.9])
def test_nudge__session_has_ended_on_chain__is_not_repeated(ended_s: float) -> None:
    """stopped the moment the chain shows the end"""
    session = lesson(said(Kind.ENDED, 100))
    give(session, f"ended@{T0 + 100_000}", T0 + 100_000)
    session.ended = True
    assert decide(session, POLICY, WORLD, T0 + 130_000).action is Action.CLOSE


def test_nudge__word_that_anybody_could_say__once() -> None:
    weak = said(Kind.ENDED, 100, Trust.ANONYMOUS, Source.OPEN_WEBHOOK)
    assert given(lesson(weak), 5000) == [(100, "anonymous-end")]


# Several reasons at once


def left(seconds: float, role: Role) -> Hint:
    return replace(said(Kind.DISCONNECTED, seconds), role=role)


def test_nudge__hang_up_then_both_pages_closed__one_message_and_its_reminder() -> None:
    """A second reason to say the same waits until the window of the first is over: by then it has mostly ended."""
    session = lesson(said(Kind.ENDED, 100), left(101, Role.STUDENT), left(102, Role.TUTOR))
    assert given(session, 1000) == [(100, "ended"), (130, "ended#1")]


def test_nudge__both_connections_lost__one_message() -> None:
    session = lesson(left(100, Role.STUDENT), left(101, Role.TUTOR))
    assert given(session, 1000) == [(130, "away:student"), (160, "away:student#1")]


def test_nudge__nothing_ends_it__never_two_reasons_within_the_window() -> None:
    session = lesson(said(Kind.ENDED, 100), left(101, Role.STUDENT), left(102, Role.TUTOR))
    found = given(session, 9000, world=replace(WORLD, hold="paused"))
    assert {mark.partition("#")[0] for _, mark in found} == {"ended"}, "it is due, and held: nobody is told more"
    uncertain = replace(POLICY, hints=Hints.NO)  # no end falls due, so both go on being told
    found = given(session, 9000, uncertain)
    gaps = [
        after - before
        for (before, one), (after, other) in pairwise(found)
        if one.partition("#")[0] != other.partition("#")[0]
    ]
    assert gaps
    assert min(gaps) >= POLICY.nudge_window_ms / 1000
    assert len(found) == len(set(found)) == 3 * (1 + POLICY.nudge_repeats), "each is said in the end"


def test_nudge__end_said_and_signs_of_life__the_question_is_another_message() -> None:
    """Not for what says something else"""
    session = lesson(said(Kind.ENDED, 100), left(105, Role.TUTOR), said(Kind.HEARTBEAT, 134))
    give(session, f"away:tutor@{T0 + 105_000}", T0 + 135_000)
    assert decide(session, POLICY, WORLD, T0 + 135_001).mark == f"ask@{T0 + 100_000}"


def test_nudge__balance_used_up_just_after_a_hang_up__is_another_message() -> None:
    session = lesson(said(Kind.ENDED, 100), drained_ms=T0 + 110_000)
    policy = replace(POLICY, drain_warning_ms=5_000)
    assert given(session, 115, policy) == [(100, "ended"), (105, "drain-warning"), (110, "drained")]


def test_nudge__newer_reason_brings_an_earlier_end__is_said() -> None:
    """or names an earlier end"""
    session = lesson(left(100, Role.TUTOR), said(Kind.ENDED, 131))
    policy = replace(POLICY, nudge_window_ms=60_000)
    assert given(session, 140, policy) == [(130, "away:tutor")], "both at 190"
    silent = lesson(said(Kind.TIMEOUT, 135), left(100, Role.TUTOR))
    assert given(silent, 140, policy) == [(130, "away:tutor"), (135, "timeout")], "at 165, not at 190"


def test_nudge__first_reason_is_gone__the_second_is_said_at_once() -> None:
    """nor when the first reason doesn't stand any more"""
    session = lesson(left(100, Role.STUDENT), left(101, Role.TUTOR))
    give(session, f"away:student@{T0 + 100_000}", T0 + 130_000)
    assert decide(session, POLICY, WORLD, T0 + 140_000).action is Action.WAIT
    fold(session, Fact(9, replace(said(Kind.CONNECTED, 140), role=Role.STUDENT), KEY))
    assert decide(session, POLICY, WORLD, T0 + 140_001).mark == f"away:tutor@{T0 + 101_000}"


def test_nudge__too_old_when_the_other_was_said__does_not_become_new_by_waiting() -> None:
    policy = replace(POLICY, hints=Hints.NO, nudge_repeats=0)
    session = lesson(said(Kind.ENDED, 100), left(9_000, Role.TUTOR))
    give(session, f"away:tutor@{T0 + 9_000_000}", T0 + 9_030_000)
    for at_s in (9_031, 9_090, 9_200, 9_600):
        assert not str(decide(session, policy, WORLD, T0 + at_s * 1000).mark).startswith("ended@")


@pytest.mark.parametrize(("late_s", "is_said"), [(540, True), (540.001, False)])
def test_nudge__record_told_late__what_was_too_old_when_the_other_was_said_does_not_wait(
    late_s: float, is_said: bool
) -> None:
    """What was too old to be said even then doesn't become new by waiting."""
    policy = replace(POLICY, hints=Hints.NO, nudge_repeats=0)
    happened_ms = T0 + 100_000 - round(late_s * 1_000)
    late = replace(said(Kind.ENDED, 100, source=Source.RECORD), said_ms=happened_ms)
    session = lesson(late, left(100, Role.TUTOR))
    give(session, f"away:tutor@{T0 + 100_000}", T0 + 160_000)
    marks = [str(decide(session, policy, WORLD, T0 + at_s * 1000).mark) for at_s in (161, 220)]
    assert [mark.startswith("ended@") for mark in marks] == [False, is_said]


def test_fold__two_channels_report_one_nudge__its_time_is_that_of_the_nudge_itself() -> None:
    """a dead channel delays nothing: not the repetition either"""
    session = lesson(said(Kind.ENDED, 100))
    for at_s, more in ((101, {"outcome": "delivered", "delivered": True}), (129, {"outcome": "dropped"})):
        payload = {"mark": "m", "created_ms": T0 + 100_000, "dropped": more["outcome"] == "dropped", **more}
        fold(session, Fact(at_s, Hint(Kind.NUDGE, Source.KEEPER, Trust.PROVEN, T0 + at_s * 1000, payload=payload), KEY))
    assert session.nudged["m"] == T0 + 100_000
    assert session.reached is True


@pytest.mark.parametrize(
    ("payload", "reached", "told"),
    [
        ({"outcome": "delivered", "delivered": True}, True, True),
        ({"outcome": "sent", "delivered": None}, None, True),
        ({"outcome": "undelivered", "delivered": None}, None, False),  # other channels are still at it
        ({"outcome": "undelivered", "delivered": False}, False, False),
        ({"outcome": "dropped", "delivered": None, "dropped": True}, None, False),
    ],
)
def test_fold__outcome_of_a_nudge__says_whether_they_can_be_reached(
    payload: dict[str, object], reached: bool | None, told: bool
) -> None:
    hint = Hint(Kind.NUDGE, Source.KEEPER, Trust.PROVEN, T0 + 1000, payload={"mark": "m", **payload})
    session = lesson(hint)
    assert (session.reached, session.told) == (reached, told)


def test_fold__sent_before_and_undelivered_now__the_window_that_was_given_stays() -> None:
    """whoever was sent one has been given the window, and keeps it"""
    sent = {"mark": "m", "outcome": "sent", "delivered": None}
    missed = {"mark": "m#1", "outcome": "undelivered", "delivered": False}
    hints = [
        Hint(Kind.NUDGE, Source.KEEPER, Trust.PROVEN, T0 + at_ms, payload=payload)
        for at_ms, payload in ((1000, sent), (31_000, missed))
    ]
    assert lesson(*hints).reached is None
    assert lesson(*reversed(hints)).reached is False
