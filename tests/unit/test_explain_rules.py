"""The sentences about each rule, from what `decide` makes of a session: they name what decided, and nothing untrue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.domain.decide import Action, decide
from bot.domain.facts import Hint, Kind, Role, Source
from bot.domain.policy import Hints, Policy
from bot.domain.rules import Feed, World
from bot.domain.session import Session
from bot.ops import explain
from tests.support.sessions import beating, hint, lesson, nudged
from tests.unit.test_decide import ENDED, ONCE, OPEN, POLICY, WORLD, at, away, contradicted

SOLE, DOWN = World(feed=replace(OPEN, sole_room=True)), World(feed=Feed(OPEN.since_ms, at(105)))
BACK = World(feed=Feed(at(150)))
QUICK = replace(POLICY, nudge_window_ms=0, disconnect_grace_ms=1_000)
GRACE, WINDOW, LONG = "DISCONNECT_GRACE_S (30 s)", "NUDGE_WINDOW_S (60 s)", "SOLE_ROOM_TIMEOUT_S (300 s)"
CAP = "CONTRADICTION_CAP_S (600 s)"


def anybody(kind: Kind, at_s: float) -> Hint:
    return hint(kind, at_s, Source.OPEN_WEBHOOK)


def said(session: Session, seconds: float, world: World = WORLD, policy: Policy = POLICY) -> str:
    made = decide(session, policy, world, at(seconds))
    row: dict[str, Any] = {"action": made.action.value, "reason": made.reason, "inputs": dict(made.inputs)}
    return explain.rule_in_words(row, {"state": "active"}, policy, at(seconds))


CASES: dict[str, tuple[str, Session, float, World, Policy]] = {
    "ended": (
        f"over at 08:01:40. Its participants have {WINDOW} to end and pay themselves. Then the keeper ends it.",
        *(lesson(ENDED), 120, WORLD, POLICY),
    ),
    "ended, heartbeats": (
        f"themselves, and the last heartbeat has to be {GRACE} old.",
        *(lesson(*beating(95), ENDED), 120, WORLD, POLICY),
    ),
    "ended, heartbeats, feed down": (
        f"as the feed of its heartbeats is down, the last one has to be {LONG} old.",
        *(lesson(*beating(100), ENDED), 120, DOWN, POLICY),
    ),
    "ended, feed back": (
        "Its feed is heard since 08:02:30 only, and silence counts from then.",
        *(lesson(*beating(100), ENDED), 160, BACK, POLICY),
    ),
    "ended, nobody reachable": (
        f"No nudge can reach its participants, so {GRACE} alone is given.",
        *(lesson(ENDED), 120, replace(WORLD, reachable=False), POLICY),
    ),
    "ended, nudge undelivered": (
        f"No nudge can reach its participants, so {GRACE} alone is given.",
        *(lesson(ENDED, nudged(101, f"ended@{at(100)}", delivered=False)), 120, WORLD, ONCE),
    ),
    "ended, said again": (
        "reported over at 08:02:30.",
        *(lesson(hint(Kind.ENDED, 100), hint(Kind.HEARTBEAT, 135), hint(Kind.ENDED, 150)), 210, WORLD, POLICY),
    ),
    "ended, somebody pays": (
        "put off once: an `endSession` of a participant's own waits in the node's pool, and has PAY_WAIT_S (45 s).",
        *(lesson(ENDED, hint(Kind.PAYING, 130, Source.CHAIN)), 175, WORLD, POLICY),
    ),
    "ended, another session": (
        "It is put off: another session of this student falls due within NUDGE_WINDOW_S (60 s)",
        *(lesson(ENDED), 200, replace(WORLD, others_due_ms=(at(210),)), POLICY),
    ),
    "ended, the backend's turn": (
        "The backend, which has the same key, has BACKEND_HEAD_START_S (12 s) to end it.",
        *(lesson(ENDED), 112, WORLD, QUICK),
    ),
    "ended, word not enough": (
        "by TRUST_BACKEND_HINTS the backend's word alone doesn't end it",
        *(lesson(ENDED), 120, WORLD, replace(POLICY, hints=Hints.NO)),
    ),
    "contradiction": (
        f"but signs of life went on until 08:02:11. Both are asked: an answer withdraws the report; if the question "
        f"reaches nobody, an operator is told {CAP} after the report. If the signs of life stop for {GRACE}, it is "
        "ended. It waits for their answer.",
        *(contradicted(until_s=131), 131, WORLD, POLICY),
    ),
    "contradiction, asked": (
        f"were asked at 08:02:11: an answer withdraws the report, no answer ends it {CAP} after the report.",
        *(contradicted(nudged(131, f"ask@{at(100)}", ask=True)), 700, WORLD, ONCE),
    ),
    "contradiction by anybody": (
        f"A sign of life at 08:02:11 could be anybody's: it puts an end off by {CAP} at most.",
        *(lesson(ENDED, anybody(Kind.HEARTBEAT, 131)), 131, WORLD, POLICY),
    ),
    "away": (
        f"The student's connection was lost at 08:01:40 and hasn't come back. After {GRACE} both are nudged, and "
        f"{WINDOW} later the keeper ends it.",
        *(lesson(away(Role.STUDENT)), 130, WORLD, POLICY),
    ),
    "away, nobody reachable": (
        f"A participant's connection was lost at 08:01:40 and hasn't come back. No nudge can reach its participants, "
        f"so the keeper ends it after {GRACE} alone.",
        *(lesson(away()), 130, replace(WORLD, reachable=False), POLICY),
    ),
    "away, the only room": (
        f"As no other room is heard, it may be the feed that is silent. After {LONG} both are nudged, and {WINDOW}",
        *(lesson(away()), 150, World(feed=replace(DOWN.feed, sole_room=True)), POLICY),
    ),
    "away, for good": (
        f"After {GRACE} both are nudged. But who reported the loss couldn't report a return",
        *(lesson(away(can_return=False)), 150, WORLD, POLICY),
    ),
    "away, feed back": (
        "Its feed is heard since 08:02:30 only, and silence counts from then.",
        *(lesson(away()), 180, BACK, POLICY),
    ),
    "silence": (
        "The last of 11 heartbeats came at 08:01:40. After HEARTBEAT_TIMEOUT_S (60 s) of silence both are nudged, and "
        "DISCONNECT_GRACE_S (30 s) later the keeper ends it.",
        *(lesson(*beating(100)), 160, WORLD, POLICY),
    ),
    "silence, back": (
        "heartbeats came at 08:01:40, and another sign of life at 08:02:00. After",
        *(lesson(*beating(100), hint(Kind.CONNECTED, 120, role=Role.STUDENT)), 180, WORLD, POLICY),
    ),
    "silence, still in the lesson": (
        "heartbeats came at 08:01:40, and another sign of life at 08:02:00. After",
        *(lesson(*beating(100), hint(Kind.STILL_HERE, 120, Source.PARTICIPANT)), 180, WORLD, POLICY),
    ),
    "silence, the only room": (
        f"as no other room is heard, so that it may be the feed that is silent, the keeper ends it only after {LONG}.",
        *(lesson(*beating(100)), 160, SOLE, POLICY),
    ),
    "silence, feed down": ("its silence proves nothing", *(lesson(*beating(100)), 150, DOWN, POLICY)),
    "timeout, and anybody": (
        f"A sign of life at 08:01:50 could be anybody's: it puts an end off by {CAP} at most.",
        *(lesson(hint(Kind.TIMEOUT, 100), anybody(Kind.CONNECTED, 110)), 120, WORLD, POLICY),
    ),
    "orphan": (
        "At the age of ORPHAN_AFTER_S (7200 s) an operator is told; END_ORPHANS=1 ends it.",
        *(lesson(), 7_200, WORLD, POLICY),
    ),
    "orphan, of the first start": (
        "an operator was told at the keeper's first start; END_ORPHANS=1 ends it.",
        *(lesson(counts_from_ms=at(50), reported=True), 9_000, WORLD, POLICY),
    ),
    "anonymous end": (
        "Somebody who showed no secret said at 08:01:40 that it is over.",
        *(lesson(anybody(Kind.ENDED, 100)), 100, WORLD, POLICY),
    ),
}


@pytest.mark.parametrize(("text", "session", "seconds", "world", "policy"), CASES.values(), ids=CASES)
def test_rule__as_decided__names_what_decided(
    text: str, session: Session, seconds: float, world: World, policy: Policy
) -> None:
    """the rule behind the present decision with the values it saw and the settings it goes by"""
    assert text in said(session, seconds, world, policy)


def test_rule__ended_by_it__waits_for_nothing() -> None:
    asked = contradicted(nudged(131, f"ask@{at(100)}", ask=True))
    assert decide(asked, ONCE, WORLD, at(700)).action is Action.END
    assert "waits" not in said(asked, 700, policy=ONCE)


@pytest.mark.parametrize(
    ("session", "seconds", "world"),
    [
        (lesson(ENDED), 160, BACK),
        (lesson(hint(Kind.HEARTBEAT, 50), hint(Kind.TIMEOUT, 100)), 120, World(feed=Feed(at(90)))),
        (lesson(*beating(100)), 160, WORLD),
        (lesson(away()), 180, World(feed=Feed(at(50)))),
    ],
    ids=["ended without heartbeats", "timeout", "silence heard all the while", "lost since"],
)
def test_rule__clock_that_the_feed_did_not_move__says_nothing_of_it(
    session: Session, seconds: float, world: World
) -> None:
    assert "feed" not in said(session, seconds, world)


def test_values__everything_that_decisions_record__has_words() -> None:
    session = lesson(
        *beating(40),
        *(hint(Kind.CONNECTED, 41), hint(Kind.STILL_HERE, 42, Source.PARTICIPANT), anybody(Kind.HEARTBEAT, 43)),
        *(hint(Kind.ENDED, 100), hint(Kind.TIMEOUT, 101), away(Role.TUTOR), hint(Kind.PAYING, 130, Source.CHAIN)),
        *(nudged(131, "ask", ask=True),),
        **{"drained_ms": at(900), "reported": True},
    )
    world = World(Feed(at(1), at(2), sole_room=True), reachable=False, others_due_ms=(at(180),), mass_end_ms=at(150))
    inputs = decide(session, POLICY, world, at(600)).inputs
    shown = explain.values_in_words(dict(inputs), at(600))
    assert [one["text"] for one in shown if one["text"].startswith(f"{one['name']}:")] == []
    assert len(shown) >= 18
