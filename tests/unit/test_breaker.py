"""The mass-end breaker, and what `decide` holds while it is tripped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.domain.breaker import HOLD, WINDOW_MS, Breaker
from bot.domain.decide import Action, Decision, decide
from bot.domain.facts import Kind, Source
from bot.domain.policy import Policy
from bot.domain.session import Session
from tests.support.sessions import T0, beating, hint, lesson
from tests.unit.test_decide import POLICY, WORLD, at

NOW = T0 + 1_000_000


def noted(
    count: int, *, active: int, breaker: Breaker[int] | None = None, now: int = NOW, since: int = 1
) -> int | None:
    """The count at which `count` ends, one after the other, trip it."""
    breaker = breaker or Breaker()
    for key in range(since, since + count):
        tripped = breaker.note([(key, now - 60_000)], active, POLICY, now)
        if tripped is not None:
            return tripped
    return None


@pytest.mark.parametrize(
    ("ends", "active", "trips"),
    [(10, 10, None), (11, 11, 11), (11, 21, 11), (11, 22, None), (12, 22, 12), (500, 1_000, None), (501, 1_000, 501)],
)
def test_note__count_and_share__trips_when_both_are_exceeded(ends: int, active: int, trips: int | None) -> None:
    """more than MASS_END_COUNT ends were decided and they are more than MASS_END_SHARE of the active sessions"""
    assert noted(ends, active=active) == trips


def test_note__ends_at_once__count_together() -> None:
    assert Breaker[int]().note([(key, NOW - 1) for key in range(11)], 11, POLICY, NOW) == 11


@pytest.mark.parametrize(("after_ms", "trips"), [(WINDOW_MS - 1, 11), (WINDOW_MS, None)])
def test_note__ends_spread_over_time__only_those_of_the_window_count(after_ms: int, trips: int | None) -> None:
    breaker = Breaker[int]()
    assert noted(6, active=11, breaker=breaker) is None
    assert noted(5, active=11, breaker=breaker, now=NOW + after_ms, since=7) == trips


def test_note__one_session_decided_again_and_again__counts_once() -> None:
    breaker = Breaker[int]()
    for _ in range(50):
        assert breaker.note([(1, NOW - 1)], 1, POLICY, NOW) is None


def test_note__released_ends_fall_due_together__dont_trip_it_again() -> None:
    """What was held once and released doesn't trip it again."""
    breaker = Breaker[int]()
    assert noted(11, active=11, breaker=breaker) == 11
    breaker.release(NOW + 1_000)
    assert breaker.tripped_ms is None
    later = NOW + 2_000
    assert breaker.note([(key, NOW - 60_000) for key in range(11)], 11, POLICY, later) is None
    assert breaker.note([(key, NOW + 1_500) for key in range(11)], 11, POLICY, later) == 11, "a new wave does"


def test_note__a_second_wave_while_tripped__trips_it_anew() -> None:
    breaker = Breaker[int]()
    assert noted(11, active=30) is None
    assert noted(16, active=30, breaker=breaker) == 16
    later = NOW + 100_000
    assert breaker.note([(key, NOW + 50_000) for key in range(16)], 30, POLICY, later) == 16
    assert breaker.tripped_ms == later


# What is held --------------------------------------------------------------------------------------------------------

TRIPPED = replace(WORLD, mass_end_ms=at(200))
ENDED = hint(Kind.ENDED, 100, Source.SOCKET)


def look(session: Session, seconds: float, policy: Policy = POLICY) -> Decision:
    return decide(session, policy, TRIPPED, at(seconds))


def test_decide__breaker_tripped__what_it_rests_on_from_before_is_held() -> None:
    """What rests on evidence from before it tripped is held"""
    decision = look(lesson(ENDED), 201)
    assert (decision.action, decision.reason, decision.inputs["hold"]) == (Action.HOLD, "ended", HOLD)
    assert look(lesson(*beating(100)), 201).inputs["hold"] == HOLD
    assert look(lesson(drained_ms=at(-400)), 201).inputs["hold"] == HOLD


