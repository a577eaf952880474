"""What the facts make of a session, kind by kind and trust by trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.domain.facts import Beats, Fact, Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.session import EARLY_MS, Session, Word, adopt, beat, fold
from tests.support.sessions import KEY, T0, beating, hint, lesson, nudged

WHO = {
    Trust.ANONYMOUS: Source.OPEN_WEBHOOK,
    Trust.MAPPING: Source.REDIS,
    Trust.CONFIGURED: Source.WEBHOOK,
    Trust.PROVEN: Source.PARTICIPANT,
}


def changed(kind: Kind, trust: Trust) -> set[str]:
    """Which fields one fact of this kind and trust changes in a lesson that has heartbeats and a lost student."""
    before = lesson(*beating(100), hint(Kind.DISCONNECTED, 110, role=Role.STUDENT))
    before.heard = False
    after = replace(before)
    fold(after, Fact(9_999, hint(kind, 120, WHO[trust], role=Role.STUDENT), KEY))
    return {name for name in Session.__slots__ if getattr(before, name) != getattr(after, name)}


A, M, C, P = Trust.ANONYMOUS, Trust.MAPPING, Trust.CONFIGURED, Trust.PROVEN
NOTHING: set[str] = set()
BACK = {"away", "life_ms"}
# kind -> what it changes at each trust, apart from `heard`, which everything off chain sets
TABLE: dict[Kind, dict[Trust, set[str]]] = {
    Kind.READY: {A: NOTHING, M: NOTHING, C: NOTHING, P: NOTHING},
    Kind.MAPPING: {A: NOTHING, M: NOTHING, C: NOTHING, P: NOTHING},
    Kind.CONNECTED: {A: {"weak_life_ms"}, M: NOTHING, C: BACK, P: BACK},
    Kind.HEARTBEAT: {A: {"weak_life_ms"}, M: NOTHING, C: {"beats"}, P: {"beats", "beat_source"}},
    Kind.ENDED: {A: {"weak_end"}, M: NOTHING, C: {"ends"}, P: {"ends"}},
    Kind.DISCONNECTED: {A: NOTHING, M: NOTHING, C: NOTHING, P: NOTHING},  # the same role is away already
    Kind.TIMEOUT: {A: NOTHING, M: NOTHING, C: {"timeouts"}, P: {"timeouts"}},
    Kind.STILL_HERE: {A: NOTHING, M: NOTHING, C: NOTHING, P: {"still_here_ms", "away"}},
    Kind.SETTLE: {A: NOTHING, M: NOTHING, C: NOTHING, P: {"settle"}},
}


@pytest.mark.parametrize("kind", TABLE, ids=str)
@pytest.mark.parametrize("trust", Trust, ids=lambda trust: trust.name.lower())
def test_fold__kind_at_trust__changes_what_its_trust_allows(kind: Kind, trust: Trust) -> None:
    """a fact that its trust doesn't allow to count is ignored or counts as weak"""
    assert changed(kind, trust) - {"heard", "word_ms"} == TABLE[kind][trust]


def test_fold__loss_of_another_role__is_away_too() -> None:
    session = lesson(*(hint(Kind.DISCONNECTED, 100, role=role) for role in (Role.STUDENT, Role.TUTOR)))
    assert set(session.away) == {Role.STUDENT, Role.TUTOR}


def test_fold__loss_said_first_by_a_source_that_cannot_return__the_better_source_replaces_it() -> None:
    """connection lost, by a source that could also report the return"""
    session = lesson(
        hint(Kind.DISCONNECTED, 100, Source.SOCKET),
        hint(Kind.DISCONNECTED, 101, Source.WEBHOOK, can_return=True),
        hint(Kind.DISCONNECTED, 102, Source.SOCKET),
    )
    assert session.away[None].can_return
    assert session.away[None].at_ms == T0 + 101_000


def test_fold__return_of_the_other_role__stays_away() -> None:
    session = lesson(hint(Kind.DISCONNECTED, 100, role=Role.STUDENT), hint(Kind.CONNECTED, 110, role=Role.TUTOR))
    assert set(session.away) == {Role.STUDENT}


def test_fold__connection_of_before_the_loss_told_late__stays_away() -> None:
    session = lesson(hint(Kind.DISCONNECTED, 100, role=Role.STUDENT), hint(Kind.CONNECTED, 90, role=Role.STUDENT))
    assert set(session.away) == {Role.STUDENT}


