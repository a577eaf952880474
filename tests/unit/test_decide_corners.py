"""What a mutation run found that no unit test noticed: corners of the rules where two conditions meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.domain.decide import Action, decide
from bot.domain.facts import Kind, Role, Source
from bot.domain.policy import Hints, Policy
from bot.domain.rules import Feed, World
from bot.domain.session import Session
from tests.support.sessions import T0, beating, hint, lesson, nudged
from tests.unit.test_decide import ENDED, OPEN, POLICY, WORLD, at, away, first, look

SOLE = World(feed=replace(OPEN, sole_room=True))


def test_connection_lost__of_the_only_room_heard__counts_only_after_the_long_silence() -> None:
    # The feed went down with the room, so that no return could have been seen.
    gone = World(feed=Feed(OPEN.since_ms, at(105), sole_room=True))
    lost = lesson(away(Role.STUDENT))
    assert first(lost, Action.NUDGE, gone) == 100 + POLICY.sole_room_timeout_ms / 1000
    assert first(lost, Action.END, gone) == (100_000 + POLICY.sole_room_timeout_ms + POLICY.nudge_window_ms) / 1000
    assert look(lost, 200, gone).inputs["waits_for"] is None


def test_connection_lost__why_there_is_no_due_time__is_told() -> None:
    down = World(feed=Feed(OPEN.since_ms, at(105)))
    assert look(lesson(away(Role.STUDENT)), 110, down).inputs["waits_for"] == "feed-down"
    never_back = lesson(away(Role.STUDENT, can_return=False), nudged(130, f"away:student@{at(100)}"))
    assert look(never_back, 140).inputs["waits_for"] == "end-or-timeout"
    assert look(lesson(away(Role.STUDENT)), 110).inputs["waits_for"] is None


def test_silence__of_the_only_room__ends_at_the_later_of_both_limits() -> None:
    short = replace(POLICY, sole_room_timeout_ms=60_000)
    assert first(lesson(*beating(100)), Action.END, SOLE, short) == 100 + 60 + 30


def test_silence__broken_by_a_return_that_is_no_heartbeat__counts_from_it() -> None:
    back = lesson(*beating(100), hint(Kind.CONNECTED, 120, Source.WEBHOOK, role=Role.STUDENT))
    assert first(back, Action.END) == 120 + 60 + 30


def test_told__while_another_session_of_the_student_is_due_later__waits_for_nobody() -> None:
    said = lesson(hint(Kind.SETTLE, 100, Source.OPERATOR))
    world = replace(WORLD, others_due_ms=(at(130),))
    assert first(said, Action.END, world) == 100


@pytest.mark.parametrize(("other_s", "end_s"), [(200, 200), (220, 220), (221, 160)])
def test_two_sessions_of_a_student__due_within_the_window__the_first_waits_for_the_second(
    other_s: int, end_s: int
) -> None:
    world = replace(WORLD, others_due_ms=(at(other_s),))
    assert first(lesson(ENDED), Action.END, world) == end_s


def test_contradiction__and_the_backends_word_is_not_enough__never_ends_by_the_cap() -> None:
    """TRUST_BACKEND_HINTS=no: a contradiction rests on the backend's word as the report does."""
    strict = replace(POLICY, hints=Hints.NO)
    asked = lesson(*beating(100), ENDED, *(hint(Kind.HEARTBEAT, s) for s in range(110, 800, 10)))
    asked = replace(asked, asked_ms=at(140))
    assert first(asked, Action.END) == 700
    assert first(asked, Action.END, WORLD, strict) == 790 + 60 + 30  # not before the heartbeats fall silent
    assert look(asked, 300).inputs["waits_for"] == "answer"


def test_held_by_the_breaker__sign_of_life_since__is_not_released_by_time() -> None:
    """for those silent since after `MASS_HOLD_MAX_S`"""
    tripped = replace(WORLD, mass_end_ms=at(150))
    late = 150 + POLICY.mass_hold_max_ms / 1000
    silent = lesson(ENDED)
    assert look(silent, late - 1, tripped).action is Action.HOLD
    assert look(silent, late - 1, tripped).look_again_ms == at(late)
    assert look(silent, late, tripped).action is Action.END
    for field in ("life_ms", "still_here_ms"):
        alive = replace(lesson(ENDED), **{field: at(151)})
        decision = decide(alive, POLICY, tripped, at(late))
        assert decision.action is not Action.END, field


