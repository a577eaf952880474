"""The mappings `session:<room>`, in Redis as the documented backend writes them, or in memory.

Promises: Redis being down or slow degrades to what this process remembers, costs a request at most one short wait,
and is tried again a little later. A hostile value is no mapping.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError

from bot.domain.address import Address
from bot.feeds import wire
from bot.values import shown
from bot.web.gateway.redis_shelf import connected

log = structlog.get_logger(__name__)

REST_S = 5.0
MAX_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Mapping:
    """Who belongs to a room."""

    room: str
    student: Address | None
    tutor: Address | None
    language_id: int | None
    start_ms: int | None
    student_url: str | None = None
    tutor_url: str | None = None

    def as_hash(self) -> dict[str, str]:
        """The documented hash: all values strings, addresses in lower case."""
        fields = {
            "sessionId": self.room,
            "studentAddress": (self.student or "").lower(),
            "tutorAddress": (self.tutor or "").lower(),
            "languageId": self.language_id,
            "startTime": self.start_ms,
            "studentUrl": self.student_url,
            "tutorUrl": self.tutor_url,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


class Mappings:
    """Redis where `redis_url` is given and it answers, memory otherwise. The memory is kept over restarts."""

    kind = "mapping"

    def __init__(self, redis_url: str | None, clock_ms: Callable[[], int]) -> None:
        self.changed: set[str] = set()
        self._memory: OrderedDict[str, tuple[int, Mapping]] = OrderedDict()  # room: (forget at ms, mapping)
        self._clock_ms = clock_ms
        self._redis: Any = connected(redis_url) if redis_url else None
        self._resting_until_s = 0.0
        self._missed = False  # Redis was down, and may have lost what it had
        self._shown = shown(redis_url) if redis_url else None

    @property
    def where(self) -> str:
        """`redis`, `memory`, or `memory, redis is down`."""
        if self._redis is None:
            return "memory"
        return "redis" if self._redis_may_answer() else "memory, redis is down"

    async def get(self, room: str) -> Mapping | None:
        if self._redis_may_answer():
            try:
                values = await self._redis.hmget(_key(room), wire.MAPPING_FIELDS)
                return _from_hash(room, values)
            except (RedisError, OSError) as error:
                self._rest(error)
        forget_ms, mapping = self._memory.get(room, (0, None))
        return mapping if forget_ms > self._clock_ms() else None

    async def put(self, mapping: Mapping) -> None:
        self._memory[mapping.room] = (self._clock_ms() + wire.MAPPING_TTL_S * 1000, mapping)
        self._memory.move_to_end(mapping.room)
        self.changed.add(mapping.room)
        if len(self._memory) > MAX_REMEMBERED:
            self.changed.add(self._memory.popitem(last=False)[0])
        if self._redis_may_answer():
            try:
                await self._store([mapping])
            except (RedisError, OSError) as error:
                self._rest(error)

    async def delete(self, room: str) -> None:
        if self._memory.pop(room, None) is not None:
            self.changed.add(room)
        if self._redis_may_answer():
            try:
                await self._redis.delete(_key(room))
            except (RedisError, OSError) as error:
                self._rest(error)

    async def mend(self, still_wanted: Callable[[str], bool]) -> None:
        """Writes what is remembered to a Redis that was down and is back. To be called now and then."""
        now_ms = self._clock_ms()
        for room in [room for room, (forget_ms, _) in self._memory.items() if forget_ms <= now_ms]:
            del self._memory[room]
            self.changed.add(room)
        if not self._missed or not self._redis_may_answer():
            return
        try:
            await self._store([mapping for _, mapping in self._memory.values() if still_wanted(mapping.room)])
            self._missed = False
        except (RedisError, OSError) as error:
            self._rest(error)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def names(self) -> Iterable[str]:
        return self._memory.keys()

    def dump(self, name: str) -> tuple[str, int] | None:
        forget_ms, mapping = self._memory.get(name, (0, None))
        return None if mapping is None else (json.dumps({**asdict(mapping), "forget": forget_ms}), forget_ms)

    def restore(self, name: str, text: str) -> None:
        said = json.loads(text)
        forget_ms = int(said.pop("forget"))
        self._memory.setdefault(name, (forget_ms, Mapping(**said)))

    async def _store(self, mappings: Iterable[Mapping]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            for mapping in mappings:
                key, forget_ms = _key(mapping.room), self._memory[mapping.room][0]
                pipe.delete(key)
                pipe.hset(key, mapping=mapping.as_hash())
                pipe.pexpireat(key, forget_ms)
            await pipe.execute()

    def _redis_may_answer(self) -> bool:
        return self._redis is not None and time.monotonic() >= self._resting_until_s

    def _rest(self, error: Exception) -> None:
        self._resting_until_s = time.monotonic() + REST_S
        self._missed = True
        log.warning("gateway.redis_down", redis=self._shown, error=type(error).__name__)


def _key(room: str) -> str:
    return wire.MAPPING_PREFIX + room


def _from_hash(room: str, values: list[bytes | None]) -> Mapping | None:
    texts = {
        name: value.decode("utf-8", "replace")
        for name, value in zip(wire.MAPPING_FIELDS, values, strict=True)
        if value is not None and len(value) <= wire.MAX_ROOM_CHARS
    }
    student, tutor = wire.as_address(texts.get("studentAddress")), wire.as_address(texts.get("tutorAddress"))
    if student is None and tutor is None:
        return None
    language = texts.get("languageId", "")
    return Mapping(
        room=room,
        student=student,
        tutor=tutor,
        language_id=int(language) if language.isascii() and language.isdigit() and len(language) <= 3 else None,
        start_ms=wire.as_epoch_ms(texts.get("startTime")),
    )