@pytest.mark.parametrize("life", [Kind.HEARTBEAT, Kind.CONNECTED])
def test_fold__sign_of_life_after_a_loss_without_role_or_a_timeout__withdraws_both(life: Kind) -> None:
    session = lesson(hint(Kind.DISCONNECTED, 100), hint(Kind.TIMEOUT, 100, Source.SOCKET), hint(life, 101))
    assert (session.away, session.timeout_hint) == ({}, None)


def test_fold__loss_and_timeout_folded_after_newer_heartbeats__are_withdrawn_already() -> None:
    """recovery is replay: heartbeats aren't facts, and are known before the facts are folded again"""
    session = lesson(*beating(200), hint(Kind.DISCONNECTED, 100), hint(Kind.TIMEOUT, 100, Source.SOCKET))
    assert (session.away, session.timeout_hint) == ({}, None)


@pytest.mark.parametrize("kind", [Kind.DISCONNECTED, Kind.TIMEOUT])
def test_fold__clock_goes_back_before_a_sign_of_life__as_if_the_heartbeats_had_been_known_before(kind: Kind) -> None:
    """recovery is replay: what is later by the clock stands, however often it was said before the clock went back"""
    words = [hint(kind, at, payload={"n": at}) for at in (100, 200, 201)]
    alive = beating(180)
    lived, anew = lesson(*words, *alive), lesson(*alive, *words)
    assert (lived.away, lived.losses, lived.timeouts) == (anew.away, anew.losses, anew.timeouts)
    stand = lived.timeouts or lived.losses
    assert [word.at_ms for word in stand] == [T0 + 200_000, T0 + 201_000]


@pytest.mark.parametrize("kind", [Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT])
def test_fold__ending_said_long_before_the_session_began__is_another_lessons(kind: Kind) -> None:
    session = lesson(hint(kind, -60))
    assert (session.ended_hint, session.away, session.timeout_hint) == (None, {}, None)


@pytest.mark.parametrize(
    ("said_s", "kept_s"),
    [
        ((100, 200, 300), (100, 200, 300)),
        (range(100, 2_500, 100), (100, 500, 900, 1_300, 1_700, 1_900, 2_100, 2_300)),
        ((100, 101, 105, 200, 300, 400, 500, 600, 700), (100, 105, 200, 300, 400, 500, 600, 700)),
        ((100, 200, 300, 400, 500, 600, 700, 800, 801, 950), (100, 300, 400, 500, 600, 700, 800, 950)),
    ],
    ids=["few", "evenly", "one soon after the first", "one soon after the last"],
)
@pytest.mark.parametrize("kind", [Kind.ENDED, Kind.TIMEOUT, Kind.DISCONNECTED])
def test_fold__word_said_again_and_again__few_are_kept_far_apart(
    kind: Kind, said_s: Sequence[int], kept_s: Sequence[int]
) -> None:
    """of too many the one that came soonest after another is left out, and never the first"""
    session = lesson(*[hint(kind, at) for at in said_s])
    words = {Kind.ENDED: session.ends, Kind.TIMEOUT: session.timeouts, Kind.DISCONNECTED: session.losses}[kind]
    assert [(word.at_ms - T0) // 1_000 for word in words] == list(kept_s)


def test_fold__still_here__withdraws_every_word_of_an_end() -> None:
    words = [hint(Kind.ENDED, 100), hint(Kind.ENDED, 110), hint(Kind.TIMEOUT, 100), hint(Kind.DISCONNECTED, 100)]
    anonymous = hint(Kind.ENDED, 100, Source.OPEN_WEBHOOK)
    session = lesson(*words, anonymous, nudged(105, "x", ask=True), hint(Kind.STILL_HERE, 120, Source.PARTICIPANT))
    left = (session.ended_hint, session.timeout_hint, session.weak_end, session.asked_ms)
    assert left == (None, None, None, 0)
    assert session.away == {}


def test_fold__keepers_own_words__are_not_hearing_of_the_session() -> None:
    session = lesson(nudged(1, "x"), hint(Kind.PAYING, 1, Source.CHAIN), hint(Kind.SETTLE, 1, Source.OPERATOR))
    assert not session.heard


def test_fold__nudge_outcomes__one_delivery_is_enough() -> None:
    session = lesson(nudged(1, "a", delivered=False))
    assert session.reached is False
    session = lesson(nudged(1, "a"), nudged(2, "b", delivered=False))
    assert session.reached is True
    assert session.nudged == {"a": T0 + 1000, "b": T0 + 2000}


def test_fold__question__asked_when_delivered_first() -> None:
    session = lesson(nudged(1, "a", ask=True, delivered=False), nudged(2, "b", ask=True), nudged(3, "c", ask=True))
    assert session.asked_ms == T0 + 2000


def test_fold__failed_settlements__counted_and_set_aside_until_an_operator_says_settle() -> None:
    failed = [hint(Kind.SETTLEMENT, n, Source.KEEPER, payload={"outcome": "failed"}) for n in (1, 2)]
    last = hint(Kind.SETTLEMENT, 3, Source.KEEPER, payload={"outcome": "failed", "set_aside": "frozen"})
    session = lesson(*failed, last)
    assert (session.attempts, session.set_aside) == (3, "frozen")
    fold(session, Fact(99, hint(Kind.SETTLE, 4, Source.OPERATOR), KEY))
    assert (session.attempts, session.set_aside) == (0, None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"outcome": "cured"}, (0, None)),
        ({"outcome": "reason-changed"}, (0, None)),
        ({"outcome": "reason-changed", "set_aside": "paused"}, (0, "paused")),
        ({"outcome": "settled"}, (1, "frozen")),
        ({}, (1, "frozen")),
    ],
    ids=str,
)
def test_fold__set_aside__tried_again_when_it_would_succeed_or_fail_for_another_reason(
    said: dict[str, str], expected: tuple[int, str | None]
) -> None:
    """quarantine with reason, re-tried only when the reason changes"""
    failed = hint(Kind.SETTLEMENT, 1, Source.KEEPER, payload={"outcome": "failed", "set_aside": "frozen"})
    session = lesson(failed, hint(Kind.SETTLEMENT, 2, Source.KEEPER, payload=said))
    assert (session.attempts, session.set_aside) == expected