def test_held__the_end_that_is_due_and_when_it_tripped__are_in_the_record() -> None:
    tripped = replace(WORLD, mass_end_ms=at(150))
    held = look(lesson(ENDED), 170, tripped)
    assert (held.inputs["hold"], held.inputs["mass_end_ms"], held.due_ms) == ("mass-end", at(150), at(160))
    paused = look(lesson(ENDED), 170, replace(WORLD, hold="paused"))
    assert (paused.inputs["hold"], paused.due_ms) == ("paused", at(160))


def test_ended__while_nobody_can_be_reached__not_within_the_grace_of_a_participants_own_word() -> None:
    """a session that a participant's signature … show[s] alive within the grace is never ended by a hint"""
    still = hint(Kind.STILL_HERE, 120, Source.PARTICIPANT)
    said = lesson(*beating(100), still, hint(Kind.ENDED, 121, Source.SOCKET))
    assert first(said, Action.END, replace(WORLD, reachable=False)) == 120 + 30


def test_ended__while_nobody_can_be_reached__not_within_the_grace_of_a_return() -> None:
    """a session that … show[s] alive within the grace is never ended by a hint"""
    back = hint(Kind.CONNECTED, 125, Source.WEBHOOK)
    other_first = replace(WORLD, reachable=False, others_due_ms=(at(100),))  # without the backend's head start
    assert first(lesson(hint(Kind.ENDED, 100), back), Action.END, other_first) == 125 + 30
    assert first(lesson(hint(Kind.ENDED, 100)), Action.END, other_first) == 100 + 30


@pytest.mark.parametrize(
    ("session", "evidence_s"),
    [
        (lesson(hint(Kind.SETTLE, 100, Source.OPERATOR)), 100),
        (lesson(ENDED, hint(Kind.ENDED, 110)), 110),
        (lesson(hint(Kind.TIMEOUT, 100), hint(Kind.TIMEOUT, 110)), 110),
        (lesson(away(Role.STUDENT), hint(Kind.DISCONNECTED, 110, role=Role.STUDENT)), 110),
        (lesson(*beating(100), hint(Kind.HEARTBEAT, 130, Source.OPEN_WEBHOOK)), 100),
        (lesson(*beating(900), ENDED, nudged(131, f"ask@{at(100)}", ask=True)), 131),
        (lesson(*beating(900), ENDED, hint(Kind.ENDED, 140), nudged(131, f"ask@{at(100)}", ask=True)), 140),
        (lesson(drained_ms=at(100)), 100),
        (lesson(), 7_200),
    ],
    ids=["told", "ended", "timeout", "away", "silence", "asked", "asked, and said again", "drained", "orphan"],
)
def test_decide__end_by_each_rule__names_the_newest_that_it_rests_on(session: Session, evidence_s: float) -> None:
    """the session has evidence of its own from after [the mass-end breaker tripped]"""
    seconds = first(session, Action.END, policy=replace(POLICY, end_orphans=True))
    assert seconds is not None
    made = decide(session, replace(POLICY, end_orphans=True), WORLD, at(seconds))
    assert made.inputs["evidence_ms"] == made.evidence_ms == at(evidence_s)


@pytest.mark.parametrize(
    ("session", "world", "by", "due_s"),
    [
        (lesson(ENDED), WORLD, None, 160),
        (lesson(ENDED), replace(WORLD, reachable=False), None, 130),
        (lesson(hint(Kind.ENDED, 100), hint(Kind.PAYING, 130, Source.CHAIN)), WORLD, "paying", 175),
        (lesson(ENDED, hint(Kind.PAYING, 115, Source.CHAIN)), WORLD, None, 160),
        (lesson(ENDED), replace(WORLD, others_due_ms=(at(190), at(210), at(221))), "other-session", 210),
        (lesson(ENDED), replace(WORLD, others_due_ms=(at(160),)), None, 160),
    ],
)
def test_decide__end_later_than_the_rule_says__names_what_puts_it_off(
    session: Session, world: World, by: str | None, due_s: float
) -> None:
    """What puts an end off beyond what its rule says, and which of them does."""
    made = look(session, due_s, world)
    assert (made.action, made.due_ms, made.inputs.get("put_off_by")) == (Action.END, at(due_s), by)


