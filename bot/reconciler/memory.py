"""What is in memory: sessions that may still need us, rooms, heartbeats, balances, feeds, deadlines.

Promises: all of it can be rebuilt from the database, but for the feeds' states, which start afresh, and heartbeats of
the last moments. Nothing here awaits, stores or decides.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import structlog

from bot.domain.breaker import Breaker
from bot.domain.deadlines import Deadlines
from bot.domain.facts import Fact, SessionKey, Source
from bot.domain.feeds import SOCKET, WEBHOOK, FeedBoard
from bot.domain.linking import Book, Room
from bot.domain.policy import Policy
from bot.domain.rules import Feed, World
from bot.domain.saw import pack, session_of
from bot.domain.session import Session, adopt, fold
from bot.store.first_start import FirstStart
from bot.store.session_rows import LiveSession

log = structlog.get_logger("reconciler")

CANARY = SessionKey(0, "", "")  # a witness that is no session: a room of the keeper's own
STALL_MS = 5_000  # a gap in our own pulse longer than this is an outage of every feed


@lru_cache(maxsize=256)
def verdict(action: str, reason: str, hold: str | None) -> tuple[str, str, str | None]:
    """What was decided, one object for all sessions of which it was."""
    return action, reason, hold


@lru_cache(maxsize=256)
def world_of(
    feed: tuple[int, int | None],
    sole_room: bool,
    reachable: bool,
    direct: bool,
    hold: str | None,
    others_due_ms: tuple[int, ...],
    mass_end_ms: int | None,
) -> World:
    """One object for all sessions that live in it."""
    return World(Feed(*feed, sole_room), reachable, direct, hold, others_due_ms, mass_end_ms)


@dataclass(slots=True)
class Live:
    """A session that may still need us, with what the domain doesn't care about."""

    session: Session
    started_at: int | None
    token: str | None = None
    decided: tuple[str, str, str | None] = ("", "", None)  # action, reason, hold
    due_ms: int | None = None  # when its end falls due, as decided last
    settling: bool = False
    retry_ms: int = 0


@dataclass(slots=True)
class Conditions:
    """What holds for all sessions at once; `keeper.py` keeps it true."""

    reachable: bool = False
    direct: bool = True
    watching: bool = False
    paused: bool = False
    unsound: bool = False  # the chain took back what was final
    skew_ms: int = 0  # chain time minus ours

    @property
    def hold(self) -> str | None:
        if self.watching:
            return "watching"
        return "finality" if self.unsound else "paused" if self.paused else None


class Witnesses:
    """Which sessions were heard on the webhook lately, the one heard last at the end.

    A feed that carries several rooms can be told from each of them: while others are heard, one's silence is its own.
    A session counts as a witness for another only if it was still heard when that one was heard last, so one that has
    been silent for long, held or set aside, vouches for nobody. The canary is
    a witness like any other. Cost: O(1), but for a word that comes out of order.
    """

    def __init__(self, silence_ms: int) -> None:
        self._silence_ms = silence_ms
        self._heard: dict[SessionKey, int] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def heard(self, key: SessionKey, at_ms: int) -> int:
        """How long it hadn't been heard."""
        before_ms = self._heard.pop(key, 0)
        at_ms = max(at_ms, before_ms)
        newest = self._heard[next(reversed(self._heard))] if self._heard else 0
        self._heard[key] = at_ms
        if at_ms < newest:
            self._heard = dict(sorted(self._heard.items(), key=lambda item: item[1]))
        return at_ms - before_ms

    def forget(self, key: SessionKey) -> None:
        self._heard.pop(key, None)

    def alone(self, key: SessionKey, heard_ms: int) -> bool:
        """Was nobody else heard when `key` was heard last, at `heard_ms`, nor since?"""
        for other in reversed(self._heard):
            if other != key:
                return self._heard[other] < heard_ms - self._silence_ms
        return True


class Held:
    """The sessions whose ends the mass-end breaker holds, with what they cost together, base units a second."""

    def __init__(self) -> None:
        self._rates: dict[SessionKey, int] = {}
        self.rate = 0

    def __len__(self) -> int:
        return len(self._rates)

    def __iter__(self) -> Iterator[SessionKey]:
        return iter(self._rates)

    def add(self, key: SessionKey, rate: int) -> None:
        self.discard(key)
        self._rates[key] = rate
        self.rate += rate

    def discard(self, key: SessionKey) -> None:
        self.rate -= self._rates.pop(key, 0)

    def clear(self) -> None:
        self._rates.clear()
        self.rate = 0