def test_fold__alert__given_at_its_time() -> None:
    session = lesson(hint(Kind.ALERT, 5, Source.KEEPER, payload={"mark": "alert:orphan@1"}))
    assert session.nudged == {"alert:orphan@1": T0 + 5_000}


def test_fold__word_that_counts__says_when_from_whom_and_how_late() -> None:
    """What a browser's clock said (`said_ms`) is recorded and decides nothing; only the … record dates its words"""
    session = lesson(
        hint(Kind.ENDED, 100, Source.RECORD, said_ms=T0 + 40_000),
        hint(Kind.TIMEOUT, 101, Source.RECORD, said_ms=T0 + 102_000),  # a clock that is ahead
        hint(Kind.DISCONNECTED, 102, Source.WEBHOOK, said_ms=T0, can_return=True),  # a browser's clock decides nothing
        hint(Kind.SETTLE, 103, Source.OPERATOR),
        hint(Kind.PAYING, 104, Source.CHAIN),
    )
    assert session.ended_hint == Word(T0 + 100_000, Source.RECORD, late_ms=60_000)
    assert session.timeout_hint == Word(T0 + 101_000, Source.RECORD)
    assert session.away == {None: Word(T0 + 102_000, Source.WEBHOOK, can_return=True)}
    assert session.settle == Word(T0 + 103_000, Source.OPERATOR)
    assert session.paying == Word(T0 + 104_000, Source.CHAIN)


@pytest.mark.parametrize(
    ("received_s", "more", "counts"),
    [
        (-EARLY_MS / 1000, {}, True),  # as far as the clocks may be apart
        (-EARLY_MS / 1000 - 0.001, {}, False),
        (20, {}, True),  # the moment of the first start
        (19.999, {}, False),
        (90, {"source": Source.RECORD, "said_ms": T0 + 20_000}, True),
        (90, {"source": Source.RECORD, "said_ms": T0 + 19_999}, False),
        (90, {"source": Source.RECORD}, False),  # of no date: perhaps of before
    ],
)
def test_fold__end_of_before_it_counts__is_recorded_only(received_s: float, more: dict[str, Any], counts: bool) -> None:
    """Said before the session began, it was another lesson's; of before the first start it is recorded only"""
    session = lesson(counts_from_ms=0 if received_s < 0 else T0 + 20_000)
    fold(session, Fact(1, hint(Kind.ENDED, received_s, **more), KEY))
    assert (session.ended_hint is not None) is counts


@pytest.mark.parametrize(("said_s", "counts"), [(50, False), (50.001, True)])
def test_fold__record_repeats_what_still_here_answered__is_answered(said_s: float, counts: bool) -> None:
    """what a record repeats from before a participant's *still in the lesson* has been answered"""
    late = hint(Kind.ENDED, 90, Source.RECORD, said_ms=T0 + round(said_s * 1000))
    session = lesson(hint(Kind.STILL_HERE, 50, Source.PARTICIPANT), late)
    assert (session.ended_hint is not None) is counts


