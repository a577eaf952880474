"""The signalling server's posts, passed on to the backend that used to get them.

The observed backends answer an end by ending whatever session the tutor has by then, and a lost connection or
heartbeats that stop by the same, a little later. So nothing is passed on that could hit another lesson.

Promises
 - `take` returns when an end, a loss or a return is stored; heartbeats are not, the next one is seconds away.
 - An end or a loss is passed on only while the newest block shows the very session of its room in its tutor's slot,
   looked at again before each try, and never after `max_age_ms`. It then expires, counted and logged.
 - Heartbeats are passed on only of sessions that the index shows as running: of one that is over they would start
   the backend's own watch, which ends the tutor's next lesson.
 - Ends first, then losses and returns in their order, then heartbeats: the newest of each room, the room longest
   without one first, but no room's watch is begun at the cost of those begun before.
 - Never more requests in any 60 s than `window` lets through. 429, 5xx and a lost connection are tried again,
   `Retry-After` respected. What the backend refuses otherwise is not.
 - Nothing here delays a settlement or an answer to the signalling server.
Doesn't promise that the slot can't change between the look and the backend's own call.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import structlog

from bot.domain.facts import Hint, Kind, SessionKey
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.limits import Window, retry_after_ms
from bot.values import shown

log = structlog.get_logger(__name__)

PER_MINUTE = 90  # the observed backends answer 429 from the 101st request of a minute
RESERVED = 15  # of these, for ends, losses and returns
BEAT_WITHIN_MS = 120_000  # the backend takes a room for dead after so long without a heartbeat
BEAT_SOON_MS = 100_000  # from here on a room whose watch was begun goes before one that is new
BEAT_AGAIN_MS = 20_000  # no room's heartbeat more often than this
MAX_AGE_MS = 60_000
TIMEOUT_S = 15.0
WORKERS = 4  # a backend that is slow with one end doesn't hold up the others
LOOK_EVERY_S = 0.25
SWEEP_EVERY_S = 1.0
MAX_PAUSE_MS = 120_000
MAX_DELAY_MS = 30_000


class Queue(Protocol):
    """Where ends, losses and returns wait."""

    async def load(self) -> list[tuple[int, Hint, SessionKey | None]]: ...
    async def add(self, hint: Hint, key: SessionKey | None) -> int: ...
    async def done(self, numbers: Sequence[int]) -> None: ...


class Sessions(Protocol):
    """What the keeper knows of sessions."""

    def joined(self, room: str) -> SessionKey | None:
        """The session that the room was joined to."""
        ...

    def running(self, key: SessionKey) -> bool:
        """Whether the index shows it as active."""
        ...

    async def in_slot(self, key: SessionKey, began_by_ms: int | None) -> bool:
        """Whether the newest block shows this session in its tutor's slot, begun by then. Raises TryAgain."""
        ...


@dataclass(slots=True)
class _Post:
    """An end, a loss or a return that waits."""

    number: int
    hint: Hint
    key: SessionKey | None
    tries: int = 0
    not_before_ms: int = 0


@dataclass(slots=True)
class _Beat:
    """A room's heartbeats: the newest one that wasn't passed on, and when one was."""

    first_ms: int
    heard_ms: int
    hint: Hint | None
    passed_ms: int | None = None
    not_before_ms: int = 0


