"""The rules: what each signal makes of a session, as in `bot.domain.table`.

Each rule derives from a session when somebody should be nudged and when the end falls due. Rules don't know of each
other. A rule that reads silence asks `_proven` when that silence had been observed for long enough by a feed that was
up all the while.
Promises: pure and total; an unauthenticated word never makes an end due, and puts one off by CONTRADICTION_CAP_S at
most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bot.domain.policy import Policy
from bot.domain.session import Session, Word


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
    hold: str | None = None  # why nothing may be signed at all: watching, finality, paused
    others_due_ms: tuple[int, ...] = ()  # when ends of the same student's other sessions fall due
    mass_end_ms: int | None = None  # when the mass-end breaker tripped, None: it hasn't


class Due(NamedTuple):
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
    word: bool = False  # rests on the backend's own word, that TRUST_BACKEND_HINTS is about
    evidence_ms: int = 0  # the newest that it rests on
    once: frozenset[str] = frozenset()  # marks of nudges that aren't repeated
    late_ms: int = 0  # how long before we heard it, it had happened, as a record says


Rule = Callable[[Session, Policy, World], Iterator[Due]]


def told_to(session: Session, _policy: Policy, _world: World) -> Iterator[Due]:
    """A participant's signature or an operator's `settle` ends at once."""
    if session.settle is not None:
        at = session.settle.at_ms
        yield Due("told", at, at, call_ended_ms=at, hint=False, evidence_ms=at)


def ended_by_participant(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """An end hint counts once the session's own heartbeats, if it had any, are silent for the grace."""
    hint = session.ended_hint
    if hint is None:
        return
    grace, again = policy.disconnect_grace_ms, session.ended_again
    alive = _alive(session, policy, hint)
    if again is not None and hint.at_ms + grace < alive <= again.at_ms + grace:
        hint = again  # the first word was contradicted, the newest isn't
        alive = _alive(session, policy, hint)
    contradicted = alive > hint.at_ms + grace
    # Without heartbeats or a way to tell anybody, the grace is still given, also to who came back within it.
    quiet: int | None = max(hint.at_ms, alive) + grace
    if session.beats.count or contradicted:
        quiet = _proven(alive, grace, world.feed)
        if quiet is None and not contradicted:  # an explicit word: where no feed can prove silence, a long one will do
            quiet = _since(alive, world.feed) + policy.sole_room_timeout_ms
    end = None if quiet is None else max(hint.at_ms + _window(session, policy, world), quiet)
    newest = max(hint.at_ms, session.word_ms)
    if not contradicted:
        yield Due(
            "ended",
            hint.at_ms,
            end,
            ((f"ended@{hint.at_ms}", hint.at_ms),),
            call_ended_ms=hint.at_ms,
            word=True,
            evidence_ms=newest,
            late_ms=hint.late_ms,
        )
        return
    # Contradiction: signs of life go on after the end hint. Both are asked; an answer withdraws the hint.
    cap = hint.at_ms + policy.contradiction_cap_ms
    asked = bool(session.asked_ms)
    answer_by = max(cap, session.asked_ms + policy.nudge_window_ms)  # a question delivered late can still be answered
    yield Due(
        "contradiction",
        hint.at_ms,
        min(time for time in (end, answer_by) if time is not None) if asked else end,
        ((f"ask@{hint.at_ms}", hint.at_ms + grace),),
        ask=True,
        alert_ms=None if asked else cap,
        waits_for="answer",
        word=True,
        evidence_ms=max(newest, session.asked_ms),
        late_ms=hint.late_ms,
    )


