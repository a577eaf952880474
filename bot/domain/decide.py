"""The decision: what to do about a session now, why, and when to look again.

Goals
 - never end a lesson that goes on, end every lesson that is over, and be able to say why.
Approach
 - Each row of the design's table is one rule below: from a session it derives when somebody should be nudged and when
   the end falls due. Rules don't know of each other; the earliest due end wins.
 - Silence is not evidence while a feed is down. A rule that reads silence asks `_proven` when that silence had been
   observed for long enough by a feed that was up all the while.
Promises
 - `decide` is pure and total: no clock, no I/O, an answer for every session.
 - An unauthenticated word never makes an end due.
Doesn't promise that a decision can be carried out: the chain is asked again before anything is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from bot.domain.policy import Policy
from bot.domain.session import Session, Word


class Action(StrEnum):
    WAIT = "wait"  # nothing to do until look_again_ms or the next fact
    NUDGE = "nudge"  # tell the participants
    END = "end"  # submit endSession
    HOLD = "hold"  # an end is due, but something says no; a person or a fact changes it
    ALERT = "alert"  # tell the operator
    CLOSE = "close"  # it has ended on chain


@dataclass(frozen=True, slots=True)
class Feed:
    """The feed that a session's signs of life come by: up without a break since, and until, if it is down now."""

    since_ms: int = 0
    until_ms: int | None = None  # None: it is up
    sole_room: bool = False  # the feed can't be told from its only room: silence of one is silence of both


@dataclass(frozen=True, slots=True)
class World:
    """What `decide` needs to know beyond the session itself."""

    feed: Feed = field(default_factory=Feed)
    reachable: bool = True  # some channel can reach participants
    direct: bool = True  # we sign with the owner's key, as the backend does
    hold: str | None = None  # why nothing may be signed at all: watching, paused


@dataclass(frozen=True, slots=True)
class Due:
    """What one rule makes of a session. `nudges` are (mark, at): a mark is nudged once."""

    rule: str
    since_ms: int
    end_ms: int | None = None
    nudges: tuple[tuple[str, int], ...] = ()
    ask: bool = False  # the nudge asks whether the lesson goes on
    alert_ms: int | None = None  # the operator should know, and then decides
    waits_for: str | None = None  # why there is no due time though the signal is there
    call_ended_ms: int | None = None  # when the call itself ended, as far as this rule knows
    hint: bool = True  # rests on somebody's word off chain: the backend gets a head start
    once: frozenset[str] = frozenset()  # marks of nudges that aren't repeated


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a session. `reason` is the rule's name; `inputs` are the values that it saw."""

    action: Action
    reason: str
    look_again_ms: int | None = None
    mark: str | None = None  # of the nudge or alert, which is given once
    ask: bool = False
    due_ms: int | None = None  # when the end falls due, if it is known
    inputs: dict[str, int | str | bool | None] = field(default_factory=dict)


Rule = Callable[[Session, Policy, World], Iterator[Due]]


def decide(session: Session, policy: Policy, world: World, now_ms: int) -> Decision:
    """What to do about `session` at `now_ms` (epoch ms, the keeper's clock)."""
    if session.ended:
        return Decision(Action.CLOSE, "ended-on-chain")
    dues = [_with_waits(due, session, policy, world) for rule in RULES for due in rule(session, policy, world)]
    dues = [_with_reminders(due, session, policy) for due in dues]
    ending = min((due for due in dues if due.end_ms is not None), key=_end_of, default=None)
    if ending is not None and now_ms >= _end_of(ending):
        return _end(session, policy, world, ending, now_ms)
    nudge = _first_nudge(session, policy, dues, now_ms)
    if nudge is not None:
        due, mark = nudge
        return _decision(Action.NUDGE, due, session, _next_look(session, dues, now_ms), mark=mark, ending=ending)
    for due in dues:
        mark = f"{due.rule}@{due.since_ms}"
        if due.alert_ms is not None and now_ms >= due.alert_ms and mark not in session.nudged:
            return _decision(Action.ALERT, due, session, _next_look(session, dues, now_ms), mark=mark, ending=ending)
    look = _next_look(session, dues, now_ms)
    begun = [due for due in dues if due.since_ms <= now_ms]
    telling = min(begun, key=_end_of, default=None)
    if telling is None:
        due_ms = ending.end_ms if ending is not None else None
        return Decision(Action.WAIT, "running", look, due_ms=due_ms, inputs=_inputs(session))
    return _decision(Action.WAIT, telling, session, look, ending=ending)


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


# The rules: the rows of the design's table -----------------------------------------------------------------------


