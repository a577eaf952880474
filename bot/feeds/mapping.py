"""The backend's session mappings in Redis: which addresses belong to a room.

Promises: `look` reads one mapping on demand; all are read by SCAN at start, after each reconnect, and
when somebody asks for it: `scan_soon`, after the socket was lost. A missing,
expired, wrong-typed, oversized or hostile value is no hint, counted and logged, and nothing worse. Redis being
down is a degraded state: logged once, tried again with backoff, and never in anybody's way.
Doesn't promise that a mapping exists (often it doesn't), nor that it is true.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio as aredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from bot.domain.address import same
from bot.domain.facts import Hint, SessionKey
from bot.errors import TryAgain
from bot.feeds import wire
from bot.values import shown

log = structlog.get_logger(__name__)

TIMEOUT_S = 5.0
WATCH_EVERY_S = 2.0
MAX_DELAY_S = 5.0  # as of the socket: a return should be noticed well within a nudge window
MAX_VALUE_BYTES = 512
SCAN_BATCH = 500
MAX_KEYS = 100_000


class MappingFeed:
    """One Redis database. `take` must not block or raise. `counters` has received, refused, missing, scans."""

    def __init__(
        self,
        redis_url: str,
        take: Callable[[Hint], None],
        *,
        clock_ms: Callable[[], int],
        on_state: Callable[[bool], None] | None = None,
        watch_every_s: float = WATCH_EVERY_S,
    ) -> None:
        self.counters: Counter[str] = Counter(received=0, refused=0, missing=0, scans=0)
        self.up = False
        self._shown = shown(redis_url)
        self._take = take
        self._clock_ms = clock_ms
        self._on_state = on_state
        self._watch_every_s = watch_every_s
        self._said_down = False
        self._scan_asked = asyncio.Event()
        # No retries inside a call: whoever asks would wait, and `run` tries again anyway.
        self._redis: Any = aredis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    async def run(self) -> None:
        """Scans, then watches the connection and scans again after each loss, until cancelled."""
        delay_s = self._watch_every_s
        try:
            while True:
                try:
                    if self.up and not self._scan_asked.is_set():
                        await self._redis.ping()
                    else:
                        self._scan_asked.clear()
                        await self.scan()
                        self._set_up(True)
                    delay_s = self._watch_every_s
                except (TryAgain, RedisError, OSError) as error:
                    self._down(error)
                    delay_s = min(delay_s * 2, MAX_DELAY_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s * random.uniform(0.8, 1.2)):
                        await self._scan_asked.wait()
        finally:
            await self.close()

    def scan_soon(self) -> None:
        """Mappings may have been made unheard: all are read again, at once if Redis is up."""
        if self.up:
            self._scan_asked.set()

    async def close(self) -> None:
        """Lets go of the connections. Safe to call more than once."""
        await self._redis.aclose()

    async def look(self, room: str) -> Hint | None:
        """Takes the room's mapping and returns it, or None: no mapping, no sane one, or Redis is down.

        What a down Redis couldn't tell comes with the scan after its return.
        """
        try:
            hints = await self._read([room])
        except TryAgain as error:
            self._down(error)
            return None
        return hints[0] if hints else None

    async def forget(self, room: str) -> None:
        """Deletes the room's mapping, as the backend does after an end. Raises TryAgain when Redis is down."""
        try:
            await self._redis.delete(_key(room))
        except (RedisError, OSError) as error:
            self._down(error)
            raise TryAgain(f"the mapping can't be deleted ({type(error).__name__})") from None

    async def forget_ended(self, room: str, key: SessionKey, ended_ms: int) -> bool:
        """Deletes the room's mapping if it is that of this session, and whether it was. Raises TryAgain.

        A page may use a room's name again: a mapping made after the end, or for others, stays.
        """
        try:
            small = await self._small([room])
            values = await self._redis.hmget(_key(room), wire.MAPPING_FIELDS) if small else []
        except (RedisError, OSError) as error:
            self._down(error)
            raise TryAgain(f"the mapping can't be read ({type(error).__name__})") from None
        hint = self._hint(room, values) if values else None
        if hint is None or not (same(hint.student, key.student) and same(hint.tutor, key.tutor)):
            return False
        if hint.said_ms is not None and hint.said_ms > ended_ms:
            return False
        await self.forget(room)
        return True

    async def scan(self) -> int:
        """Takes all mappings and returns how many there were. Raises TryAgain when Redis is down."""
        found = seen = 0
        cursor = 0
        try:
            while True:
                cursor, keys = await self._redis.scan(cursor, match=f"{wire.MAPPING_PREFIX}*", count=SCAN_BATCH)
                rooms = [room for key in keys if (room := self._room(key)) is not None]
                if rooms:
                    found += len(await self._read(rooms))
                seen += len(keys)
                if cursor == 0 or seen >= MAX_KEYS:
                    break
        except (RedisError, OSError) as error:
            raise TryAgain(f"Redis can't be scanned ({type(error).__name__})") from None
        self.counters["scans"] += 1
        log.info("mapping.scanned", redis=self._shown, keys=seen, mappings=found)
        return found

    async def _read(self, rooms: Sequence[str]) -> list[Hint]:
        """Takes and returns the sane mappings among `rooms`. Raises TryAgain when Redis is down."""
        try:
            small = await self._small(rooms)
            async with self._redis.pipeline(transaction=False) as pipe:
                for room in small:
                    pipe.hmget(_key(room), wire.MAPPING_FIELDS)
                answers = await pipe.execute(raise_on_error=False) if small else []
            hints = [self._hint(room, values) for room, values in zip(small, answers, strict=True)]
        except (RedisError, OSError) as error:
            raise TryAgain(f"Redis can't be read ({type(error).__name__})") from None
        sane = [hint for hint in hints if hint is not None]
        for hint in sane:
            self.counters["received"] += 1
            self._take(hint)
        return sane

    async def _small(self, rooms: Sequence[str]) -> list[str]:
        """Those whose fields are small enough to be fetched. A hash can hold half a gigabyte."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for room in rooms:
                for field in wire.MAPPING_FIELDS:
                    pipe.hstrlen(_key(room), field)
            answers = await pipe.execute(raise_on_error=False)
        width = len(wire.MAPPING_FIELDS)
        small = []
        for index, room in enumerate(rooms):
            lengths = answers[index * width : (index + 1) * width]
            if self._is_error(room, lengths):
                continue
            if not any(lengths):
                self.counters["missing"] += 1
            elif max(lengths) > MAX_VALUE_BYTES:
                self._refuse(room, "oversized", f"a value is larger than {MAX_VALUE_BYTES} bytes")
            else:
                small.append(room)
        return small

    def _hint(self, room: str, values: Any) -> Hint | None:
        if self._is_error(room, [values]):
            return None
        try:
            fields = {
                name: value.decode()
                for name, value in zip(wire.MAPPING_FIELDS, values, strict=True)
                if value is not None
            }
            if not fields:  # expired between the two looks
                self.counters["missing"] += 1
                return None
            return wire.from_mapping(room, fields, self._clock_ms())
        except UnicodeDecodeError:
            self._refuse(room, "not-text", "a value is not UTF-8")
        except wire.Refused as refused:
            self._refuse(room, refused.reason, refused.detail)
        return None

    def _is_error(self, room: str, answers: Sequence[Any]) -> bool:
        """True for a key of another type; raises what isn't about the key."""
        for answer in answers:
            if isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer):
                self._refuse(room, "wrong-type", "the key is not a hash")
                return True
            if isinstance(answer, Exception):
                raise answer
        return False

    def _room(self, key: bytes) -> str | None:
        try:
            return wire.room_of(key.decode().removeprefix(wire.MAPPING_PREFIX))[0]
        except UnicodeDecodeError:
            self._refuse("", "not-text", "a key is not UTF-8")
        except wire.Refused as refused:
            self._refuse("", refused.reason, refused.detail)
        return None

    def _refuse(self, room: str, reason: str, detail: str) -> None:
        self.counters["refused"] += 1
        log.warning("mapping.refused", room=room, reason=reason, detail=detail)

    def _down(self, error: Exception) -> None:
        if not self._said_down:
            self._said_down = True
            reason = str(error) if isinstance(error, TryAgain) else type(error).__name__
            log.warning("mapping.down", redis=self._shown, error=reason)
        self._set_up(False)

    def _set_up(self, up: bool) -> None:
        if up:
            self._said_down = False
        if self.up == up:
            return
        self.up = up
        if up:
            log.info("mapping.up", redis=self._shown)
        if self._on_state is not None:
            self._on_state(up)


def _key(room: str) -> str:
    return wire.MAPPING_PREFIX + room