def connection_lost(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """A lost connection that doesn't come back within the grace, by a source that could report the return."""
    for role, lost in session.away.items():
        name = f"away:{role}" if role else "away"
        since = max(lost.at_ms, _weak(session, lost.at_ms, policy))
        back_by = _proven(since, policy.disconnect_grace_ms, world.feed)
        if back_by is None and world.feed.sole_room:
            back_by = _since(since, world.feed) + policy.sole_room_timeout_ms
        end = None
        if back_by is not None and lost.can_return:
            end = back_by + _window(session, policy, world)
        yield Due(
            name,
            lost.at_ms,
            end,
            ((f"{name}@{lost.at_ms}", back_by),) if back_by is not None else (),
            waits_for=None if end is not None else "feed-down" if back_by is None else "end-or-timeout",
            call_ended_ms=lost.at_ms,
            word=True,
            evidence_ms=max(lost.at_ms, session.word_ms),
            late_ms=lost.late_ms,
        )


def heartbeats_silent(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """The keeper's own heartbeat timeout, armed by a real series of authenticated heartbeats."""
    if not _armed(session, policy):
        return
    known = max(session.beats.last_ms, session.life_ms, session.still_here_ms)
    last = max(known, _weak(session, known, policy))
    silent = _proven(last, policy.heartbeat_timeout_ms, world.feed)
    end = None if silent is None else silent + policy.disconnect_grace_ms
    if world.feed.sole_room:
        since = _since(last, world.feed)
        silent = since + policy.heartbeat_timeout_ms
        end = max(silent + policy.disconnect_grace_ms, since + policy.sole_room_timeout_ms)
    if silent is None:
        yield Due("silence", last, waits_for="feed-down", evidence_ms=last)
        return
    yield Due("silence", silent, end, ((f"silence@{last}", silent),), call_ended_ms=known, evidence_ms=last)


def backend_timeout(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """`heartbeat-timeout` by the backend; a sign of life afterwards has withdrawn it."""
    hint = session.timeout_hint
    if hint is None:
        return
    yield Due(
        "timeout",
        hint.at_ms,
        max(hint.at_ms, _weak(session, hint.at_ms, policy)) + policy.disconnect_grace_ms,
        ((f"timeout@{hint.at_ms}", hint.at_ms),),
        call_ended_ms=session.beats.last_ms or hint.at_ms,
        word=True,
        evidence_ms=max(hint.at_ms, session.word_ms),
        late_ms=hint.late_ms,
    )


def balance_used_up(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """From here on the tutor works unpaid, and loses all if another session of this student ends first."""
    drained = session.drained_ms
    if drained is None:
        return
    warn = max(drained - policy.drain_warning_ms, session.started_ms)
    nudges = (("drain-warning", warn), ("drained", drained))
    once = frozenset({"drain-warning"})  # the lesson goes on, and one warning is enough
    end = drained + policy.drain_grace_ms
    yield Due("drained", drained, end, nudges, hint=False, evidence_ms=drained, once=once)


def orphan(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """Never heard of off chain: the operator should look."""
    if session.heard:
        return
    at = max(session.started_ms, session.counts_from_ms) + policy.orphan_after_ms
    end = at if policy.end_orphans else None
    yield Due("orphan", at, end, alert_ms=None if session.reported else at, hint=False, evidence_ms=at)


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


def corroborated_ms(due: Due, session: Session, policy: Policy, world: World) -> int | None:
    """Since when something stands beside the backend's word; None if nothing does, yet.

    Heartbeats once had that have been silent for the grace, or a delivered nudge about it that could be objected to,
    and wasn't within the window.
    """
    marks = {mark for mark, _ in due.nudges}
    found = [at + policy.nudge_window_ms for told, at in session.answerable.items() if told.partition("#")[0] in marks]
    if _armed(session, policy):
        quiet = _proven(max(session.beats.last_ms, session.life_ms), policy.disconnect_grace_ms, world.feed)
        if quiet is not None:
            found.append(quiet)
    return min(found, default=None)


# Common parts ----------------------------------------------------------------------------------------------------


def _armed(session: Session, policy: Policy) -> bool:
    """Did it have a real series of heartbeats?"""
    beats = session.beats
    return beats.count >= policy.heartbeat_arm_count and beats.last_ms - beats.first_ms >= policy.heartbeat_arm_ms


def _alive(session: Session, policy: Policy, hint: Word) -> int:
    """The newest sign of life, as far as it counts against `hint`."""
    known = max(session.beats.last_ms, session.life_ms, session.still_here_ms)
    return max(known, _weak(session, hint.at_ms, policy))


def _weak(session: Session, from_ms: int, policy: Policy) -> int:
    """The newest sign of life that anybody could have sent: it puts off what counts from `from_ms`, not for ever."""
    return min(session.weak_life_ms, from_ms + policy.contradiction_cap_ms)


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
