"""The decision: what to do about a session now, why, and when to look again.

Goals
 - never end a lesson that goes on, end every lesson that is over, and be able to say why.
Approach
 - Each row of `bot.domain.table` is a rule of `bot.domain.rules`: from a session it derives when somebody should be
   nudged and when the end falls due. Here the rules meet: the earliest due end that nothing holds wins.
Promises
 - `decide` is pure and total: no clock, no I/O, an answer for every session.
 - An unauthenticated word never makes an end due.
Doesn't promise that a decision can be carried out: the chain is asked again before anything is signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from bot.domain import breaker
from bot.domain.policy import Hints, Policy
from bot.domain.rules import RULES, Due, Feed, World, alive_ms, corroborated_ms, heartbeats_silent
from bot.domain.session import Session

Input = int | str | bool | None
NEVER_MS = 2**63


class Action(StrEnum):
    WAIT = "wait"  # nothing to do until look_again_ms or the next fact
    NUDGE = "nudge"  # tell the participants
    END = "end"  # submit endSession
    HOLD = "hold"  # an end is due, but something says no; a person or a fact changes it
    ALERT = "alert"  # tell the operator
    CLOSE = "close"  # it has ended on chain


class Decision(NamedTuple):
    """What to do about a session. `reason` is the rule's name; `inputs` are the values that it saw."""

    action: Action
    reason: str
    look_again_ms: int | None = None
    mark: str | None = None  # of the nudge or alert, which is given once
    ask: bool = False
    due_ms: int | None = None  # when the end falls due, if it is known
    evidence_ms: int = 0  # the newest that it rests on
    inputs: Mapping[str, Input] = MappingProxyType({})


def decide(session: Session, policy: Policy, world: World, now_ms: int) -> Decision:
    """What to do about `session` at `now_ms` (epoch ms, the keeper's clock)."""
    if session.ended:
        return Decision(Action.CLOSE, "ended-on-chain")
    dues = [_weighed(due, session, policy, world) for rule in RULES for due in rule(session, policy, world)]
    dues = [_with_reminders(_with_waits(due, session, policy, world), session, policy) for due in dues]
    dues = _one_at_a_time(dues, session, policy)
    ending = min((due for due in dues if due.end_ms is not None), key=_end_of, default=None)
    if ending is not None and now_ms >= _end_of(ending):
        return _end(session, policy, world, [due for due in dues if now_ms >= _end_of(due)], now_ms)
    nudge = _first_nudge(session, policy, dues, now_ms)
    if nudge is not None:
        due, mark = nudge
        look = _next_look(session, dues, now_ms)
        return _decision(Action.NUDGE, due, session, world, look, mark=mark, ending=ending)
    look = _next_look(session, dues, now_ms)
    for due in dues:
        mark = f"alert:{due.rule}@{due.since_ms}"
        if due.alert_ms is not None and now_ms >= due.alert_ms and mark not in session.nudged:
            return _decision(Action.ALERT, due, session, world, look, mark=mark, ending=ending)
    begun = [due for due in dues if due.since_ms <= now_ms]
    telling = min(begun, key=_end_of, default=None)
    if telling is None:
        due_ms = ending.end_ms if ending is not None else None
        return Decision(Action.WAIT, "running", look, due_ms=due_ms, inputs=_inputs(session, world))
    return _decision(Action.WAIT, telling, session, world, look, ending=ending)


def call_ended_ms(session: Session, policy: Policy, world: World, by_ms: int) -> int | None:
    """When the call itself ended, as known at `by_ms`, the session's end on chain.

    The earliest believed hint that no later sign of life contradicts; for silence, if it had lasted long enough
    before anything else was said, the last sign of life.
    """
    dues = [due for rule in RULES if rule is not heartbeats_silent for due in rule(session, policy, world)]
    said = min((due.call_ended_ms for due in dues if due.call_ended_ms is not None), default=by_ms)
    for due in heartbeats_silent(session, policy, world):
        if due.call_ended_ms is not None and due.since_ms <= min(said, by_ms):
            return min(said, due.call_ended_ms)
    return said if any(due.call_ended_ms is not None for due in dues) else None


