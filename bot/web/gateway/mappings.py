"""The mappings `session:<room>`, in Redis as the documented backend writes them, or in memory.

Promises: Redis being down or slow degrades to what this process remembers, costs a request at most one short wait,
and is tried again a little later. A hostile value is no mapping.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bot.domain.address import Address
from bot.feeds import wire
from bot.settings import shown

log = structlog.get_logger(__name__)

TIMEOUT_S = 2.0
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
    """Redis where `redis_url` is given and it answers, memory otherwise."""

    def __init__(self, redis_url: str | None) -> None:
        self._memory: OrderedDict[str, tuple[float, Mapping]] = OrderedDict()  # room: (forget at, mapping)
        self._redis: Any = None
        self._resting_until_s = 0.0
        self._shown = shown(redis_url) if redis_url else None
        if redis_url:
            self._redis = aredis.from_url(
                redis_url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )

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
        forget_at, mapping = self._memory.get(room, (0.0, None))
        return mapping if forget_at > time.monotonic() else None

    async def put(self, mapping: Mapping) -> None:
        self._memory[mapping.room] = (time.monotonic() + wire.MAPPING_TTL_S, mapping)
        self._memory.move_to_end(mapping.room)
        if len(self._memory) > MAX_REMEMBERED:
            self._memory.popitem(last=False)
        if self._redis_may_answer():
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.delete(_key(mapping.room))
                    pipe.hset(_key(mapping.room), mapping=mapping.as_hash())
                    pipe.expire(_key(mapping.room), wire.MAPPING_TTL_S)
                    await pipe.execute()
            except (RedisError, OSError) as error:
                self._rest(error)

    async def delete(self, room: str) -> None:
        self._memory.pop(room, None)
        if self._redis_may_answer():
            try:
                await self._redis.delete(_key(room))
            except (RedisError, OSError) as error:
                self._rest(error)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def _redis_may_answer(self) -> bool:
        return self._redis is not None and time.monotonic() >= self._resting_until_s

    def _rest(self, error: Exception) -> None:
        self._resting_until_s = time.monotonic() + REST_S
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