def ended_by_participant(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """An end hint counts once the session's own heartbeats, if it had any, are silent for the grace."""
    hint = session.ended_hint
    if hint is None:
        return
    alive = max(session.beats.last_ms, session.life_ms)
    grace, again = policy.disconnect_grace_ms, session.ended_again
    if again is not None and hint.at_ms + grace < alive <= again.at_ms + grace:
        hint = again  # the first word was contradicted, the newest isn't
    contradicted = alive > hint.at_ms + grace
    quiet: int | None = hint.at_ms + grace  # without heartbeats or a way to tell anybody, the grace is still given
    if session.beats.count or contradicted:
        quiet = _proven(alive, grace, world.feed)
        if quiet is None and not contradicted:  # an explicit word: where no feed can prove silence, a long one will do
            quiet = _since(alive, world.feed) + policy.sole_room_timeout_ms
    end = None if quiet is None else max(hint.at_ms + _window(session, policy, world), quiet)
    if not contradicted:
        nudges = ((f"ended@{hint.at_ms}", hint.at_ms),)
        yield Due("ended", hint.at_ms, end, nudges, call_ended_ms=hint.at_ms)
        return
    # Contradiction: signs of life go on after the end hint. Both are asked; an answer withdraws the hint.
    cap = hint.at_ms + policy.contradiction_cap_ms
    asked = bool(session.asked_ms)
    answer_by = max(cap, session.asked_ms + policy.nudge_window_ms)  # a question delivered late can still be answered
    yield Due(
        "contradiction",
        hint.at_ms,
        min(time for time in (end, answer_by) if time is not None) if asked else end,
        ((f"ask@{hint.at_ms}", hint.at_ms + policy.disconnect_grace_ms),),
        ask=True,
        alert_ms=None if asked else cap,
        waits_for="answer",
    )


def connection_lost(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """A lost connection that doesn't come back within the grace, by a source that could report the return."""
    for role, lost in session.away.items():
        name = f"away:{role}" if role else "away"
        back_by = _proven(lost.at_ms, policy.disconnect_grace_ms, world.feed)
        if back_by is None and world.feed.sole_room:
            back_by = _since(lost.at_ms, world.feed) + policy.sole_room_timeout_ms
        if back_by is None:
            yield Due(name, lost.at_ms, waits_for="feed-down", call_ended_ms=lost.at_ms)
            continue
        nudges = ((f"{name}@{lost.at_ms}", back_by),)
        if not lost.can_return:
            yield Due(name, lost.at_ms, None, nudges, waits_for="end-or-timeout", call_ended_ms=lost.at_ms)
            continue
        yield Due(name, lost.at_ms, back_by + _window(session, policy, world), nudges, call_ended_ms=lost.at_ms)


def heartbeats_silent(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """The keeper's own heartbeat timeout, armed by a real series of authenticated heartbeats."""
    beats = session.beats
    if beats.count < policy.heartbeat_arm_count or beats.last_ms - beats.first_ms < policy.heartbeat_arm_ms:
        return
    last = max(beats.last_ms, session.life_ms, session.still_here_ms)
    silent = _proven(last, policy.heartbeat_timeout_ms, world.feed)
    end = None if silent is None else silent + policy.disconnect_grace_ms
    if world.feed.sole_room:
        since = _since(last, world.feed)
        silent = since + policy.heartbeat_timeout_ms
        end = max(silent + policy.disconnect_grace_ms, since + policy.sole_room_timeout_ms)
    if silent is None:
        yield Due("silence", last, waits_for="feed-down")
        return
    yield Due("silence", silent, end, ((f"silence@{last}", silent),), call_ended_ms=last)


def backend_timeout(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """`heartbeat-timeout` by the backend; a sign of life afterwards has withdrawn it."""
    hint = session.timeout_hint
    if hint is None:
        return
    ended = session.beats.last_ms or hint.at_ms
    yield Due(
        "timeout",
        hint.at_ms,
        hint.at_ms + policy.disconnect_grace_ms,
        ((f"timeout@{hint.at_ms}", hint.at_ms),),
        call_ended_ms=ended,
    )


def told_to(session: Session, _policy: Policy, _world: World) -> Iterator[Due]:
    """A participant's signature or an operator's `settle` ends at once."""
    if session.settle is not None:
        at = session.settle.at_ms
        yield Due("told", at, at, call_ended_ms=at, hint=False)


def balance_used_up(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """From here on the tutor works unpaid, and loses all if another session of this student ends first."""
    drained = session.drained_ms
    if drained is None:
        return
    warn = max(drained - policy.drain_warning_ms, session.started_ms)
    nudges = (("drain-warning", warn), ("drained", drained))
    once = frozenset({"drain-warning"})  # the lesson goes on, and one warning is enough
    yield Due("drained", drained, drained + policy.drain_grace_ms, nudges, hint=False, once=once)


def orphan(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """Never heard of off chain: the operator should look."""
    if session.heard:
        return
    at = session.started_ms + policy.orphan_after_ms
    yield Due("orphan", at, at if policy.end_orphans else None, alert_ms=at, hint=False)


def anonymous_end(session: Session, _policy: Policy, _world: World) -> Iterator[Due]:
    """What anybody could have said makes us ask, never sign."""
    hint = session.weak_end
    if hint is not None and session.ended_hint is None and session.weak_life_ms <= hint.at_ms:
        nudges = (("anonymous-end", hint.at_ms),)
        once = frozenset({"anonymous-end"})  # anybody could have anybody pestered
        yield Due("anonymous-end", hint.at_ms, None, nudges, waits_for="believed-word", once=once)


RULES: tuple[Rule, ...] = (
    told_to,
    ended_by_participant,
    connection_lost,
    heartbeats_silent,
    backend_timeout,
    balance_used_up,
    orphan,
    anonymous_end,
)


# Common parts ----------------------------------------------------------------------------------------------------


def _proven(from_ms: int, need_ms: int, feed: Feed) -> int | None:
    """When the silence since `from_ms` had lasted `need_ms` under a feed that was up; None while it can't be known."""
    at = _since(from_ms, feed) + need_ms
    return at if feed.until_ms is None or at <= feed.until_ms else None


def _since(at_ms: int, feed: Feed) -> int:
    """The later of a sign of life and the last return of its feed: silence is counted from there."""
    return max(at_ms, feed.since_ms)


def _window(session: Session, policy: Policy, world: World) -> int:
    """The nudge window; where no channel reaches either participant there is none."""
    return policy.nudge_window_ms if world.reachable and session.reached is not False else 0


def _with_waits(due: Due, session: Session, policy: Policy, world: World) -> Due:
    if due.end_ms is None:
        return due
    end = due.end_ms
    if due.hint and world.direct:
        end = max(end, due.since_ms + policy.backend_head_start_ms)
    if session.paying is not None:
        end = max(end, session.paying.at_ms + policy.pay_wait_ms)
    return due if end == due.end_ms else replace(due, end_ms=end)


def _with_reminders(due: Due, session: Session, policy: Policy) -> Due:
    """Each nudge that was given is given again, at growing distances, for as long as its rule stands."""
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
    return replace(due, nudges=(*due.nudges, *more)) if more else due


def _end_of(due: Due) -> int:
    return due.end_ms if due.end_ms is not None else 2**63


def _end(session: Session, policy: Policy, world: World, due: Due, now_ms: int) -> Decision:
    stop = world.hold or session.set_aside
    if stop is not None:
        return _decision(Action.HOLD, due, session, None, ending=due, extra={"hold": stop})
    return _decision(Action.END, due, session, None, ending=due)


def _first_nudge(session: Session, policy: Policy, dues: list[Due], now_ms: int) -> tuple[Due, str] | None:
    best: tuple[int, Due, str] | None = None
    for due in dues:
        for mark, at in due.nudges:
            fresh = now_ms - at <= policy.effect_max_age_ms  # nobody is messaged about the distant past
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
    look: int | None,
    *,
    mark: str | None = None,
    ending: Due | None = None,
    extra: dict[str, int | str | bool | None] | None = None,
) -> Decision:
    inputs = _inputs(session) | {"since_ms": due.since_ms, "waits_for": due.waits_for} | (extra or {})
    due_ms = ending.end_ms if ending is not None else None
    return Decision(action, due.rule, look, mark, due.ask, due_ms, inputs | {"due_ms": due_ms})


def _inputs(session: Session) -> dict[str, int | str | bool | None]:
    said: dict[str, int | str | bool | None] = {
        "started_ms": session.started_ms,
        "ended_hint_ms": _at(session.ended_hint),
        "timeout_hint_ms": _at(session.timeout_hint),
        "beats": session.beats.count,
        "last_beat_ms": session.beats.last_ms or None,
        "life_ms": session.life_ms or None,
        "drained_ms": session.drained_ms,
        "reached": session.reached,
    }
    said |= {f"away_{role or 'unknown'}_ms": word.at_ms for role, word in session.away.items()}
    return {name: value for name, value in said.items() if value is not None}


def _at(word: Word | None) -> int | None:
    return word.at_ms if word is not None else None
