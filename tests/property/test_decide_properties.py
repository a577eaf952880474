"""Random hints at all trust levels, with time passing: what must never happen, and what must always come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bot.domain.decide import Action, Decision, decide
from bot.domain.facts import TRUST_OF, Fact, Hint, Kind, Role, Source, Trust
from bot.domain.policy import Policy
from bot.domain.rules import RULES, Feed, World
from bot.domain.session import Session, fold, give
from tests.support.sessions import KEY, T0

POLICY = Policy()
OFF_CHAIN = (Kind.READY, Kind.CONNECTED, Kind.HEARTBEAT, Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT, Kind.MAPPING)
FEEDS = (Source.SOCKET, Source.RECORD, Source.WEBHOOK, Source.OPEN_WEBHOOK, Source.REDIS)
TIMES = st.integers(0, 1_200_000) | st.integers(0, 40).map(lambda n: n * 30_000)


def words(kinds: Sequence[Kind], sources: Sequence[Source], below: Trust | None = None) -> st.SearchStrategy[Hint]:
    """Hints of feeds; `trust` may be less than what the source is worth, as a message may say of itself."""

    def made(kind: Kind, source: Source, at: int, role: Role | None, can_return: bool, less: bool) -> Hint:
        trust = Trust.ANONYMOUS if less else TRUST_OF[source]
        return Hint(kind, source, trust, T0 + at, role=role, can_return=can_return)

    roles = st.none() | st.sampled_from(Role)
    strategy = st.builds(
        made, st.sampled_from(kinds), st.sampled_from(sources), TIMES, roles, st.booleans(), st.booleans()
    )
    return strategy if below is None else strategy.filter(lambda hint: hint.trust < below)


OWN = st.one_of(
    st.builds(
        lambda at, delivered, ask, dropped: Hint(
            Kind.NUDGE,
            Source.KEEPER,
            Trust.PROVEN,
            T0 + at,
            payload={"mark": "said", "delivered": delivered, "ask": ask, "dropped": dropped},
        ),
        TIMES,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(lambda at: Hint(Kind.PAYING, Source.CHAIN, Trust.PROVEN, T0 + at), TIMES),
    st.builds(lambda at: Hint(Kind.STILL_HERE, Source.PARTICIPANT, Trust.PROVEN, T0 + at), TIMES),
    st.builds(lambda at: Hint(Kind.SETTLE, Source.OPERATOR, Trust.PROVEN, T0 + at), TIMES),
)
ANYTHING = st.lists(words(OFF_CHAIN, FEEDS) | OWN, max_size=25)
UNTRUSTED = st.lists(words(OFF_CHAIN, FEEDS, below=Trust.CONFIGURED), max_size=25)
SPANS = st.builds(
    lambda since, length: Feed(T0 + since, None if length is None else T0 + since + length),
    st.integers(-100_000, 900_000),
    st.none() | st.integers(0, 600_000),
)
WORLDS = st.builds(
    World,
    feed=st.builds(lambda feed, sole: replace(feed, sole_room=sole), SPANS, st.booleans()),
    reachable=st.booleans(),
    direct=st.booleans(),
    hold=st.none() | st.just("paused"),
    mass_end_ms=st.none() | TIMES.map(lambda ms: T0 + ms),
)
DRAINED = st.none() | st.integers(0, 1_000_000).map(lambda ms: T0 + ms)


@dataclass
class Told:
    """One decision, the moment, and the session as it was then."""

    at_ms: int
    decision: Decision
    session: Session


def lived(hints: list[Hint], world: World, drained_ms: int | None = None, until_ms: int = T0 + 9_000_000) -> list[Told]:
    """Everything decided, as the daemon does it: at each fact, and whenever `look_again_ms` says."""
    session = Session(KEY, T0, drained_ms=drained_ms)
    told: list[Told] = []
    waiting = sorted(hints, key=lambda hint: hint.received_ms)
    look: int | None = T0
    for number in range(len(waiting) + 1):
        next_ms = waiting[number].received_ms if number < len(waiting) else until_ms
        steps = 0
        while look is not None and look < next_ms:
            now, look = look, None
            decision = decide(session, POLICY, world, now)
            told.append(Told(now, decision, replace(session)))
            if decision.action in (Action.NUDGE, Action.ALERT):
                assert decision.mark is not None
                assert decision.mark not in session.nudged, "a mark is given once"
                give(session, decision.mark, now)
                look = now
            elif decision.look_again_ms is not None:
                assert decision.look_again_ms > now, "a busy loop"
                look = decision.look_again_ms
            steps += 1
            assert steps < 200, "no progress"
        if number < len(waiting):
            fold(session, Fact(number, waiting[number], KEY))
            look = waiting[number].received_ms
    return told


@given(UNTRUSTED, WORLDS)
def test_decide__only_words_below_configured__never_ends(hints: list[Hint], world: World) -> None:
    """what anybody could have sent makes the keeper look and nudge, never sign"""
    assert not [one for one in lived(hints, world) if one.decision.action in (Action.END, Action.HOLD)]


@given(ANYTHING, UNTRUSTED, WORLDS, DRAINED)
def test_decide__words_below_configured_added__no_end_comes_earlier(
    hints: list[Hint], untrusted: list[Hint], world: World, drained_ms: int | None
) -> None:
    """An unauthenticated word never makes an end due."""
    without = [one.at_ms for one in lived(hints, world, drained_ms) if one.decision.action is Action.END]
    mixed = [one.at_ms for one in lived([*hints, *untrusted], world, drained_ms) if one.decision.action is Action.END]
    if mixed:
        assert without
        assert mixed[0] >= without[0]


def end_of(hints: list[Hint], world: World, drained_ms: int | None) -> int | None:
    """When the end of what these have made comes, if nothing more is said."""
    session = Session(KEY, T0, drained_ms=drained_ms)
    for number, hint in enumerate(sorted(hints, key=lambda hint: hint.received_ms)):
        fold(session, Fact(number, hint, KEY))
    now: int | None = T0
    while now is not None:
        decision = decide(session, POLICY, world, now)
        if decision.action is Action.END:
            return now
        if decision.mark is not None:
            give(session, decision.mark, now)
        else:
            now = decision.look_again_ms
    return None


@settings(max_examples=300)
@given(ANYTHING, st.lists(words(OFF_CHAIN, FEEDS, below=Trust.MAPPING), max_size=25), WORLDS, DRAINED)
def test_decide__anonymous_words_added__put_an_end_off_by_the_cap_at_most(
    hints: list[Hint], anonymous: list[Hint], world: World, drained_ms: int | None
) -> None:
    """an unauthenticated word never makes an end due, and puts one off by CONTRADICTION_CAP_S at most"""
    without, mixed = end_of(hints, world, drained_ms), end_of([*hints, *anonymous], world, drained_ms)
    if without is None:
        assert mixed is None
    else:
        assert mixed is not None
        assert without <= mixed <= without + POLICY.contradiction_cap_ms


EXEMPT = {"told", "drained", "orphan", "away:student", "away:tutor"}


@settings(max_examples=300)
@given(ANYTHING, WORLDS, DRAINED)
def test_decide__authenticated_heartbeat_within_the_grace__no_hint_and_no_silence_ends(
    hints: list[Hint], world: World, drained_ms: int | None
) -> None:
    """a session that a participant's signature or authenticated heartbeats show alive within the grace is never ended
    by a hint or by silence; only a participant's own end signature, an operator, the used-up balance, or the
    contradiction's cap after a delivered and unanswered question ends it

    A loss with a known role isn't contradicted by heartbeats, which may be the other's.
    """
    for one in lived(hints, world, drained_ms):
        if one.decision.action is not Action.END or one.decision.reason in EXEMPT:
            continue
        session = one.session
        alive = max(session.beats.last_ms if session.beats.count else 0, session.still_here_ms)
        if one.at_ms - alive < POLICY.disconnect_grace_ms:
            assert one.decision.reason == "contradiction"
            assert session.asked_ms
            assert session.ended_hint is not None
            assert one.at_ms >= session.ended_hint.at_ms + POLICY.contradiction_cap_ms


@settings(max_examples=200)
@given(ANYTHING, WORLDS, DRAINED)
def test_decide__feed_down__silence_ends_nothing(hints: list[Hint], world: World, drained_ms: int | None) -> None:
    """Silence is not evidence."""
    world = replace(world, feed=Feed(T0 + 500_000, T0 + 500_000))
    for one in lived(hints, world, drained_ms):
        if one.decision.action is Action.END:
            assert one.decision.reason not in ("silence", "away", "away:student", "away:tutor")


@given(ANYTHING, WORLDS, DRAINED, TIMES)
def test_decide__same_inputs__same_decision_and_never_raises(
    hints: list[Hint], world: World, drained_ms: int | None, now: int
) -> None:
    """`decide` is pure and total: no clock, no I/O, an answer for every session."""
    session = Session(KEY, T0, drained_ms=drained_ms)
    for number, hint in enumerate(hints):
        fold(session, Fact(number, hint, KEY))
    before = repr(session)
    decisions = [decide(session, POLICY, world, T0 + now) for _ in range(2)]
    assert decisions[0] == decisions[1]
    assert repr(session) == before
    look = decisions[0].look_again_ms
    assert look is None or look > T0 + now


@given(ANYTHING, WORLDS, DRAINED)
def test_decide__no_new_fact__an_end_once_due_stays_due(
    hints: list[Hint], world: World, drained_ms: int | None
) -> None:
    """every session that is truly over is ended … by its due time: no end is forgotten while time passes"""
    world = replace(world, hold=None, mass_end_ms=None, feed=replace(world.feed, until_ms=None))
    session = Session(KEY, T0, drained_ms=drained_ms)
    for number, hint in enumerate(sorted(hints, key=lambda hint: hint.received_ms)):
        fold(session, Fact(number, hint, KEY))
    ended = False
    for now in range(T0 + 1_200_000, T0 + 4_000_000, 97_000):
        action = decide(session, POLICY, world, now).action
        assert not (ended and action is not Action.END)
        ended = ended or action is Action.END
    # A believed word of an end that nobody contradicted has been acted upon by now.
    if session.ended_hint is not None and not session.set_aside:
        assert ended


@given(ANYTHING, WORLDS, DRAINED)
def test_rules__any_session__every_due_says_why_it_waits_or_when_it_ends(
    hints: list[Hint], world: World, drained_ms: int | None
) -> None:
    session = Session(KEY, T0, drained_ms=drained_ms)
    for number, hint in enumerate(hints):
        fold(session, Fact(number, hint, KEY))
    for rule in RULES:
        for due in rule(session, POLICY, world):
            assert due.end_ms is not None or due.alert_ms is not None or due.waits_for
            marks = [mark for mark, _ in due.nudges]
            assert len(marks) == len(set(marks))