def _weighed(due: Due, session: Session, policy: Policy, world: World) -> Due:
    """What TRUST_BACKEND_HINTS leaves of an end that rests on the backend's word: without it, an operator decides."""
    if not due.word or due.end_ms is None or policy.hints is Hints.YES:
        return due
    if policy.hints is Hints.CORROBORATED:
        beside_ms = corroborated_ms(due, session, policy, world)
        if beside_ms is not None:
            return due._replace(end_ms=max(due.end_ms, beside_ms))
    return due._replace(end_ms=None, alert_ms=due.alert_ms or due.end_ms, waits_for="corroboration")


def _with_waits(due: Due, session: Session, policy: Policy, world: World) -> Due:
    """What puts an end off beyond what its rule says, and which of them does."""
    if due.end_ms is None:
        return due
    end, later = due.end_ms, None
    if due.hint and world.direct and due.since_ms + policy.backend_head_start_ms > end:
        end, later = due.since_ms + policy.backend_head_start_ms, "backend"
    if session.paying is not None and session.paying.at_ms + policy.pay_wait_ms > end:
        end, later = session.paying.at_ms + policy.pay_wait_ms, "paying"
    if due.rule != "told" and world.others_due_ms:
        # The first end of a student's sessions lets them withdraw what another tutor is owed: rather both at once.
        both = max((other for other in world.others_due_ms if other <= end + policy.nudge_window_ms), default=end)
        if both > end:
            end, later = both, "other-session"
    return due if later is None else due._replace(end_ms=end, put_off_by=later)


def _with_reminders(due: Due, session: Session, policy: Policy) -> Due:
    """Each nudge that was given is given again, at growing distances, for as long as its rule stands."""
    if not session.nudged:
        return due
    more: list[tuple[str, int]] = []
    for mark, _ in due.nudges:
        if mark in due.once:
            continue
        told, gap = session.nudged.get(mark), policy.nudge_again_ms
        for number in range(1, policy.nudge_repeats + 1):
            if told is None:
                break
            more.append((f"{mark}#{number}", told + gap))
            told, gap = session.nudged.get(more[-1][0]), gap * 2
    return due._replace(nudges=(*due.nudges, *more)) if more else due


def _one_at_a_time(dues: list[Due], session: Session, policy: Policy) -> list[Due]:
    """A second reason to say the same waits until the window of the first is over: by then it has mostly ended.

    Not for what says something else, or names an earlier end; nor when the first reason doesn't stand any more.
    """
    if not session.nudged:
        return dues
    told = [(due, max((session.nudged.get(mark, 0) for mark, _ in due.nudges), default=0)) for due in dues]
    found = []
    for due in dues:
        others = (
            at
            for other, at in told
            if other is not due and _meaning(other) == _meaning(due) and _end_of(other) <= _end_of(due)
        )
        told_ms = max(others, default=0)
        waits_ms = told_ms + policy.nudge_window_ms
        nudges = tuple(
            # What was too old to be said even then doesn't become new by waiting.
            (mark, max(at, waits_ms) if told_ms - at + due.late_ms <= policy.effect_max_age_ms else at)
            for mark, at in due.nudges
        )
        found.append(due._replace(nudges=nudges))
    return found


def _meaning(due: Due) -> tuple[bool, bool]:
    """What its nudge says, whatever the reason: it asks, or tells of the balance, or else that it is over."""
    return due.ask, due.rule == "drained"


def _end_of(due: Due) -> int:
    return due.end_ms if due.end_ms is not None else NEVER_MS


def _end(session: Session, policy: Policy, world: World, dues: list[Due], now_ms: int) -> Decision:
    """The end of what is due, or why it is held."""
    due = min(dues, key=_end_of)
    stop, tripped_ms = world.hold or session.set_aside, world.mass_end_ms
    if stop is not None:
        return _decision(Action.HOLD, due, session, world, None, ending=due, extra={"hold": stop})
    if tripped_ms is None:
        return _decision(Action.END, due, session, world, None, ending=due)
    extra: dict[str, Input] = {"mass_end_ms": tripped_ms}
    free = [one for one in dues if not _held(one, session, policy, tripped_ms, now_ms)]
    if free:
        due = min(free, key=_end_of)
        return _decision(Action.END, due, session, world, None, ending=due, extra=extra)
    released_ms = tripped_ms + policy.mass_hold_max_ms
    look = released_ms if now_ms < released_ms else None
    return _decision(Action.HOLD, due, session, world, look, ending=due, extra=extra | {"hold": breaker.HOLD})


