"""Making decisions again: lessons decided on by the core as the reconciler does, replayed, and supposed otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.domain.decide import Action, decide
from bot.domain.facts import Beats, Fact, Hint, Kind, Source
from bot.domain.policy import Policy
from bot.domain.replay import Decided, Difference, History, Outcome, Play, Said, check, lived, outcome
from bot.domain.rules import Feed, World
from bot.domain.saw import pack
from bot.domain.session import Session, beat, fold, give
from tests.support.sessions import KEY, T0, hint

SECOND = 1_000
HOUR_MS = T0 + 3_600_000
Kinds = list[tuple[float, str, str]]


class Lesson:
    """One lesson as it is recorded: each word is stored, and each decision that differs from the one before."""

    def __init__(self, policy: Policy | None = None, world: World | None = None) -> None:
        self.policy, self.world = policy or Policy(), world or World()
        self.session = Session(KEY, T0)
        self.facts: list[Said] = []
        self.decisions: list[Decided] = []
        self._look: int | None = None
        self.decide(T0)

    def say(self, one: Hint) -> None:
        self.until((one.received_ms - T0 - 1) / SECOND)
        fact = Fact(len(self.facts) + 1, one, KEY)
        self.facts.append(Said(fact, 0))
        fold(self.session, fact)
        self.decide(one.received_ms)

    def beats(self, *at_s: float) -> None:
        for each in at_s:
            self.until(each)
            beat(self.session, T0 + round(each * SECOND), 1, Source.WEBHOOK)

    def until(self, at_s: float) -> None:
        """Looks again at each deadline until then."""
        while self._look is not None and self._look <= T0 + at_s * SECOND:
            self.decide(self._look)

    def decide(self, now: int) -> None:
        while True:
            saw = json.loads(json.dumps(pack(self.session, self.world)))
            made = decide(self.session, self.policy, self.world, now)
            said = made.action in (Action.NUDGE, Action.ALERT)
            if said:
                give(self.session, str(made.mark), now)
            newest = self.decisions[-1] if self.decisions else None
            if said or newest is None or (newest.action, newest.reason) != (made.action, made.reason):
                inputs = dict(made.inputs) | {"mark": made.mark}
                row = Decided(0, now, made.action, made.reason, made.look_again_ms, inputs, len(self.facts), saw)
                self.decisions.append(row._replace(id=len(self.decisions) + 1))
            if not said:
                self._look = made.look_again_ms if made.action is not Action.END else None
                return

    def history(self, **more: object) -> History:
        return replace(History(KEY, self.facts, self.decisions, self.session.beats), **more)  # type: ignore[arg-type]


def by(policy: Policy | None = None) -> Callable[[int], Policy]:
    return lambda _: policy or Policy()


def steps(play: Play) -> Kinds:
    return [((at_ms - T0) / SECOND, action, reason) for at_ms, action, reason in play.steps]


def hung_up(at_s: float = 10) -> Lesson:
    """Nothing but a word that it is over, nudged about and ended."""
    lesson = Lesson()
    lesson.say(hint(Kind.ENDED, at_s))
    lesson.until(200)
    return lesson


# The record, made again ----------------------------------------------------------------------------------------------


def test_check__what_the_core_decided__is_made_again_without_a_difference() -> None:
    """the same core makes the same of them"""
    lesson = hung_up()
    lesson.world = replace(lesson.world, hold="paused")
    lesson.say(hint(Kind.DISCONNECTED, 210))
    assert [one.action for one in lesson.decisions] == ["wait", "nudge", "wait", "nudge", "wait", "end", "hold"]
    assert check(lesson.history(), by()) == (7, [])


def test_check__a_decision_is_stored_otherwise__says_which_when_and_both() -> None:
    lesson = hung_up()
    *others, end = lesson.decisions
    history = lesson.history(decisions=[*others, end._replace(reason="told")])
    was = {
        "action": "end",
        "reason": "told",
        "mark": None,
        "hold": None,
        "due_ms": T0 + 70_000,
        "look_again_ms": None,
    }
    assert check(history, by()) == (6, [Difference(6, T0 + 70_000, was, was | {"reason": "ended"})])


def test_check__an_older_keepers_decision__is_left_out_and_its_mark_known() -> None:
    """`saw` None: an older keeper's, which can't be made again"""
    lesson = hung_up()
    old = [one._replace(saw=None) if one.action == "nudge" else one for one in lesson.decisions]
    assert check(lesson.history(decisions=old), by()) == (4, [])


def test_check__fact_that_was_joined_after_a_decision__was_not_seen_by_it() -> None:
    """the newest decision before it was joined to the session"""
    lesson = Lesson()
    lesson.facts.append(Said(Fact(1, hint(Kind.ENDED, -1), KEY), 0))  # a word elsewhere
    lesson.decide(T0)
    first = lesson.decisions[0]._replace(facts_to=1)
    history = lesson.history(facts=[lesson.facts[0]._replace(joined_after=1)], decisions=[first])
    assert check(history, by()) == (1, [])
    assert len(check(replace(history, facts=[lesson.facts[0]]), by())[1]) == 1


# Played through ------------------------------------------------------------------------------------------------------


def test_lived__same_policy__goes_as_it_went() -> None:
    lesson = hung_up()
    play = lived(lesson.history(), by(), HOUR_MS)
    assert steps(play) == [
        (0, "wait", "running"),
        (10, "nudge", "ended"),
        (10, "wait", "ended"),
        (40, "nudge", "ended"),
        (70, "end", "ended"),
    ]
    assert (play.end_ms, play.reason, play.held) == (T0 + 70_000, "ended", False)


def test_lived__record_of_the_first_decision_only__goes_as_it_went() -> None:
    lesson = hung_up()
    assert lived(lesson.history(decisions=lesson.decisions[:1]), by(), HOUR_MS) == lived(
        lesson.history(), by(), HOUR_MS
    )


def test_lived__nothing_was_stored_that_can_be_made_again__nothing_is_played() -> None:
    lesson = hung_up()
    old = [one._replace(saw=None) for one in lesson.decisions]
    assert lived(lesson.history(decisions=old), by(), HOUR_MS) == Play()


def test_lived__longer_window__later_end_unless_somebody_ends_it_before() -> None:
    history = hung_up().history()
    longer = by(Policy(nudge_window_ms=90_000))
    assert lived(history, longer, HOUR_MS).end_ms == T0 + 100_000
    others = replace(history, ended_at=T0 // 1000 + 100)  # in the very moment
    assert lived(others, longer, HOUR_MS).end_ms is None
    assert lived(replace(others, ended_at=T0 // 1000 + 101), longer, HOUR_MS).end_ms == T0 + 100_000
    assert lived(others, longer, T0 + 50_000).end_ms is None
    assert lived(replace(others, ended_at=T0 // 1000 + 101), longer, T0 + 30_000).steps[-1][1] == "wait"
    assert lived(replace(others, by_keeper=True), longer, HOUR_MS).end_ms == T0 + 100_000


@pytest.mark.parametrize(("timeout_s", "arm_count", "nudged_ms"), [(9, 3, 69_000), (9, 5, 89_000), (12, 3, 132_001)])
def test_lived__heartbeats_between_what_was_stored__are_taken_as_evenly_spaced(
    timeout_s: int, arm_count: int, nudged_ms: int
) -> None:
    """between two that were stored they are taken as evenly spaced"""
    lesson = Lesson()
    lesson.beats(0, 10, 60)
    lesson.decisions.append(lesson.decisions[0]._replace(id=2, at_ms=T0 + 60_000, saw=pack(lesson.session, World())))
    history = lesson.history(beats=Beats(9, T0, T0 + 120_001))
    policy = Policy(heartbeat_timeout_ms=timeout_s * SECOND, heartbeat_arm_count=arm_count)
    nudges = [step for step in lived(history, by(policy), HOUR_MS).steps if step[1] == "nudge"]
    assert nudges[0] == (T0 + nudged_ms, "nudge", "silence")


@pytest.mark.parametrize("since", [(1, 2, 3), (2, 3), (3,)], ids=str)
def test_lived__one_heartbeat_more_than_was_stored__is_played_too(since: tuple[int, ...]) -> None:
    lesson = Lesson()
    lesson.decisions[0] = lesson.decisions[0]._replace(saw={"started_ms": T0, "world": {"feed": {}}})  # an older one
    for count in since[:-1]:
        saw = pack(Session(KEY, T0, beats=Beats(count, T0, T0 + 20_000 * (count - 1))), World())
        lesson.decisions.append(lesson.decisions[0]._replace(id=1 + count, at_ms=T0 + 20_000 * count, saw=saw))
    history = lesson.history(beats=Beats(3, T0, T0 + 40_000))
    assert lived(history, by(), HOUR_MS).end_ms == T0 + 130_000


@pytest.mark.parametrize(("count", "armed"), [(9, True), (10, False)])
def test_lived__heartbeats__are_each_counted_once(count: int, armed: bool) -> None:
    lesson = Lesson()
    lesson.beats(0, 10, 60)
    lesson.decide(T0 + 60_000)
    saw = pack(lesson.session, World())
    first = lesson.decisions[0]._replace(at_ms=T0 + 60_000, saw=saw)  # the first that is known saw three of them
    history = lesson.history(decisions=[first], beats=Beats(9, T0, T0 + 120_000))
    play = lived(history, by(Policy(heartbeat_arm_count=count)), HOUR_MS)
    assert (play.end_ms == T0 + 210_000) is armed
    assert (play.end_ms is not None) is armed


def test_lived__its_end_by_somebody_else_is_all_that_was_decided_on__is_played_until_then() -> None:
    lesson = Lesson()
    lesson.facts.append(Said(Fact(1, hint(Kind.ENDED, 10), KEY), 0))
    fold(lesson.session, lesson.facts[0].fact)
    lesson.session.ended = True
    lesson.decisions.clear()
    lesson.decide(T0 + 90_000)
    assert [one.action for one in lesson.decisions] == ["close"]
    history = lesson.history(ended_at=T0 // 1000 + 90)
    assert lived(history, by(Policy(nudge_window_ms=0)), HOUR_MS).end_ms == T0 + 40_000


def test_lived__word_that_was_joined_late__counts_from_then() -> None:
    lesson = hung_up()
    late = Said(lesson.facts[0].fact, 5)
    lesson.decisions[1:] = [lesson.decisions[0]._replace(id=5, at_ms=T0 + 100_000)]
    play = lived(lesson.history(facts=[late]), by(), HOUR_MS)
    assert [one for one in steps(play) if one[1] != "wait"] == [(100, "end", "ended")]


def test_lived__answer_in_the_very_moment_in_which_the_end_falls_due__counts() -> None:
    lesson = hung_up()
    answer = Said(Fact(2, hint(Kind.STILL_HERE, 70, Source.PARTICIPANT), KEY), 0)
    decided = lesson.decisions[:-1]
    assert lived(lesson.history(facts=[*lesson.facts, answer], decisions=decided), by(), HOUR_MS).end_ms is None


def test_lived__two_words_in_one_moment__in_the_order_in_which_they_were_stored() -> None:
    lesson = hung_up()
    again = Said(Fact(2, hint(Kind.STILL_HERE, 10, Source.PARTICIPANT), KEY), 0)
    assert lived(lesson.history(facts=[*lesson.facts, again]), by(), HOUR_MS).end_ms is None
    assert lived(lesson.history(facts=[again, *lesson.facts]), by(), HOUR_MS).end_ms == T0 + 70_000


def test_lived__paused_and_resumed__was_held_and_ends_by_the_rule_that_ended_it() -> None:
    lesson = Lesson()
    lesson.say(hint(Kind.ENDED, 10))
    lesson.world = World(hold="paused")
    lesson.say(hint(Kind.READY, 20))
    lesson.decisions.append(
        lesson.decisions[-1]._replace(id=9, at_ms=T0 + 20_000, saw=pack(lesson.session, lesson.world))
    )
    lesson.until(150)
    assert lesson.decisions[-1].action == "hold"
    held = lived(lesson.history(), by(), HOUR_MS)
    assert (held.held, held.end_ms, held.reason) == (True, None, None)
    lesson.world = World()
    lesson.say(hint(Kind.SETTLE, 200, Source.OPERATOR))
    play = lived(lesson.history(), by(), HOUR_MS)
    assert (play.held, play.end_ms, play.reason) == (True, T0 + 200_000, "ended")
    assert check(lesson.history(decisions=[one for one in lesson.decisions if one.id != 9]), by())[1] == []


def test_lived__chain_and_feed_as_later_decisions_saw_them__are_known_from_then() -> None:
    lesson = Lesson()
    lesson.session.drained_ms = T0 + 500_000
    lesson.beats(0, 20, 40)
    lesson.world = World(Feed(until_ms=T0 + 45_000))  # no silence can be proven any more
    seen = lesson.decisions[0]._replace(id=2, at_ms=T0 + 50_000, saw=pack(lesson.session, lesson.world))
    lesson.decisions.append(seen)
    play = lived(lesson.history(), by(), HOUR_MS)
    assert {reason for _, action, reason in steps(play) if action != "wait"} == {"drained"}
    assert play.end_ms == T0 + 800_000


def test_lived__restarted_with_another_policy__each_stretch_by_its_own() -> None:
    lesson = Lesson()
    lesson.decisions.append(lesson.decisions[0]._replace(id=2, at_ms=T0 + 5_000))
    lesson.say(hint(Kind.ENDED, 10))
    kept = lesson.decisions[:2]
    play = lived(
        lesson.history(decisions=kept), lambda number: Policy(nudge_window_ms=(99, 40)[number - 1] * SECOND), HOUR_MS
    )
    assert play.end_ms == T0 + 50_000


# What became of it ---------------------------------------------------------------------------------------------------

TILL = T0 + 900_000
NUDGED = [(T0, "wait", "running"), (T0, "nudge", "ended"), (T0 + 1, "nudge", "away"), (T0 + 2, "end", "ended")]


@pytest.mark.parametrize(
    ("end_s", "other_s", "by_keeper", "expected"),
    [
        (70, None, False, (75, "ended")),
        (None, None, False, (900, None)),
        (None, 60, False, (60, None)),  # somebody else's end
        (70, 60, False, (60, None)),
        (70, 75, False, (75, None)),  # in the same moment: nothing was gained
        (70, 80, False, (75, "ended")),
        (70, 60, True, (75, "ended")),  # ours: without it, the lesson would have gone on
        (None, 60, True, (900, None)),
    ],
)
def test_outcome__our_end_and_somebody_elses__the_earlier(
    end_s: int | None, other_s: int | None, by_keeper: bool, expected: tuple[int, str | None]
) -> None:
    """our end `lag_ms` after it fell due, or somebody else's before"""
    ended_at = None if other_s is None else T0 // 1000 + other_s
    history = History(KEY, (), (), Beats(), ended_at=ended_at, by_keeper=by_keeper)
    play = Play(NUDGED, None if end_s is None else T0 + end_s * SECOND, "ended")
    end_ms, rule = T0 + expected[0] * SECOND, expected[1]
    assert outcome(history, play, 5_000, TILL) == Outcome(end_ms, rule, 2)