def test_decide__backend_has_its_head_start__names_it() -> None:
    short = replace(POLICY, nudge_window_ms=0, disconnect_grace_ms=1_000)
    made = look(lesson(ENDED), 112, policy=short)
    assert (made.action, made.inputs["put_off_by"]) == (Action.END, "backend")
    assert "put_off_by" not in look(lesson(ENDED), 112, replace(WORLD, direct=False), short).inputs
    just = replace(short, backend_head_start_ms=1_000)
    assert "put_off_by" not in look(lesson(ENDED), 112, policy=just).inputs


def test_decide__what_changes_a_clock_now_and_then__is_in_the_record_by_name() -> None:
    """`inputs` are the values that it saw"""
    session = lesson(
        *beating(40),
        hint(Kind.STILL_HERE, 42, Source.PARTICIPANT),
        hint(Kind.HEARTBEAT, 43, Source.OPEN_WEBHOOK),
        nudged(131, "ask", ask=True),
        reported=True,
    )
    seen = {
        "still_here_ms": at(42),
        "weak_life_ms": at(43),
        "asked_ms": at(131),
        "reachable": False,
        "reported": True,
        "sole_room": True,
        "feed_since_ms": at(1),
        "feed_until_ms": at(2),
    }
    world = World(Feed(at(1), at(2), sole_room=True), reachable=False)
    assert seen.items() <= look(session, 140, world).inputs.items()
    assert not seen.keys() & look(lesson(*beating(40)), 41).inputs.keys()
    assert "feed_since_ms" not in look(lesson(*beating(40)), 41, World(Feed(T0))).inputs
    unheard = look(lesson(ENDED), 140, World(Feed(at(1), at(2)))).inputs  # no clock of it reads silence
    assert not {"feed_since_ms", "feed_until_ms"} & unheard.keys()
    lost = look(lesson(away()), 140, World(Feed(at(1)))).inputs
    assert lost["feed_since_ms"] == at(1)


def test_decide__end__records_what_it_saw_by_name() -> None:
    """`inputs` are the values that it saw: `explain` shows them, and the mass-end breaker reads the evidence's time"""
    session = lesson(
        hint(Kind.CONNECTED, 1),
        hint(Kind.HEARTBEAT, 2),
        hint(Kind.ENDED, 10),
        hint(Kind.TIMEOUT, 11),
        hint(Kind.DISCONNECTED, 12, role=Role.TUTOR),
        hint(Kind.DISCONNECTED, 13),
        drained_ms=T0 + 900_000,
        reached=True,
    )
    made = decide(session, Policy(), World(), T0 + 71_000)
    assert (made.action, made.reason) == (Action.END, "timeout")  # the earliest of those that are due
    assert dict(made.inputs) == {
        "started_ms": T0,
        "ended_hint_ms": T0 + 10_000,
        "timeout_hint_ms": T0 + 11_000,
        "beats": 1,
        "last_beat_ms": T0 + 2_000,
        "life_ms": T0 + 1_000,
        "drained_ms": T0 + 900_000,
        "reached": True,
        "away_tutor_ms": T0 + 12_000,
        "away_unknown_ms": T0 + 13_000,
        "since_ms": T0 + 11_000,
        "waits_for": None,
        "due_ms": T0 + 41_000,
        "evidence_ms": T0 + 13_000,
    }
    later = decide(session, Policy(), World(mass_end_ms=T0 + 1), T0 + 71_000)
    assert (later.action, later.inputs["mass_end_ms"]) == (Action.END, T0 + 1)
    assert "put_off_by" not in made.inputs
    assert "evidence_ms" not in decide(session, Policy(), World(), T0 + 14_000).inputs
