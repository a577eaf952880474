"""TRUST_BACKEND_HINTS: what the backend's own word can do, and weak signs of life, late records and first starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.domain.decide import Action, decide
from bot.domain.facts import Fact, Hint, Kind, Role, Source
from bot.domain.policy import RISK_OF_HINTS, Hints, Policy
from bot.domain.session import Session, fold
from bot.settings import Settings
from tests.support.sessions import T0, beating, hint, lesson
from tests.unit.test_decide import POLICY, WORLD, at, first

CORROBORATED, NO = replace(POLICY, hints=Hints.CORROBORATED), replace(POLICY, hints=Hints.NO)

ENDED = hint(Kind.ENDED, 100, Source.SOCKET)
LOST = hint(Kind.DISCONNECTED, 100, Source.WEBHOOK, role=Role.STUDENT, can_return=True)
TIMEOUT = hint(Kind.TIMEOUT, 100, Source.SOCKET)
WORDS = {"ended": (ENDED, 160), "away": (LOST, 190), "timeout": (TIMEOUT, 130)}


def told(at_s: float, mark: str, *, answerable: bool = True, delivered: bool = True) -> Hint:
    said = {"mark": mark, "delivered": delivered, "answerable": answerable, "outcome": "delivered"}
    return hint(Kind.NUDGE, at_s, Source.KEEPER, payload=said)


@pytest.mark.parametrize("word", WORDS)
def test_decide__hints_yes__the_word_alone_ends_it(word: str) -> None:
    said, due = WORDS[word]
    assert first(lesson(said), Action.END) == due


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("policy", [CORROBORATED, NO], ids=["corroborated", "no"])
def test_decide__word_alone_is_not_enough__an_operator_is_told_when_it_would_have_ended(
    word: str, policy: Policy
) -> None:
    said, due = WORDS[word]
    assert first(lesson(said), Action.END, WORLD, policy) is None
    assert first(lesson(said), Action.ALERT, WORLD, policy) == due
    assert first(lesson(said), Action.NUDGE, WORLD, policy) == first(lesson(said), Action.NUDGE)
    decision = decide(lesson(said), policy, WORLD, at(due))
    assert decision.inputs["waits_for"] == "corroboration"


@pytest.mark.parametrize("word", WORDS)
def test_decide__corroborated_by_heartbeats_that_stopped__ends_as_by_the_table(word: str) -> None:
    """only with silence of heartbeats once had"""
    said, due = WORDS[word]
    assert first(lesson(*beating(100), said), Action.END, WORLD, CORROBORATED) == due


@pytest.mark.parametrize("beats", [[], beating(20)], ids=["none", "no series"])
def test_decide__corroborated_without_a_series_of_heartbeats__silence_says_nothing(beats: list[Hint]) -> None:
    assert first(lesson(*beats, ENDED), Action.END, WORLD, CORROBORATED) is None


def test_decide__corroborated_while_the_other_beats_on__a_known_role_lost_is_not_enough() -> None:
    session = lesson(*beating(400), LOST)
    assert decide(session, CORROBORATED, WORLD, at(400)).action is not Action.END
    assert decide(session, POLICY, WORLD, at(400)).action is Action.END


def test_decide__corroborated_by_a_delivered_nudge_nobody_objected_to__ends_a_window_after_it() -> None:
    """no objection to *delivered* nudges"""
    session = lesson(ENDED, told(120, f"ended@{at(100)}"))
    assert first(session, Action.END, WORLD, CORROBORATED) == 180
    reminder = lesson(ENDED, told(101, f"ended@{at(100)}", delivered=False), told(140, f"ended@{at(100)}#1"))
    assert first(reminder, Action.END, WORLD, CORROBORATED) == 200


@pytest.mark.parametrize(
    "outcome",
    [
        told(120, f"ended@{at(100)}", delivered=False),
        told(120, f"ended@{at(100)}", answerable=False),
        told(120, f"ended@{at(50)}"),
    ],
    ids=["undelivered", "no way to object", "of another report"],
)
def test_decide__nudge_that_could_not_be_objected_to__corroborates_nothing(outcome: Hint) -> None:
    assert first(lesson(ENDED, outcome), Action.END, WORLD, CORROBORATED) is None


def test_decide__objection_to_a_delivered_nudge__withdraws_the_report() -> None:
    session = lesson(ENDED, told(101, f"ended@{at(100)}"), hint(Kind.STILL_HERE, 120, Source.PARTICIPANT))
    assert first(session, Action.END, WORLD, CORROBORATED) is None
    assert first(session, Action.ALERT, WORLD, CORROBORATED) is None


@pytest.mark.parametrize("policy", [POLICY, CORROBORATED, NO], ids=list(Hints))
@pytest.mark.parametrize(
    ("session", "end"),
    [
        (lesson(*beating(100)), 190),
        (lesson(hint(Kind.SETTLE, 100, Source.PARTICIPANT)), 100),
        (lesson(hint(Kind.SETTLE, 100, Source.OPERATOR)), 100),
        (lesson(drained_ms=at(1_000)), 1_300),
    ],
    ids=["silence", "signature", "operator", "drained"],
)
def test_decide__what_is_no_word_of_the_backend__ends_whatever_its_hints_are_worth(
    session: Session, end: float, policy: Policy
) -> None:
    assert first(session, Action.END, WORLD, policy) == end


@pytest.mark.parametrize("hints", Hints)
def test_settings__trust_backend_hints__reaches_the_policy_and_has_a_risk_in_one_line(hints: Hints) -> None:
    settings = Settings(_env_file=None, trust_backend_hints=hints.value)  # type: ignore[call-arg]
    assert settings.policy().hints is hints
    assert "\n" not in RISK_OF_HINTS[hints]


# Weak signs of life --------------------------------------------------------------------------------------------------


def weak(until_s: float) -> list[Hint]:
    """Heartbeats that anybody could have sent, from 0 on."""
    return [hint(Kind.HEARTBEAT, second, Source.OPEN_WEBHOOK) for second in range(0, int(until_s) + 1, 10)]


@pytest.mark.parametrize("word", [*WORDS, "silence"])
def test_decide__anonymous_signs_of_life__put_the_end_off_but_not_for_ever(word: str) -> None:
    """delays only, never arms"""
    base, plain = ([WORDS[word][0]], WORDS[word][1]) if word in WORDS else (beating(100), 190)
    delayed = first(lesson(*base, *weak(300)), Action.END)
    stubborn = first(lesson(*base, *weak(9_000)), Action.END)
    assert delayed is not None
    assert stubborn is not None
    assert plain < delayed < stubborn <= plain + 600


def test_decide__anonymous_word__does_not_keep_an_operator_from_an_orphan() -> None:
    assert first(lesson(hint(Kind.HEARTBEAT, 10, Source.OPEN_WEBHOOK)), Action.ALERT) == 7_200
    assert first(lesson(hint(Kind.READY, 10, Source.SOCKET)), Action.ALERT) is None


# Old words -----------------------------------------------------------------------------------------------------------


def recorded(kind: Kind, said_s: float, read_s: float, **more: object) -> Hint:
    return hint(kind, read_s, Source.RECORD, said_ms=T0 + round(said_s * 1000), can_return=True, **more)


@pytest.mark.parametrize(("age_s", "nudged"), [(599, True), (601, False)])
def test_decide__hint_of_a_record__older_than_effects_may_be_messages_nobody_but_ends(
    age_s: float, nudged: bool
) -> None:
    """A … hint older than it causes no message to participants; age never excuses a settlement."""
    session = lesson(recorded(Kind.ENDED, 100, 100 + age_s))
    assert (first(session, Action.NUDGE) is not None) is nudged
    assert first(session, Action.END) == 100 + age_s + 60


@pytest.mark.parametrize(("age_s", "nudged"), [(600, True), (600.001, False)])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Kind.ENDED, []),
        (Kind.ENDED, [hint(Kind.HEARTBEAT, 5_000)]),
        (Kind.DISCONNECTED, []),
        (Kind.TIMEOUT, []),
    ],
    ids=["ended", "contradiction", "away", "timeout"],
)
def test_decide__each_word_of_a_record__counts_from_when_it_happened_for_messages(
    kind: Kind, more: list[Hint], age_s: float, nudged: bool
) -> None:
    """A … hint older than EFFECT_MAX_AGE_S causes no message to participants."""
    none = replace(POLICY, disconnect_grace_ms=0)
    session = lesson(recorded(kind, 4_990 - age_s, 4_990), *more)
    assert (decide(session, none, WORLD, at(4_990)).action is Action.NUDGE) is nudged


def test_fold__record_read_again_after_an_answer__the_report_stays_withdrawn() -> None:
    session = lesson(ENDED, hint(Kind.STILL_HERE, 120, Source.PARTICIPANT), recorded(Kind.ENDED, 100, 500))
    assert session.ended_hint is None
    assert lesson(hint(Kind.STILL_HERE, 120, Source.PARTICIPANT), recorded(Kind.ENDED, 130, 500)).ended_hint is not None


@pytest.mark.parametrize("kind", [Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT])
def test_fold__said_before_the_first_start__recorded_only(kind: Kind) -> None:
    """What happened before the first start is recorded only … signals received from then on count"""
    for said, counts in ((recorded(kind, 100, 300), False), (hint(kind, 199), False), (hint(kind, 200), True)):
        session = Session(lesson().key, T0, counts_from_ms=at(200), reported=True)
        fold(session, Fact(1, said, session.key))
        assert bool(session.ended_hint or session.away or session.timeout_hint) is counts


def test_decide__open_at_the_first_start__no_alert_of_its_own() -> None:
    """sessions then open are one digest to the operator"""
    session = lesson(counts_from_ms=at(9_000), reported=True)
    assert first(session, Action.ALERT) is None
    assert first(session, Action.END, WORLD, replace(POLICY, end_orphans=True)) == 9_000 + 7_200