class Tee:
    """`counters` has taken, passed, coalesced, expired, over, refused, again."""

    def __init__(
        self,
        url: str,
        queue: Queue,
        sessions: Sessions,
        on_starved: Callable[[str], Awaitable[None]],
        *,
        clock_ms: Callable[[], int],
        window: Window | None = None,
        max_age_ms: int = MAX_AGE_MS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.counters: Counter[str] = Counter(taken=0, passed=0, coalesced=0, expired=0, over=0, refused=0, again=0)
        self._url = url
        self._queue = queue
        self._sessions = sessions
        self._on_starved = on_starved
        self._clock = clock_ms
        self._max_age_ms = max_age_ms
        self._timeout_s = timeout_s
        self._window = window or Window(PER_MINUTE)
        # A small limit keeps a part for ends too.
        self._reserved = min(RESERVED, self._window.limit // 4)
        self._posts: dict[int, _Post] = {}
        self._beats: dict[str, _Beat] = {}
        self._busy: set[str] = set()
        self._wake = asyncio.Event()
        self._paused_until_ms = 0
        self._failures = 0
        self._starved = False

    @property
    def waiting(self) -> int:
        """Posts that wait, heartbeats not counted."""
        return len(self._posts)

    async def take(self, hint: Hint) -> None:
        """Takes a post that was stored as a hint already. Raises what the queue raises."""
        assert hint.room is not None
        self.counters["taken"] += 1
        if hint.kind is Kind.HEARTBEAT:
            self._take_beat(hint.room, hint)
            return
        if hint.kind is Kind.ENDED and self._ends(hint.room):
            self.counters["coalesced"] += 1  # both participants' pages say so
            return
        key = self._sessions.joined(hint.room)
        number = await self._queue.add(hint, key)
        self._posts[number] = _Post(number, hint, key)
        self._wake.set()

    async def run(self) -> None:
        """Passes on what waits, until cancelled."""
        for number, hint, key in await self._queue.load():
            self._posts.setdefault(number, _Post(number, hint, key))
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(http))
            group.create_task(self._sweep())

    def _take_beat(self, room: str, hint: Hint) -> None:
        beat = self._beats.get(room)
        if beat is None:
            self._beats[room] = _Beat(hint.received_ms, hint.received_ms, hint)
            return
        self.counters["coalesced"] += beat.hint is not None
        beat.hint, beat.heard_ms = hint, hint.received_ms

    def _ends(self, room: str) -> bool:
        return any(post.hint.room == room and post.hint.kind is Kind.ENDED for post in self._posts.values())

    # One post after the other ----------------------------------------------------------------------------------------

    async def _work(self, http: aiohttp.ClientSession) -> None:
        while True:
            post = self._next()
            if post is None:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._wake.wait()
                continue
            room = post.hint.room or ""
            self._busy.add(room)
            try:
                await self._pass_on(http, post)
            except Exception as error:
                # A database or a node in trouble: this post waits, the others don't.
                log.warning("tee.later", room=room, error=type(error).__name__)
                self._later(post)
            finally:
                self._busy.discard(room)

    def _next(self) -> _Post | None:
        now, free = self._clock(), self._window.free()
        if free <= 0 or now < self._paused_until_ms:
            return None
        waiting = [
            post for post in self._posts.values() if post.not_before_ms <= now and post.hint.room not in self._busy
        ]
        for post in waiting:
            if post.hint.kind is Kind.ENDED:
                return post
        if waiting:
            return waiting[0]
        return self._next_beat(now) if free > self._reserved else None

    def _next_beat(self, now: int) -> _Post | None:
        urgent: tuple[int, str] | None = None  # a watch that was begun and is about to be taken for dead
        new: tuple[int, str] | None = None
        spare: tuple[int, str] | None = None
        for room, beat in self._beats.items():
            if beat.hint is None or beat.not_before_ms > now or room in self._busy:
                continue
            if beat.passed_ms is None:
                new = min(new or (beat.first_ms, room), (beat.first_ms, room))
            elif now - beat.passed_ms >= BEAT_SOON_MS:
                urgent = min(urgent or (beat.passed_ms, room), (beat.passed_ms, room))
            elif now - beat.passed_ms >= BEAT_AGAIN_MS:
                spare = min(spare or (beat.passed_ms, room), (beat.passed_ms, room))
        found = urgent or new or spare
        if found is None:
            return None
        hint = self._beats[found[1]].hint
        assert hint is not None
        return _Post(0, hint, None)

    async def _pass_on(self, http: aiohttp.ClientSession, post: _Post) -> None:
        if self._expired(post):
            await self._expire([post])
            return
        judged = await self._judge(post)
        if judged is None:
            self._later(post)
        elif not judged:
            self.counters["over"] += 1
            log.info("tee.over", kind=post.hint.kind, room=post.hint.room)
            await self._done(post)
        elif self._window.free() > 0 and self._clock() >= self._paused_until_ms and not self._expired(post):
            self._window.use()
            await self._send(http, post)

    async def _judge(self, post: _Post) -> bool | None:
        """Whether it may be passed on; None: not known yet."""
        hint = post.hint
        if hint.kind is Kind.CONNECTED:
            return True  # starts no clock of the backend's
        key = post.key or self._sessions.joined(hint.room or "")
        if key is None:
            return None
        if not self._sessions.running(key):
            return False
        if hint.kind is Kind.HEARTBEAT:
            return True
        if not _agrees(hint.payload, key):
            return False
        try:
            # A room that was joined only later may have been joined to the lesson after the one that is meant.
            return await self._sessions.in_slot(key, None if post.key else hint.received_ms)
        except TryAgain:
            return None

    async def _send(self, http: aiohttp.ClientSession, post: _Post) -> None:
        try:
            async with http.post(self._url, json=dict(post.hint.payload), allow_redirects=False) as answer:
                status, wait = answer.status, answer.headers.get("Retry-After")
        except TimeoutError:
            status, wait = 504, None
        except aiohttp.ClientError as error:
            self._failures += 1
            self._pause(_delay_ms(self._failures))
            if self._failures == 1:
                log.warning("tee.down", backend=shown(self._url), error=type(error).__name__)
            self._later(post)
            return
        if self._failures:
            log.info("tee.up", backend=shown(self._url))
        self._failures = 0
        if status == 429:
            self._pause(retry_after_ms(wait, self._clock()) or _delay_ms(post.tries + 1))
            self._later(post)
        elif status >= 500:
            asked = retry_after_ms(wait, self._clock())
            if asked is not None:
                self._pause(asked)
            log.info("tee.again", kind=post.hint.kind, room=post.hint.room, status=status)
            self._later(post)
        else:
            passed = 200 <= status < 300
            self.counters["passed" if passed else "refused"] += 1
            if not passed:
                log.warning("tee.refused", kind=post.hint.kind, room=post.hint.room, status=status)
            elif post.number:
                log.info("tee.passed", kind=post.hint.kind, room=post.hint.room, tries=post.tries)
            await self._done(post)

    async def _done(self, post: _Post) -> None:
        room = post.hint.room or ""
        if post.number == 0:
            beat = self._beats.get(room)
            if beat is not None:
                beat.passed_ms = self._clock()
                if beat.hint is post.hint:
                    beat.hint = None
            return
        if post.hint.kind is Kind.ENDED:
            # What was said of the room before its end could only begin a watch anew.
            before = [p.number for p in self._posts.values() if p.hint.room == room and p.number <= post.number]
            beat = self._beats.get(room)
            if beat is not None and beat.heard_ms <= post.hint.received_ms:
                beat.hint = None
        else:
            before = [post.number]
        for number in before:
            self._posts.pop(number, None)
        await self._queue.done(before)

    def _later(self, post: _Post) -> None:
        self.counters["again"] += 1
        post.tries += 1
        at_ms = self._clock() + _delay_ms(post.tries)
        post.not_before_ms = at_ms
        beat = self._beats.get(post.hint.room or "")
        if post.number == 0 and beat is not None:
            beat.not_before_ms = at_ms

    def _pause(self, for_ms: int) -> None:
        self._paused_until_ms = max(self._paused_until_ms, self._clock() + min(for_ms, MAX_PAUSE_MS))

    # Now and then ----------------------------------------------------------------------------------------------------

    def _expired(self, post: _Post) -> bool:
        return self._clock() - post.hint.received_ms > self._max_age_ms

    async def _expire(self, posts: Sequence[_Post]) -> None:
        for post in posts:
            self.counters["expired"] += 1
            if post.number == 0:
                self._beats[post.hint.room or ""].hint = None
            else:
                self._posts.pop(post.number, None)
                log.warning("tee.expired", kind=post.hint.kind, room=post.hint.room, tries=post.tries)
        stored = [post.number for post in posts if post.number]
        if stored:
            await self._queue.done(stored)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await self.sweep()
            except Exception as error:
                log.warning("tee.not-swept", error=type(error).__name__)

    async def sweep(self) -> None:
        """Drops what has expired, forgets silent rooms, and says when the limit starves rooms. To be called often."""
        now = self._clock()
        old = [post for post in self._posts.values() if self._expired(post) and post.hint.room not in self._busy]
        await self._expire(old)
        for room in [room for room, beat in self._beats.items() if now - beat.heard_ms > BEAT_WITHIN_MS]:
            del self._beats[room]
        await self._watch_limit(now)

    async def _watch_limit(self, now: int) -> None:
        alive = [
            beat
            for room, beat in self._beats.items()
            if (key := self._sessions.joined(room)) is not None and self._sessions.running(key)
        ]
        carried = (self._window.limit - self._reserved) * BEAT_WITHIN_MS // 60_000
        late = [beat for beat in alive if beat.hint and now - (beat.passed_ms or beat.first_ms) > BEAT_WITHIN_MS]
        if not self._starved and (len(alive) > carried or late):
            self._starved = True
            await self._on_starved(
                f"{len(alive)} rooms have heartbeats, {len(late)} of them were not passed on for "
                f"{BEAT_WITHIN_MS // 1000} s: the limit of {self._window.limit} requests a minute carries {carried}. "
                "The backend takes such a room for dead and ends its lesson"
            )
        elif self._starved and len(alive) <= carried * 0.9 and not late:
            self._starved = False


def _delay_ms(tries: int) -> int:
    """Doubling from half a second, with jitter."""
    return round(min(MAX_DELAY_MS, 500 * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0))


def _agrees(body: Mapping[str, Any], key: SessionKey) -> bool:
    """Whether no address in the post names others than the session's. The backend may act on any of them."""
    inner = body.get("session")
    for said in (body, inner if isinstance(inner, dict) else {}):
        for name, address in (("studentAddress", key.student), ("tutorAddress", key.tutor)):
            value = said.get(name)
            if value not in (None, "") and wire.as_address(value) != address:
                return False
    return True