class Memory:
    def __init__(self, policy: Policy, clock_ms: Callable[[], int], webhook_silence_ms: int) -> None:
        self.policy = policy
        self.clock = clock_ms
        self.conditions = Conditions()
        self.counters: Counter[str] = Counter()
        self.deadlines: Deadlines[SessionKey] = Deadlines()
        self.book = Book()
        self.live: dict[SessionKey, Live] = {}
        self.over: dict[SessionKey, None] = {}  # ended on chain, not final
        self.aside: dict[SessionKey, None] = {}  # whose end reverted too often
        self.by_student: dict[str, tuple[SessionKey, ...]] = {}
        self.balances: dict[str, int] = {}
        self.may_withdraw: set[str] = set()  # students who can take their balance away from sessions that run
        self._rooms: deque[Room] = deque()
        self.witnesses = Witnesses(webhook_silence_ms)
        self.loaded = False
        self.watches = True  # false: only what somebody orders is decided
        self._pulse_ms = clock_ms()
        self.breaker: Breaker[SessionKey] = Breaker()
        self.held = Held()
        self.first_start = FirstStart()
        self.feeds = FeedBoard(self._pulse_ms, webhook_silence_ms)

    # Time and the world ---------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The time, and the pulse: a gap in it means that we heard nothing meanwhile."""
        now = self.clock()
        if abs(now - self._pulse_ms) > STALL_MS:
            log.warning("keeper.stalled", gap_s=round((now - self._pulse_ms) / 1000, 1))
            self.feeds.outage(now)
        self._pulse_ms = now
        return now

    def world(self, live: Live) -> World:
        """What `decide` has to know beyond the session."""
        session, conditions = live.session, self.conditions
        source = session.beat_source
        heard_ms = session.beats.last_ms
        for word in session.away.values():
            source = source or word.source
            heard_ms = max(heard_ms, word.at_ms)
        posted = source is Source.WEBHOOK or source is Source.OPEN_WEBHOOK
        return world_of(
            self.feeds.span(WEBHOOK if posted else SOCKET, self.clock()),
            posted and self.witnesses.alone(session.key, heard_ms),
            conditions.reachable,
            conditions.direct,
            conditions.hold,
            self._others_due(live),
            self.breaker.tripped_ms,
        )

    def _others_due(self, live: Live) -> tuple[int, ...]:
        """When ends of the same student's other sessions fall due, as decided last. Not asked while its own is sent."""
        key = live.session.key
        others = self.by_student.get(key.student, ())
        if len(others) < 2 or live.settling:
            return ()
        dues = (self.live[other].due_ms for other in others if other != key and not self.live[other].session.ended)
        return tuple(sorted(due for due in dues if due is not None))

    # Sessions -------------------------------------------------------------------------------------------------------

    def admit(self, row: LiveSession) -> None:
        """A session of the chain that may need us."""
        started_ms = self.clock() if row.started_at is None else row.started_at * 1000 - self.conditions.skew_ms
        before = row.key.session_id <= self.first_start.newest_id
        session = Session(
            key=row.key,
            started_ms=started_ms,
            ended=row.ended,
            counts_from_ms=self.first_start.at_ms if before else 0,
            reported=before,
            rate=row.rate,
        )
        self.live[row.key] = Live(session, row.started_at, row.token)
        self.book.add(row.key, started_ms, active=not row.ended)
        if row.ended:
            self.over[row.key] = None
        mine = self.by_student.get(row.key.student, ())
        if row.key not in mine:
            self.by_student[row.key.student] = (*mine, row.key)

    def ended(self, key: SessionKey) -> None:
        """It has ended on chain, for now: a reorg may undo it."""
        live = self.live[key]
        live.session.ended = True
        live.settling = False
        self.over[key] = None
        self.aside.pop(key, None)
        self.deadlines.set(key, None)
        self.book.ended(key)
        self.held.discard(key)
        self.witnesses.forget(key)

    def forget(self, key: SessionKey) -> None:
        """Drops all that is kept of a session, but for its rooms."""
        self.deadlines.set(key, None)
        self.live.pop(key, None)
        self.book.forget(key)
        self.held.discard(key)
        self.witnesses.forget(key)
        self.over.pop(key, None)
        self.aside.pop(key, None)
        others = tuple(other for other in self.by_student.get(key.student, ()) if other != key)
        if others:
            self.by_student[key.student] = others
        else:
            self.by_student.pop(key.student, None)
            self.balances.pop(key.student, None)
            self.may_withdraw.discard(key.student)

    def active(self) -> Iterable[Live]:
        """Those that aren't over, the newest first."""
        return (live for live in reversed(self.live.values()) if not live.session.ended)

    def refold(self, key: SessionKey, facts: Iterable[Fact]) -> None:
        """Makes a session anew, of all its facts in order: some were linked to it after later ones were folded."""
        live = self.live.get(key)
        if live is None:
            return
        live.session = session_of(pack(live.session, World()), key, (), live.session.nudged)
        for fact in facts:
            self.fold(live, fact)

    def fold(self, live: Live, fact: Fact) -> None:
        """Takes one fact into a session."""
        fold(live.session, fact)
        if live.session.set_aside:
            self.aside[live.session.key] = None
        elif live.session.key in self.aside:
            del self.aside[live.session.key]

    # Rooms and heartbeats -------------------------------------------------------------------------------------------

    def add_room(self, room: Room) -> None:
        self.book.rooms[room.room] = room
        self._rooms.append(room)

    def next_rooms(self, limit: int) -> list[Room]:
        """The next few of all rooms, in turn: none is looked at twice before the others were."""
        found = []
        for _ in range(min(limit, len(self._rooms))):
            room = self._rooms.popleft()
            if self.book.rooms.get(room.room) is room:
                found.append(room)
                self._rooms.append(room)
        return found

    def know_room(self, room: Room) -> None:
        """A room as it was stored."""
        self.add_room(room)
        if room.key is None:
            self.book.wait(room)
        else:
            self.book.keep(room)
            self.adopt_beats(room, room.key)

    def adopt_beats(self, room: Room, key: SessionKey) -> None:
        """A room was joined to a session: its heartbeats are the session's."""
        live = self.live.get(key)
        if live is None or room.beats.count == 0 or room.beat_source is None:
            return
        adopt(live.session, room.beats, room.beat_source)
        self.note_beater(key, room.beat_source)

    def note_beater(self, key: SessionKey, source: Source) -> None:
        """A heartbeat of this session came by that source."""
        session = self.live[key].session
        if source is Source.WEBHOOK and not session.ended:
            self.witnesses.heard(key, session.beats.last_ms)
