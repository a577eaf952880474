"""A nudge is repeated with backoff while its rule stands, and no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.domain.decide import Action, decide
from bot.domain.facts import Fact, Hint, Kind, SessionKey, Source, Trust
from bot.domain.policy import Policy
from bot.domain.rules import World
from bot.domain.session import Session, fold

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
    session, now, found = replace(session, nudged=dict(session.nudged)), T0, []
    while now <= T0 + until_s * 1000:
        decision = decide(session, policy, world, now)
        if decision.action in (Action.NUDGE, Action.ALERT):
            session.nudged[str(decision.mark)] = now
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
    session.nudged[f"away@{T0 + 100_000}"] = T0 + 185_000
    at_ms = T0 + 185_001
    world = replace(WORLD, hold="paused")
    long = replace(POLICY, nudge_window_ms=600_000)
    assert decide(session, long, world, at_ms).action is Action.WAIT
    assert decide(session, long, world, T0 + 215_000).mark == f"away@{T0 + 100_000}#1"


def test_nudge__its_reason_is_gone__is_not_repeated() -> None:
    session = lesson(said(Kind.DISCONNECTED, 100))
    session.nudged[f"away@{T0 + 100_000}"] = T0 + 130_000
    fold(session, Fact(9, said(Kind.CONNECTED, 140), KEY))
    assert decide(session, POLICY, WORLD, T0 + 160_000).action is Action.WAIT


@pytest.mark.parametrize("ended_s", [100, 129.9])
def test_nudge__session_has_ended_on_chain__is_not_repeated(ended_s: float) -> None:
    """stopped the moment the chain shows the end"""
    session = lesson(said(Kind.ENDED, 100))
    session.nudged[f"ended@{T0 + 100_000}"] = T0 + 100_000
    session.ended = True
    assert decide(session, POLICY, WORLD, T0 + 130_000).action is Action.CLOSE


def test_nudge__word_that_anybody_could_say__once() -> None:
    weak = said(Kind.ENDED, 100, Trust.ANONYMOUS, Source.OPEN_WEBHOOK)
    assert given(lesson(weak), 5000) == [(100, "anonymous-end")]


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
