"""What a decision saw, stored and read back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from bot.domain.facts import Beats, Fact, Kind, Source
from bot.domain.policy import Hints, Policy
from bot.domain.rules import Feed, World
from bot.domain.saw import know_chain, pack, policy_of, session_of, world_of
from bot.domain.session import Session
from tests.support.sessions import KEY, T0, beating, hint, lesson

WORLD = World(
    Feed(since_ms=3, until_ms=9, sole_room=True),
    reachable=False,
    direct=False,
    hold="paused",
    others_due_ms=(5, 7),
    mass_end_ms=11,
)


def stored(session: Session, world: World = WORLD) -> dict[str, Any]:
    """As it is read back from the database."""
    said: dict[str, Any] = json.loads(json.dumps(pack(session, world)))
    return said


def test_session_of__what_was_packed_and_the_facts_before__is_the_same() -> None:
    """a session of which `decide` makes the same"""
    words = [hint(Kind.DISCONNECTED, 15), hint(Kind.ENDED, 50), hint(Kind.TIMEOUT, 12)]
    plain = {"ended": True, "counts_from_ms": T0 + 1, "reported": True, "rate": 10**30, "drained_ms": T0 + 9}
    seen = lesson(*beating(40), *words, nudged={"ended@1": T0 + 60_000}, beat_source=None, **plain)
    facts = [Fact(number, one, KEY) for number, one in enumerate(words)]
    assert session_of(stored(seen), KEY, facts, seen.nudged) == seen


def test_session_of__no_heartbeats__is_not_hearing_of_it() -> None:
    assert session_of(stored(Session(KEY, T0)), KEY, (), {}) == Session(KEY, T0)


def test_session_of__heartbeats_alone__are_hearing_of_it() -> None:
    again = session_of(stored(lesson(*beating(40))), KEY, (), {})
    assert (again.heard, again.beats) == (True, Beats(5, T0, T0 + 40_000))


def test_session_of__mark_that_a_fact_gave_already__keeps_its_time() -> None:
    fact = Fact(1, hint(Kind.ALERT, 5, Source.KEEPER, payload={"mark": "m"}), KEY)
    assert session_of({"started_ms": T0}, KEY, [fact], {"m": 1, "n": 2}).nudged == {"m": T0 + 5_000, "n": 2}


def test_world_of__what_was_packed__is_the_same() -> None:
    assert world_of(stored(lesson())) == WORLD


def test_know_chain__an_older_keepers__leaves_what_it_didnt_keep() -> None:
    """What an older keeper didn't keep has its default."""
    session = lesson(rate=5, drained_ms=7)
    know_chain(session, {"rate": 6, "unknown": 1})
    assert (session.started_ms, session.rate, session.drained_ms) == (T0, 6, 7)


@pytest.mark.parametrize(
    "policy", [Policy(hints=Hints.NO), Policy(nudge_window_ms=1, end_orphans=True, mass_end_share=0.25)], ids=str
)
def test_policy_of__its_json__is_the_same(policy: Policy) -> None:
    assert policy_of(json.loads(json.dumps(asdict(policy)))) == policy


def test_policy_of__an_older_or_a_newer_keepers__defaults_for_what_isnt_there() -> None:
    """What an older keeper didn't keep has its default."""
    assert policy_of({"nudge_window_ms": 9, "not_known_here": 1}) == Policy(nudge_window_ms=9)


def test_world_of__an_older_or_a_newer_keepers__defaults_for_what_isnt_there() -> None:
    said = {"world": {"feed": {"since_ms": 4, "new": 1}, "others_due_ms": [1], "new": [2]}}
    assert world_of(said) == World(Feed(since_ms=4), others_due_ms=(1,))
