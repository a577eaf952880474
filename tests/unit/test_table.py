"""The due-time table and the trust table: each row, each cell, against what `decide` does; the guide against both."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from bot.domain import table, trust
from bot.domain.decide import Action, decide
from bot.domain.facts import Hint, Kind, Role, Source, Trust
from bot.domain.linking import Book, link
from bot.domain.policy import Policy
from bot.domain.rules import RULES, World
from bot.domain.session import Session
from bot.domain.table import TABLE, Row
from bot.domain.trust import Allowed, Right
from tests.support.sessions import KEY, STUDENT, T0, TUTOR, beating, hint, lesson, nudged
from tests.unit.test_decide import OPEN, POLICY, WORLD, at, first

GUIDE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()

ENDED = hint(Kind.ENDED, 100, Source.SOCKET)
LOST = hint(Kind.DISCONNECTED, 100, Source.WEBHOOK, role=Role.STUDENT, can_return=True)
GOES_ON = (*beating(1_000), ENDED)


@dataclass(frozen=True)
class Case:
    """A session to which a row of the table applies; `times` are the names in its sums, in seconds after T0."""

    session: Session
    times: dict[str, float]
    world: World = WORLD
    policy: Policy = POLICY
    more: dict[str, Any] = field(default_factory=dict)


NOBODY = replace(WORLD, reachable=False)
QUICK = replace(POLICY, nudge_window_ms=0, disconnect_grace_ms=1_000)
CASES: tuple[Case, ...] = (
    Case(lesson(hint(Kind.SETTLE, 100, Source.PARTICIPANT)), {"t": 100}),
    Case(lesson(*beating(100), ENDED), {"t": 100, "last": 100}),
    Case(
        lesson(*GOES_ON, nudged(131, f"ask@{at(100)}", ask=True)),
        {"t": 100},
        more={"nudge": lesson(*GOES_ON)},
    ),
    Case(
        lesson(*GOES_ON, nudged(131, f"ask@{at(100)}", ask=True, delivered=False)),
        {"t": 100},
        more={"nudge": lesson(*GOES_ON), "alive-until": 1_000},
    ),
    Case(lesson(LOST), {"t": 100}),
    Case(lesson(replace(LOST, can_return=False)), {"t": 100}),
    Case(lesson(*beating(100)), {"last": 100}),
    Case(lesson(*beating(100)), {"last": 100}, replace(WORLD, feed=replace(OPEN, sole_room=True))),
    Case(lesson(hint(Kind.TIMEOUT, 100, Source.SOCKET)), {"t": 100}),
    Case(lesson(drained_ms=at(1_000)), {"drained": 1_000}),
    Case(lesson(), {"started": 0}),
    Case(lesson(hint(Kind.ENDED, 100, Source.OPEN_WEBHOOK)), {"t": 100}, more={"heard": True}),
    Case(lesson(hint(Kind.SETTLE, 100, Source.OPERATOR), hint(Kind.PAYING, 110, Source.CHAIN)), {"t": 110, "due": 100}),
    Case(lesson(ENDED), {"t": 100, "due": 101}, policy=QUICK, more={"skip-nudge": True}),
    Case(lesson(*beating(95), ENDED), {"t": 100, "last": 95}, NOBODY, more={"skip-nudge": True}),
)


def seconds(text: str | None, case: Case) -> float | None:
    """What a sum of the table comes to."""
    if text is None:
        return None
    known: dict[str, Any] = {one.name.upper(): getattr(case.policy, one.name) for one in fields(Policy)}
    names = {name.replace("_MS", "_S"): value / 1000 for name, value in known.items() if name.endswith("_MS")}
    return float(eval(text, {"max": max, "__builtins__": {}}, names | case.times))


@pytest.mark.parametrize(
    ("row", "case"), list(zip(TABLE, CASES, strict=True)), ids=lambda one: getattr(one, "signal", "")
)
def test_decide__signal_of_a_row__nudges_alerts_and_ends_when_the_row_says(row: Row, case: Case) -> None:
    end = first(case.session, Action.END, case.world, case.policy)
    if "alive-until" in case.more:  # never while signs of life go on
        assert row.end is None
        assert end is None or end > case.more["alive-until"]
        end = None
    assert end == seconds(row.end, case)
    if end is not None and row.rule != "any":
        reason = decide(case.session, case.policy, case.world, at(end)).reason
        assert reason.partition(":")[0] == row.rule
    if not case.more.get("skip-nudge"):
        nudges = case.more.get("nudge", case.session)
        assert first(nudges, Action.NUDGE, case.world, case.policy) == seconds(row.nudge, case)
    if not case.more.get("heard"):
        assert first(case.session, Action.ALERT, case.world, case.policy) == seconds(row.alert, case)


def test_table__every_rule__has_a_row() -> None:
    named = {
        "told_to": "told",
        "ended_by_participant": "ended",
        "connection_lost": "away",
        "heartbeats_silent": "silence",
    }
    named |= {"backend_timeout": "timeout", "balance_used_up": "drained", "orphan": "orphan"}
    named |= {"anonymous_end": "anonymous-end"}
    assert {named[rule.__name__] for rule in RULES} <= {row.rule for row in TABLE}


def test_operate_md__due_times__are_the_table() -> None:
    assert f"\n\n{table.as_markdown()}\n\n" in GUIDE


# Who is believed how far -----------------------------------------------------------------------------------------

SOURCES = {
    Trust.PROVEN: Source.PARTICIPANT,
    Trust.CONFIGURED: Source.WEBHOOK,
    Trust.MAPPING: Source.REDIS,
    Trust.ANONYMOUS: Source.OPEN_WEBHOOK,
}


def said(kind: Kind, at_s: float, level: Trust, **more: Any) -> Hint:
    return hint(kind, at_s, SOURCES[level], trust=level, **more)


def looks(level: Trust) -> Allowed:
    """Is a room joined to its session by this word?"""
    book = Book()
    book.add(KEY, T0)
    found = link(said(Kind.READY, 10, level, room="req_1", student=STUDENT, tutor=TUTOR), None, book)
    return Allowed.YES if found is not None and found.key == KEY else Allowed.NO


def nudges(level: Trust) -> Allowed:
    """Are participants told of an end that it reports? Limited: of a second one not again."""
    session = lesson(said(Kind.ENDED, 100, level))
    decision = decide(session, POLICY, WORLD, at(100))
    if decision.action is not Action.NUDGE:
        return Allowed.NO
    again = lesson(said(Kind.ENDED, 100, level), said(Kind.ENDED, 700, level), nudged={str(decision.mark): at(100)})
    told = {decide(again, POLICY, WORLD, at(second)).action for second in range(100, 1_400)}
    return Allowed.YES if Action.NUDGE in told or Action.END in told else Allowed.LIMITED


def lives(level: Trust) -> Allowed:
    """What does its sign of life do against an end that the backend reports, and does it arm the time-out?"""
    believed = [hint(Kind.ENDED, 100, Source.SOCKET)]
    plain = first(lesson(*believed), Action.END)
    assert plain is not None
    beats = [said(Kind.HEARTBEAT, second, level) for second in range(140, 5_000, 10)]
    contradicted = first(lesson(*believed, *beats), Action.END)
    answered = first(lesson(*believed, said(Kind.STILL_HERE, 150, level)), Action.END)
    armed = (
        first(lesson(*[said(Kind.HEARTBEAT, second, level) for second in range(0, 101, 10)]), Action.END) is not None
    )
    if answered is None:
        return Allowed.YES
    if armed:
        return Allowed.ARMS
    if contradicted is not None and plain < contradicted <= 100 + 600 + 30:
        return Allowed.DELAYS
    assert contradicted == plain
    return Allowed.NO


def ends(level: Trust) -> Allowed:
    """Does its report of an end end the session, after the window? And against signs of life?"""
    if first(lesson(said(Kind.ENDED, 100, level)), Action.END) != 160:
        return Allowed.NO
    contradicted = first(lesson(*beating(10_000), said(Kind.ENDED, 100, level)), Action.END)
    assert contradicted is None or contradicted > 160
    # A participant's own word is a signed one, or comes by their link: that is `told`, below, and asks nobody.
    return Allowed.YES if level is Trust.PROVEN else Allowed.UNLESS_ALIVE


def ends_at_once(level: Trust) -> Allowed:
    session = lesson(*beating(200), said(Kind.SETTLE, 100, level))
    return Allowed.YES if decide(session, POLICY, WORLD, at(100)).action is Action.END else Allowed.NO


CELLS = {
    Right.LOOK: looks,
    Right.NUDGE: nudges,
    Right.LIFE: lives,
    Right.END: ends,
    Right.END_AT_ONCE: ends_at_once,
}


@pytest.mark.parametrize("right", Right, ids=lambda right: right.name.lower())
@pytest.mark.parametrize("level", Trust, ids=lambda level: level.name.lower())
def test_trust__each_cell__is_what_the_keeper_does(level: Trust, right: Right) -> None:
    assert CELLS[right](level) is trust.TABLE[level][right]


def test_trust__every_source__has_a_level_in_the_table() -> None:
    assert {trust.TABLE.keys() >= {level} for level in SOURCES} == {True}
    assert set(trust.TABLE) == set(Trust) == set(trust.SPEAKERS)


ORDER = (
    (Allowed.NO, Allowed.DELAYS, Allowed.ARMS, Allowed.YES),
    (Allowed.NO, Allowed.LIMITED, Allowed.UNLESS_ALIVE, Allowed.YES),
)


@pytest.mark.parametrize("right", Right, ids=lambda right: right.name.lower())
def test_trust__each_level__may_do_all_that_lower_ones_may(right: Right) -> None:
    """each level may do all that the levels below it may, but MAPPING, which links and no more"""
    found = [trust.TABLE[level][right] for level in sorted(Trust) if level is not Trust.MAPPING]
    assert any(found == sorted(found, key=order.index) for order in ORDER if set(found) <= set(order))
    assert (trust.TABLE[Trust.MAPPING][right] is Allowed.YES) is (right is Right.LOOK)
    assert trust.TABLE[Trust.MAPPING][right] in (Allowed.YES, Allowed.NO)


def test_operate_md__trust__is_the_table() -> None:
    assert f"\n\n{trust.as_markdown()}\n\n" in GUIDE
    assert len(re.findall(r"^\| source \|", GUIDE, re.MULTILINE)) == 1
