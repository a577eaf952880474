"""What the facts make of a session.

Goal: everything that `decide` needs to know of one session, as data without logic, made by folding facts in the
order in which they were stored.
Promises: `fold` is deterministic: the same facts in the same order give an equal session, so recovery is replay.
It never raises, whatever a fact says; a fact that its trust doesn't allow to count is ignored or counts as weak.
Doesn't promise anything about time: there is no clock here. Times are the keeper's receive times in epoch ms;
chain times are converted by the caller before they get here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bot.domain import trust
from bot.domain.facts import NO_BEATS, Beats, Fact, Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.trust import Allowed, Right

ENDINGS = frozenset({Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT})
ABOUT_ROOMS = frozenset({Kind.READY, Kind.MAPPING})  # they link rooms, and say nothing of the call itself
KEPT = 8  # words of a kind
EARLY_MS = 15_000  # how far the chain's clock and ours may be apart
_NONE: Mapping[Any, Any] = MappingProxyType({})  # one for all sessions: of most, nothing of the kind was ever said


@dataclass(frozen=True, slots=True)
class Word:
    """Somebody's word that still counts: when we heard it, and from whom."""

    at_ms: int
    source: Source
    can_return: bool = False
    late_ms: int = 0  # how long before we heard it, it had happened, as a record says


@dataclass(slots=True)
class Session:
    """One session on chain with all that was said of it. Changed by `fold` and by the chain's facts only."""

    key: SessionKey
    started_ms: int  # its SessionStarted's block time, by the keeper's clock
    ended: bool = False  # on the canonical chain as we know it
    counts_from_ms: int = 0  # ends and losses from before that are recorded only: the first start's, where it ran then
    reported: bool = False  # the operator was told at the first start that it is open
    rate: int | None = None  # base units per second
    drained_ms: int | None = None  # when the student's balance is used up, predicted
    heard: bool = False  # anything at all, off chain
    ends: tuple[Word, ...] = ()  # those that no *still in the lesson* has answered
    weak_end: Word | None = None  # an end that anybody could have said
    timeouts: tuple[Word, ...] = ()  # those that no sign of life has withdrawn
    losses: tuple[Word, ...] = ()  # the same of those without a role
    away: Mapping[Role | None, Word] = field(default_factory=lambda: _NONE)
    beats: Beats = NO_BEATS
    beat_source: Source | None = None
    life_ms: int = 0  # newest sign of life that is no heartbeat
    word_ms: int = 0  # the newest believed end, loss or time-out, whether it changed anything or not
    weak_life_ms: int = 0  # newest sign of life that anybody could have sent
    still_here_ms: int = 0
    settle: Word | None = None
    paying: Word | None = None
    reached: bool | None = None  # did a nudge reach anybody? None: not tried, or not known
    told: bool = False  # a nudge reached somebody, or was handed to a channel that doesn't say whether it did
    nudged: Mapping[str, int] = field(default_factory=lambda: _NONE)  # mark of a nudge or alert -> when it was given
    answerable: Mapping[str, int] = field(
        default_factory=lambda: _NONE
    )  # marks of those delivered, with a way to object
    asked_ms: int = 0  # when a question was delivered
    attempts: int = 0  # of settling that failed
    set_aside: str | None = None  # why it isn't tried any more

    @property
    def ended_hint(self) -> Word | None:
        """The first that stands."""
        return self.ends[0] if self.ends else None

    @property
    def timeout_hint(self) -> Word | None:
        """The first that stands."""
        return self.timeouts[0] if self.timeouts else None


def fold(session: Session, fact: Fact) -> None:
    """Takes one fact into the session."""
    hint = fact.hint
    at = hint.received_ms
    lives = trust.fully(hint.trust, Right.LIFE)
    if hint.kind in ENDINGS and _is_past(session, hint):
        return
    if hint.trust > Trust.ANONYMOUS and hint.source not in (Source.KEEPER, Source.CHAIN, Source.OPERATOR):
        session.heard = True  # what anybody could have said doesn't keep an operator from looking
    if hint.kind in ABOUT_ROOMS:
        return
    believed = trust.fully(hint.trust, Right.END)
    if hint.kind in ENDINGS and believed:
        session.word_ms = max(session.word_ms, at)
    match hint.kind:
        case Kind.ENDED:
            word = _word(hint)
            if believed:
                session.ends = _with(session.ends, word)
            elif trust.allowed(hint.trust, Right.NUDGE) is Allowed.LIMITED:
                session.weak_end = session.weak_end or word
        case Kind.DISCONNECTED if believed:
            _lost(session, _word(hint), hint.role)
        case Kind.TIMEOUT if believed:
            if max(session.beats.last_ms, session.life_ms) <= at:  # else a later sign of life has withdrawn it
                session.timeouts = _with(session.timeouts, _word(hint))
        case Kind.CONNECTED if lives:
            lost = session.away.get(hint.role)
            if hint.role is not None and lost is not None and at >= lost.at_ms:
                session.away = _without(session.away, hint.role)
            _alive(session, at, back=hint.role is None)
            if hint.source is not Source.RECORD:  # read late, it says who was there, not that somebody is
                session.life_ms = max(session.life_ms, at)
        case Kind.HEARTBEAT if lives:
            beat(session, at, 1, hint.source)
        case Kind.CONNECTED | Kind.HEARTBEAT if trust.allowed(hint.trust, Right.LIFE) is Allowed.DELAYS:
            session.weak_life_ms = max(session.weak_life_ms, at)
        case Kind.STILL_HERE if trust.allowed(hint.trust, Right.LIFE) is Allowed.YES:
            session.still_here_ms = at
            session.weak_end = None
            session.ends = session.timeouts = session.losses = ()
            session.away = _NONE
            session.asked_ms = 0
        case Kind.SETTLE if trust.fully(hint.trust, Right.END_AT_ONCE):
            session.settle = session.settle or Word(at, hint.source)
            if hint.source is Source.OPERATOR:  # a participant's word doesn't pay for trying a poison session for ever
                session.set_aside, session.attempts = None, 0
        case Kind.PAYING:
            session.paying = session.paying or Word(at, hint.source)
        case Kind.NUDGE:
            _nudge_outcome(session, at, hint.payload)
        case Kind.ALERT:
            give(session, str(hint.payload.get("mark")), at)
        case Kind.SETTLEMENT:
            _settlement_outcome(session, hint.payload)


