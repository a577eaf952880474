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
    hint: bool = False  # rests on what was said, or not, off chain: the backend gets a head start
    word: bool = False  # rests on the backend's own word, that TRUST_BACKEND_HINTS is about
    evidence_ms: int = 0  # the newest that it rests on
    once: frozenset[str] = frozenset()  # marks of nudges that aren't repeated
    late_ms: int = 0  # how long before we heard it, it had happened, as a record says
    put_off_by: str | None = None  # why `end_ms` is later than the rule says


Rule = Callable[[Session, Policy, World], Iterator[Due]]


def told_to(session: Session, _policy: Policy, _world: World) -> Iterator[Due]:
    """A participant's signature or an operator's `settle` ends at once."""
    if session.settle is not None:
        at = session.settle.at_ms
        yield Due("told", at, at, call_ended_ms=at, evidence_ms=at)


def ended_by_participant(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """An end hint counts once the session's own heartbeats, if it had any, are silent for the grace.

    Said again, the earliest that no sign of life contradicts counts. A contradicted one is a question to both.
    """
    grace, known = policy.disconnect_grace_ms, alive_ms(session)
    standing = next((word for word in session.ends if known <= word.at_ms + grace), None)
    if standing is not None:
        yield _reported(standing, known, session, policy, world)
    if session.ends and session.ends[0] is not standing:
        yield _contradicted(session.ends[0], known, standing, session, policy, world)


def _reported(word: Word, known: int, session: Session, policy: Policy, world: World) -> Due:
    grace = policy.disconnect_grace_ms
    # Without heartbeats or a way to tell anybody, the grace is still given, also to who came back within it.
    quiet = max(word.at_ms, known) + grace
    if session.beats.count:
        # An explicit word: where no feed can prove silence, a long one will do.
        long = _since(known, world.feed) + policy.sole_room_timeout_ms
        quiet = _proven(known, grace, world.feed) or long
    end = max(word.at_ms + _window(session, policy, world), _delayed(quiet, grace, session, policy))
    if session.weak_life_ms > word.at_ms + grace:
        return _question(word, end, session, policy)
    return Due(
        "ended",
        word.at_ms,
        end,
        ((f"ended@{word.at_ms}", word.at_ms),),
        call_ended_ms=word.at_ms,
        hint=True,
        word=True,
        evidence_ms=session.word_ms,
        late_ms=word.late_ms,
    )


def _contradicted(word: Word, known: int, standing: Word | None, session: Session, policy: Policy, world: World) -> Due:
    """When the signs of life stop it counts all the same, unless a later word does: then that one's times hold."""
    quiet = _proven(known, policy.disconnect_grace_ms, world.feed) if standing is None else None
    if quiet is None:
        return _question(word, None, session, policy)
    quiet = _delayed(quiet, policy.disconnect_grace_ms, session, policy)
    return _question(word, max(word.at_ms + _window(session, policy, world), quiet), session, policy)


def _question(word: Word, end_ms: int | None, session: Session, policy: Policy) -> Due:
    """Signs of life go on after the end hint. Both are asked; an answer withdraws the hint."""
    cap = word.at_ms + policy.contradiction_cap_ms
    answer_by = max(cap, session.asked_ms + policy.nudge_window_ms)  # a question delivered late can still be answered
    asked = bool(session.asked_ms)
    if asked:
        end_ms = answer_by if end_ms is None else min(end_ms, answer_by)
    return Due(
        "contradiction",
        word.at_ms,
        end_ms,
        ((f"ask@{word.at_ms}", word.at_ms + policy.disconnect_grace_ms),),
        ask=True,
        alert_ms=None if asked else cap,
        waits_for="answer",
        hint=True,
        word=True,
        evidence_ms=max(session.word_ms, session.asked_ms),
        late_ms=word.late_ms,
    )


def connection_lost(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """A lost connection that doesn't come back within the grace, by a source that could report the return."""
    grace = policy.disconnect_grace_ms
    for role, lost in session.away.items():
        name = f"away:{role}" if role else "away"
        back_by = _proven(lost.at_ms, grace, world.feed)
        if back_by is None and world.feed.sole_room:
            back_by = _since(lost.at_ms, world.feed) + policy.sole_room_timeout_ms
        end = None
        if back_by is not None:
            back_by = _delayed(back_by, grace, session, policy)
            end = back_by + _window(session, policy, world) if lost.can_return else None
        yield Due(
            name,
            lost.at_ms,
            end,
            ((f"{name}@{lost.at_ms}", back_by),) if back_by is not None else (),
            waits_for=None if end is not None else "feed-down" if back_by is None else "end-or-timeout",
            call_ended_ms=lost.at_ms,
            hint=True,
            word=True,
            evidence_ms=session.word_ms,
            late_ms=lost.late_ms,
        )


def heartbeats_silent(session: Session, policy: Policy, world: World) -> Iterator[Due]:
    """The keeper's own heartbeat timeout, armed by a real series of authenticated heartbeats."""
    if not _armed(session, policy):
        return
    last, need, grace = alive_ms(session), policy.heartbeat_timeout_ms, policy.disconnect_grace_ms
    silent = _proven(last, need, world.feed)
    if world.feed.sole_room:
        silent = _since(last, world.feed) + need
        grace = max(grace, policy.sole_room_timeout_ms - need)
    if silent is None:
        yield Due("silence", last, waits_for="feed-down")
        return
    silent = _delayed(silent, need, session, policy)
    nudges = ((f"silence@{last}", silent),)
    yield Due("silence", silent, silent + grace, nudges, call_ended_ms=last, hint=True, evidence_ms=last)


def backend_timeout(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """`heartbeat-timeout` by the backend; a sign of life afterwards has withdrawn it."""
    hint = session.timeout_hint
    if hint is None:
        return
    yield Due(
        "timeout",
        hint.at_ms,
        _delayed(hint.at_ms + policy.disconnect_grace_ms, policy.disconnect_grace_ms, session, policy),
        ((f"timeout@{hint.at_ms}", hint.at_ms),),
        call_ended_ms=session.beats.last_ms or hint.at_ms,
        hint=True,
        word=True,
        evidence_ms=session.word_ms,
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
    yield Due("drained", drained, end, nudges, evidence_ms=drained, once=once)


def orphan(session: Session, policy: Policy, _world: World) -> Iterator[Due]:
    """Never heard of off chain: the operator should look."""
    if session.heard:
        return
    at = max(session.started_ms, session.counts_from_ms) + policy.orphan_after_ms
    end = at if policy.end_orphans else None
    yield Due("orphan", at, end, alert_ms=None if session.reported else at, evidence_ms=at)


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
        quiet = _proven(alive_ms(session), policy.disconnect_grace_ms, world.feed)
        if quiet is not None:
            found.append(quiet)
    return min(found, default=None)


# Common parts ----------------------------------------------------------------------------------------------------


def _armed(session: Session, policy: Policy) -> bool:
    """Did it have a real series of heartbeats?"""
    beats = session.beats
    return beats.count >= policy.heartbeat_arm_count and beats.last_ms - beats.first_ms >= policy.heartbeat_arm_ms


def alive_ms(session: Session) -> int:
    """The newest sign of life that is believed."""
    return max(session.beats.last_ms, session.life_ms, session.still_here_ms)


def _delayed(at_ms: int, need_ms: int, session: Session, policy: Policy) -> int:
    """`at_ms`, at which silence had lasted `need_ms`, as put off by a sign of life that anybody could have sent."""
    return max(at_ms, min(session.weak_life_ms + need_ms, at_ms + policy.contradiction_cap_ms))


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
