"""The gateway's memory in Redis: a text for each name, under `langdao-gateway:`, that expires by itself.

Promises: one `write` is one transaction; a Redis that is down, slow or answers oddly is TryAgain, and costs one short
wait. Each text carries a seal: others write to this Redis too, and what they write under our names isn't read.
Doesn't promise that Redis kept what it had: whoever had a failed write writes everything anew.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Any

import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bot.errors import TryAgain
from bot.store.shelf import Entry

TIMEOUT_S = 2.0
PREFIX = "langdao-gateway:"
_PAGE = 1_000


def connected(redis_url: str) -> Any:
    """A client that gives up soon: whoever uses it knows what to do without."""
    return aredis.from_url(
        redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )


class RedisShelf:
    where = "redis"

    def __init__(self, redis_url: str, secret: str) -> None:
        self._redis = connected(redis_url)
        self._secret = secret.encode()

    async def read(self, now_ms: int) -> list[tuple[str, str, str]]:
        """(kind, name, text) of all that is there and is ours. Raises TryAgain."""
        found: list[tuple[str, str, str]] = []
        try:
            keys = [key async for key in self._redis.scan_iter(match=f"{PREFIX}*", count=_PAGE)]
            for start in range(0, len(keys), _PAGE):
                page = keys[start : start + _PAGE]
                for key, sealed in zip(page, await self._redis.mget(page), strict=True):
                    seal, _, text = (sealed or b"").partition(b" ")
                    if hmac.compare_digest(seal, self._seal(key, text)):
                        kind, _, name = key.decode("utf-8", "surrogatepass").removeprefix(PREFIX).partition(":")
                        found.append((kind, name, text.decode()))
        except (RedisError, OSError) as error:
            raise TryAgain(f"Redis can't be read ({type(error).__name__})") from None
        return found

    async def write(self, entries: Iterable[Entry], now_ms: int) -> None:
        """All of these or none. Raises TryAgain."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for kind, name, text, until_ms in entries:
                    key = f"{PREFIX}{kind}:{name}".encode("utf-8", "surrogatepass")
                    if text is None or until_ms <= now_ms:
                        pipe.delete(key)
                    else:
                        said = text.encode()
                        pipe.set(key, self._seal(key, said) + b" " + said, px=until_ms - now_ms)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise TryAgain(f"Redis can't be written ({type(error).__name__})") from None

    def _seal(self, key: bytes, text: bytes) -> bytes:
        return hmac.new(self._secret, key + b"\0" + text, "sha256").hexdigest().encode()

    async def close(self) -> None:
        await self._redis.aclose()