@pytest.mark.parametrize("source", [Source.OPERATOR, Source.PARTICIPANT])
def test_decide__breaker_tripped__a_signature_or_an_operator_ends_all_the_same(source: Source) -> None:
    """Ends by a participant's signature or an operator's `settle` don't count [and aren't held]"""
    assert look(lesson(ENDED, hint(Kind.SETTLE, 150, source)), 201).action is Action.END


@pytest.mark.parametrize(
    "later",
    [
        hint(Kind.ENDED, 210, Source.SOCKET, payload={"n": 2}),
        hint(Kind.DISCONNECTED, 210, Source.WEBHOOK, can_return=True),
        hint(Kind.TIMEOUT, 210, Source.SOCKET),
    ],
    ids=lambda one: one.kind,
)
def test_decide__breaker_tripped_and_later_evidence_of_its_own__ends(later: object) -> None:
    """until the session has evidence of its own from after that"""
    assert look(lesson(ENDED, later), 400).action is Action.END  # type: ignore[arg-type]


@pytest.mark.parametrize(("ended_s", "action"), [(200, Action.HOLD), (200.001, Action.END)])
def test_decide__breaker_tripped_in_the_very_moment_of_the_evidence__held(ended_s: float, action: Action) -> None:
    """until the session has evidence of its own from after that"""
    assert look(lesson(hint(Kind.ENDED, ended_s)), 300).action is action


def test_decide__breaker_tripped_and_a_sign_of_life_that_anybody_could_send__releases_nothing() -> None:
    """An unauthenticated word never makes an end due."""
    session = lesson(*beating(100), hint(Kind.HEARTBEAT, 210, Source.OPEN_WEBHOOK))
    assert look(session, 1_000).inputs.get("hold") == HOLD


def test_decide__breaker_tripped_and_two_reasons_of_later__the_earlier_end_is_named() -> None:
    """the earliest due end that nothing holds wins"""
    session = lesson(hint(Kind.ENDED, 150), hint(Kind.ENDED, 210), hint(Kind.TIMEOUT, 211))
    made = look(session, 300)
    assert (made.action, made.reason, made.due_ms) == (Action.END, "ended", at(210))
    made = look(lesson(hint(Kind.ENDED, 210), hint(Kind.TIMEOUT, 211)), 300)
    assert (made.action, made.reason, made.due_ms) == (Action.END, "timeout", at(241))


def test_decide__breaker_tripped_then_alive_then_silent__its_own_later_silence_ends_it() -> None:
    session = lesson(*beating(300))
    assert look(session, 389).action is not Action.END
    assert look(session, 390).action is Action.END


def test_decide__breaker_tripped_and_silent_since__ends_after_the_longest_hold() -> None:
    """if it has been silent since, MASS_HOLD_MAX_S have passed"""
    assert look(lesson(ENDED), 1_099.999).action is Action.HOLD
    assert look(lesson(ENDED), 1_100).action is Action.END
    assert look(lesson(ENDED), 201).look_again_ms == at(1_100)


def test_decide__breaker_tripped_and_not_silent_since__is_held_for_good() -> None:
    session = lesson(
        *beating(100), hint(Kind.DISCONNECTED, 100, Source.WEBHOOK, role="student", can_return=True), *beats_from(210)
    )
    for seconds in (1_100, 5_000):
        assert look(session, seconds).inputs.get("hold") == HOLD
        assert look(session, seconds).look_again_ms is None, "nothing but news changes it"


@pytest.mark.parametrize(("alive_s", "action"), [(200, Action.END), (200.001, Action.HOLD)])
def test_decide__breaker_tripped_in_the_very_moment_of_a_sign_of_life__silent_since(
    alive_s: float, action: Action
) -> None:
    """if it has been silent since"""
    session = lesson(hint(Kind.DISCONNECTED, 100, role="student", can_return=True), hint(Kind.HEARTBEAT, alive_s))
    assert look(session, 1_100).action is action


def beats_from(start_s: float) -> list[object]:
    return [hint(Kind.HEARTBEAT, start_s + 10 * number) for number in range(480)]
