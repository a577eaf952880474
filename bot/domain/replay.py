"""Making decisions again: the stored ones from what they saw, and those that another policy would have led to.

Promises: pure. `check` makes each stored decision again from the facts and inputs that were stored, under the policy
that it was made by; the same core makes the same of them. `lived` plays one session through from its first fact.
Doesn't promise that `lived` is what happened: heartbeats are coalesced, so between two that were stored they are taken
as evenly spaced; the world is the one of the last stored decision; and what people would have done otherwise is not
known. Compare two plays, not a play with the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bot.domain.decide import Action, Decision, decide
from bot.domain.facts import Beats, Fact, SessionKey, Source
from bot.domain.policy import Policy
from bot.domain.saw import know_chain, session_of, world_of
from bot.domain.session import Session, beat, fold, give

HORIZON_MS = 86_400_000  # how far beyond the record a play goes on


class Decided(NamedTuple):
    """A stored decision; `saw` None: an older keeper's, which can't be made again."""

    id: int
    at_ms: int
    action: str
    reason: str
    look_again_ms: int | None
    inputs: Mapping[str, Any]
    facts_to: int  # the newest fact, of any session, then
    saw: Mapping[str, Any] | None


class Said(NamedTuple):
    """A fact, and the newest decision before it was joined to the session (0: it was joined as it came)."""

    fact: Fact
    joined_after: int


@dataclass(frozen=True, slots=True)
class History:
    """One session's record. Chain times are epoch seconds, amounts base units, gas wei."""

    key: SessionKey
    facts: Sequence[Said]
    decisions: Sequence[Decided]
    beats: Beats  # as of the last that was stored
    rate: int | None = None
    ended_at: int | None = None
    by_keeper: bool = False
    gas_wei: int | None = None  # of the transaction of ours that ended it


class Difference(NamedTuple):
    """A stored decision that the core makes otherwise: what was stored, what it makes, each as (action, reason, …)."""

    id: int
    at_ms: int
    was: dict[str, Any]
    now: dict[str, Any]


def check(history: History, policy_at: Callable[[int], Policy]) -> tuple[int, list[Difference]]:
    """How many stored decisions were made again, and which of them differ. `policy_at` is asked by its number."""
    made = 0
    different: list[Difference] = []
    marks: dict[str, int] = {}
    for one in history.decisions:
        if one.saw is not None:
            known = [s.fact for s in history.facts if s.fact.id <= one.facts_to and s.joined_after < one.id]
            session = session_of(one.saw, history.key, known, marks)
            again = decide(session, policy_at(one.id), world_of(one.saw), one.at_ms)
            made += 1
            was, now = _stored(one), _made(again)
            if was != now:
                different.append(Difference(one.id, one.at_ms, was, now))
        if one.action in (Action.NUDGE, Action.ALERT):
            marks[str(one.inputs.get("mark"))] = one.at_ms
    return made, different


def _stored(one: Decided) -> dict[str, Any]:
    return {
        "action": one.action,
        "reason": one.reason,
        "mark": one.inputs.get("mark"),
        "hold": one.inputs.get("hold"),
        "due_ms": one.inputs.get("due_ms"),
        "look_again_ms": one.look_again_ms,
    }


def _made(one: Decision) -> dict[str, Any]:
    return {
        "action": one.action.value,
        "reason": one.reason,
        "mark": one.mark,
        "hold": one.inputs.get("hold"),
        "due_ms": one.inputs.get("due_ms"),
        "look_again_ms": one.look_again_ms,
    }


@dataclass(slots=True)
class Play:
    """What one session's decisions would have been: steps as (ms, action, reason), and when its end came."""

    steps: list[tuple[int, str, str]] = field(default_factory=list)
    end_ms: int | None = None
    reason: str | None = None
    held: bool = False

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(action, reason) for _, action, reason in self.steps]