@pytest.mark.parametrize("loss_first", [True, False])
def test_fold__heartbeat_in_the_very_moment_of_the_loss__withdraws_nothing_in_either_order(loss_first: bool) -> None:
    """recovery is replay: after a restart heartbeats are known before the loss is folded"""
    said = [hint(Kind.DISCONNECTED, 100), hint(Kind.TIMEOUT, 100), hint(Kind.HEARTBEAT, 100)]
    session = lesson(*(said if loss_first else reversed(said)))
    assert set(session.away) == {None}
    assert session.timeout_hint is not None


@pytest.mark.parametrize(
    ("lost", "back", "away"),
    [(Role.STUDENT, Role.STUDENT, set()), (None, None, set()), (None, Role.STUDENT, {None})],
)
def test_fold__return_told_after_the_loss_in_the_same_moment__is_back_if_it_says_so_itself(
    lost: Role | None, back: Role | None, away: set[Role | None]
) -> None:
    session = lesson(hint(Kind.DISCONNECTED, 100, role=lost), hint(Kind.CONNECTED, 100, role=back))
    assert set(session.away) == away


def test_beat__several_at_once__all_are_counted() -> None:
    session = lesson()
    beat(session, T0 + 1_000, 3, Source.SOCKET)
    beat(session, T0 + 2_000, 2, Source.WEBHOOK)
    assert (session.beats, session.beat_source) == (Beats(5, T0 + 1_000, T0 + 2_000), Source.WEBHOOK)


def test_adopt__heartbeats_of_a_room_that_turned_out_to_be_its_own__count_as_its_own() -> None:
    session = lesson(*beating(20), hint(Kind.DISCONNECTED, 25), hint(Kind.TIMEOUT, 25))
    session.heard = False
    adopt(session, Beats(4, T0 + 5_000, T0 + 30_000), Source.SOCKET)
    assert session.beats == Beats(7, T0, T0 + 30_000)
    assert (session.heard, session.beat_source) == (True, Source.SOCKET)
    assert (session.away, session.timeout_hint) == ({}, None)


def test_fold__paying__said_twice__waited_for_once() -> None:
    session = lesson(hint(Kind.PAYING, 1, Source.CHAIN), hint(Kind.PAYING, 100, Source.CHAIN))
    assert session.paying is not None
    assert session.paying.at_ms == T0 + 1000


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
HINTS = st.builds(
    Hint,
    kind=st.sampled_from(Kind),
    source=st.sampled_from(Source),
    trust=st.sampled_from(Trust),
    received_ms=st.integers(T0 - 100_000, T0 + 1_000_000),
    role=st.none() | st.sampled_from(Role),
    can_return=st.booleans(),
    payload=st.dictionaries(
        st.sampled_from(["mark", "delivered", "ask", "dropped", "outcome", "set_aside", "count"]), _JSON, max_size=4
    ),
)


@given(st.lists(HINTS, max_size=30))
def test_fold__any_facts_in_the_same_order__give_equal_sessions_and_never_raise(hints: list[Hint]) -> None:
    """`fold` is deterministic: the same facts in the same order give an equal session … It never raises."""
    facts = [Fact(number, one, KEY) for number, one in enumerate(hints)]
    sessions = [Session(KEY, T0) for _ in range(2)]
    for session in sessions:
        for fact in facts:
            fold(session, fact)
    assert sessions[0] == sessions[1]


@given(st.lists(HINTS.filter(lambda one: one.trust <= Trust.MAPPING and one.source is not Source.KEEPER), max_size=20))
def test_fold__words_below_configured__change_nothing_that_can_end_a_session(hints: list[Hint]) -> None:
    session = Session(KEY, T0)
    for number, one in enumerate(hints):
        if one.kind not in (Kind.NUDGE, Kind.ALERT, Kind.SETTLEMENT, Kind.PAYING):  # the keeper's own kinds
            fold(session, Fact(number, one, KEY))
    ends = (session.ended_hint, session.timeout_hint, session.away, session.settle, session.beats.count)
    assert ends == (None, None, {}, None, 0)


@pytest.mark.parametrize(
    "one", [hint(Kind.ENDED), Fact(1, hint(Kind.ENDED), KEY), Beats(1, 2, 3), KEY], ids=lambda one: type(one).__name__
)
def test_facts__any_of_them__is_immutable(one: object) -> None:
    """everything here is immutable"""
    names = list(getattr(one, "_fields", ())) or [field.name for field in fields(one)]  # type: ignore[arg-type]
    assert names
    for name in names:
        with pytest.raises(AttributeError):
            setattr(one, name, None)


def test_session_key__written_and_parsed__is_the_same() -> None:
    assert SessionKey.parse(str(KEY)) == KEY