def beat(session: Session, at_ms: int, count: int, source: Source) -> None:
    """Takes heartbeats into the session; they are coalesced and not facts of their own."""
    session.heard = True
    session.beats = session.beats.plus(at_ms, count)
    session.beat_source = source
    _alive(session, at_ms)


def adopt(session: Session, beats: Beats, source: Source) -> None:
    """The same of all the heartbeats of a room that turned out to be the session's."""
    session.heard = True
    session.beats += beats
    session.beat_source = source
    _alive(session, beats.last_ms)


def give(session: Session, mark: str, at_ms: int) -> None:
    """A nudge or alert of this mark is given."""
    session.nudged = {**session.nudged, mark: at_ms}


def gave(session: Session, mark: str, at_ms: int) -> None:
    """The same of an earlier one, unless it is known already."""
    if mark not in session.nudged:
        give(session, mark, at_ms)


def _word(hint: Hint) -> Word:
    late_ms = 0
    if hint.source is Source.RECORD and hint.said_ms is not None:
        late_ms = max(0, hint.received_ms - hint.said_ms)
    return Word(hint.received_ms, hint.source, hint.can_return, late_ms)


def _is_past(session: Session, hint: Hint) -> bool:
    """Is this end, loss or time-out one that doesn't count any more, or never did?

    Said before the session began, it was another lesson's; of before the first start it is recorded only; and what a
    record repeats from before a participant's *still in the lesson* has been answered.
    """
    if hint.received_ms + EARLY_MS < session.started_ms:
        return True
    if hint.source is not Source.RECORD:
        return hint.received_ms < session.counts_from_ms
    happened_ms = hint.said_ms or 0
    return happened_ms < session.counts_from_ms or (hint.said_ms is not None and happened_ms <= session.still_here_ms)


def _lost(session: Session, word: Word, role: Role | None) -> None:
    # Heartbeats are no facts: after a restart they are known before the loss is folded, and may be newer than it.
    if role is None and max(session.beats.last_ms, session.life_ms) > word.at_ms:
        return
    if role is None:
        session.losses = _with(session.losses, word)
    known = session.away.get(role)
    if known is None or (word.can_return and not known.can_return):
        session.away = {**session.away, role: word}


def _alive(session: Session, at_ms: int, *, back: bool = False) -> None:
    """A sign of life withdraws time-outs and, as without a role one leaving looks like both leaving, such losses.

    Where our clock has gone back, a word that is later by it stands, as it does when all is folded anew.
    `back`: it says of itself that somebody is back, so that it withdraws also what was heard in the same moment.
    """
    if session.losses:
        left = [word for word in session.losses if word.at_ms > at_ms or (word.at_ms == at_ms and not back)]
        if len(left) < len(session.losses):
            session.losses, session.away = (), _without(session.away, None)
            for word in left:
                _lost(session, word, None)
    if session.timeouts:
        session.timeouts = tuple(word for word in session.timeouts if word.at_ms >= at_ms)


def _with(words: tuple[Word, ...], word: Word) -> tuple[Word, ...]:
    """These and one more; of too many the one that came soonest after another is left out, and never the first."""
    words = (*words, word)
    if len(words) <= KEPT:
        return words
    spare = min(range(1, len(words)), key=lambda at: words[at].at_ms - words[at - 1].at_ms)
    return (*words[:spare], *words[spare + 1 :])


def _without(away: Mapping[Role | None, Word], role: Role | None) -> Mapping[Role | None, Word]:
    return {other: word for other, word in away.items() if other != role} or _NONE


def _nudge_outcome(session: Session, at_ms: int, payload: object) -> None:
    said = payload if isinstance(payload, dict) else {}
    given_ms = said.get("created_ms")
    give(session, str(said.get("mark")), given_ms if isinstance(given_ms, int) else at_ms)
    session.told |= said.get("outcome") in ("delivered", "sent")
    delivered = said.get("delivered")
    if said.get("dropped") or delivered is None:
        return  # too late to be sent, or the channel doesn't say: nothing was learnt of who can be reached
    if delivered or not session.told:  # whoever was sent one has been given the window, and keeps it
        session.reached = bool(session.reached or delivered)
    if delivered and said.get("answerable"):
        session.answerable = {str(said.get("mark")): at_ms, **session.answerable}
    if delivered and said.get("ask"):
        session.asked_ms = session.asked_ms or at_ms


def _settlement_outcome(session: Session, payload: object) -> None:
    said = payload if isinstance(payload, dict) else {}
    if said.get("outcome") == "failed":
        session.attempts += 1
    if said.get("outcome") in ("cured", "reason-changed"):
        session.set_aside, session.attempts = None, 0
    if said.get("set_aside"):
        session.set_aside = str(said["set_aside"])