def _held(due: Due, session: Session, policy: Policy, tripped_ms: int, now_ms: int) -> bool:
    """Does the mass-end breaker, tripped then, hold it?"""
    if due.rule == "told" or due.evidence_ms > tripped_ms:
        return False
    return alive_ms(session) > tripped_ms or now_ms < tripped_ms + policy.mass_hold_max_ms


def _first_nudge(session: Session, policy: Policy, dues: list[Due], now_ms: int) -> tuple[Due, str] | None:
    best: tuple[int, Due, str] | None = None
    for due in dues:
        for mark, at in due.nudges:
            fresh = now_ms - at + due.late_ms <= policy.effect_max_age_ms  # nobody is messaged about the distant past
            if at <= now_ms and fresh and mark not in session.nudged and (best is None or at < best[0]):
                best = (at, due, mark)
    return (best[1], best[2]) if best else None


def _next_look(session: Session, dues: list[Due], now_ms: int) -> int | None:
    times: list[int] = []
    for due in dues:
        if due.end_ms is not None:
            times.append(due.end_ms)
        if due.alert_ms is not None and due.alert_ms > now_ms:
            times.append(due.alert_ms)
        times.extend(at for mark, at in due.nudges if at > now_ms and mark not in session.nudged)
    return min(times, default=None)


def _decision(
    action: Action,
    due: Due,
    session: Session,
    world: World,
    look: int | None,
    *,
    mark: str | None = None,
    ending: Due | None = None,
    extra: dict[str, Input] | None = None,
) -> Decision:
    due_ms = ending.end_ms if ending is not None else None
    inputs = _inputs(session, world) | {"since_ms": due.since_ms, "waits_for": due.waits_for, "due_ms": due_ms}
    inputs |= extra or {}
    if due.put_off_by is not None:
        inputs["put_off_by"] = due.put_off_by
    if action is Action.END:
        inputs["evidence_ms"] = due.evidence_ms
    return Decision(action, due.rule, look, mark, due.ask, due_ms, due.evidence_ms, inputs)


def _inputs(session: Session, world: World) -> dict[str, Input]:
    """What it rests on, as far as there is any of it: of most sessions little, and this is made at each decision."""
    said: dict[str, Input] = {"started_ms": session.started_ms, "beats": session.beats.count}
    if session.ends:
        said["ended_hint_ms"] = session.ends[0].at_ms
    if session.timeouts:
        said["timeout_hint_ms"] = session.timeouts[0].at_ms
    if session.beats.last_ms:
        said["last_beat_ms"] = session.beats.last_ms
    if session.life_ms:
        said["life_ms"] = session.life_ms
    if session.still_here_ms:
        said["still_here_ms"] = session.still_here_ms
    if session.weak_life_ms:
        said["weak_life_ms"] = session.weak_life_ms
    if session.asked_ms:
        said["asked_ms"] = session.asked_ms
    if session.drained_ms is not None:
        said["drained_ms"] = session.drained_ms
    if session.reached is not None:
        said["reached"] = session.reached
    if not world.reachable:
        said["reachable"] = False
    if session.reported:
        said["reported"] = True
    if session.beats.count or session.away:  # else no clock reads the feed
        said |= _of_feed(world.feed, session.started_ms)
    if session.away:
        said |= {f"away_{role or 'unknown'}_ms": word.at_ms for role, word in session.away.items()}
    return said


def _of_feed(feed: Feed, started_ms: int) -> dict[str, Input]:
    said: dict[str, Input] = {}
    if feed.sole_room:
        said["sole_room"] = True
    if feed.since_ms > started_ms:
        said["feed_since_ms"] = feed.since_ms
    if feed.until_ms is not None:
        said["feed_until_ms"] = feed.until_ms
    return said