def lived(history: History, policy_at: Callable[[int], Policy], until_ms: int) -> Play:
    """Plays a session through to its end, at most to `until_ms`. What the keeper itself ended goes on until then."""
    seen = [one for one in history.decisions if one.saw is not None]
    play = Play()
    if not seen:
        return play
    first = seen[0].saw or {}
    session = session_of({**first, "beats": (), "ended": False}, history.key, (), {})
    world = world_of(first)
    look: int | None = None
    newest, last = seen[0].id, ("", "")
    over_ms = None if history.by_keeper or history.ended_at is None else history.ended_at * 1000
    stop_ms = until_ms if over_ms is None else min(until_ms, over_ms)
    for at_ms, what in [*_events(history, seen), (stop_ms, None)]:
        at_ms = min(at_ms, stop_ms)
        while look is not None and look < at_ms:
            now, look = look, None
            look, last = _step(play, session, policy_at(newest), world, now, last)
            if play.end_ms is not None:
                return play
        if at_ms >= stop_ms:
            break
        match what:
            case Said():
                fold(session, what.fact)
            case Decided() if what.saw is not None:
                newest = what.id
                know_chain(session, {**what.saw, "ended": False})
                world = world_of(what.saw)
            case "beat":
                beat(session, at_ms, 1, Source.WEBHOOK)  # whoever took it: no decision goes by that
        look, last = _step(play, session, policy_at(newest), world, at_ms, last)
        if play.end_ms is not None:
            return play
    return play


def _step(
    play: Play, session: Session, policy: Policy, world: Any, now: int, last: tuple[str, str]
) -> tuple[int | None, tuple[str, str]]:
    while True:  # a mark is given once
        decision = decide(session, policy, world, now)
        said = (decision.action.value, decision.reason)
        if decision.action in (Action.NUDGE, Action.ALERT):
            give(session, str(decision.mark), now)
            play.steps.append((now, *said))
            continue
        if said != last:
            play.steps.append((now, *said))
        if decision.action is Action.END:
            play.end_ms, play.reason = now, decision.reason
        play.held |= decision.action is Action.HOLD
        return decision.look_again_ms, said


def _events(history: History, seen: Sequence[Decided]) -> list[tuple[int, Any]]:
    """Facts, what decisions saw of chain and world, and heartbeats between what was stored of them, in time order."""
    at_of = {one.id: one.at_ms for one in history.decisions}
    events: list[tuple[int, int, Any]] = []
    for said in history.facts:
        joined_ms = at_of.get(said.joined_after, 0)
        events.append((max(said.fact.hint.received_ms, joined_ms), 1, said))
    events += [(one.at_ms, 2, one) for one in seen]
    events += [(at_ms, 0, "beat") for at_ms in _beats(history, seen)]
    return [(at_ms, what) for at_ms, _, what in sorted(events, key=lambda event: event[:2])]


def _beats(history: History, seen: Sequence[Decided]) -> Iterator[int]:
    """When each heartbeat came, as far as that is known."""
    before = Beats()
    for beats in [*(Beats(*(one.saw or {}).get("beats", ())) for one in seen), history.beats]:
        more = beats.count - before.count
        if more <= 0:
            continue
        start = before.last_ms
        if not before.count:
            start = beats.first_ms
            yield start
            more -= 1
        for number in range(1, more + 1):
            yield start + (beats.last_ms - start) * number // more
        before = beats


class Outcome(NamedTuple):
    """What became of a session under one policy: when it ended (ms), by which rule of ours, None: not by us."""

    end_ms: int
    by: str | None
    nudges: int


def outcome(history: History, play: Play, lag_ms: int, until_ms: int) -> Outcome:
    """When the bill would have stopped: our end `lag_ms` after it fell due, or somebody else's before."""
    other_ms = None if history.by_keeper or history.ended_at is None else history.ended_at * 1000
    nudges = sum(1 for _, action, _ in play.steps if action == Action.NUDGE)
    ours = None if play.end_ms is None else play.end_ms + lag_ms
    if ours is not None and (other_ms is None or ours < other_ms):
        return Outcome(ours, play.reason, nudges)
    return Outcome(other_ms if other_ms is not None else until_ms, None, nudges)
