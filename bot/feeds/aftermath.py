"""What the backend is told once a session has ended on chain.

Promises: `POST /api/webrtc-session-ended` goes only to a backend that verifies what it is told; the observed ones
would end whatever session the tutor has by then. Elsewhere only the mapping `session:<room>` is deleted, as a
backend does it itself, and only while it still is that lesson's. Both are tried again until they are done, or
older than MAX_AGE_S, `Retry-After` respected. Requests count against the same limit as the tee's, where the backend is
the same. Nothing here delays a settlement.
Doesn't promise that a backend listens.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import structlog

from bot.domain.ended import EndedRoom
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.limits import Window, retry_after_ms
from bot.feeds.mapping import MappingFeed
from bot.values import shown

log = structlog.get_logger(__name__)

MAX_AGE_S = 3600
LOOK_EVERY_S = 5.0
MAX_DELAY_S = 60.0
MAX_ASKED_S = 600.0
TIMEOUT_S = 10.0
BETWEEN_S = 1.0  # so that a burst of ends stays far below anybody's limit


class Ended(Protocol):
    """Rooms whose session is over, and what was done about them."""

    async def waiting(self, since_s: int) -> list[EndedRoom]: ...
    async def done(self, ended: EndedRoom, how: str, at_ms: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Verifier:
    """A backend that looks at the chain before it believes an end, or never touches it. `url` is without a path.

    With a token it is thought to be the bundled one, and asked for its name before it is told anything.
    """

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class Aftermath:
    """`counters` has told, cleaned, left, refused, again."""

    def __init__(
        self,
        ended: Ended,
        verifier: Verifier | None,
        mapping: MappingFeed | None,
        *,
        clock_ms: Callable[[], int],
        window: Window | None = None,
        look_every_s: float = LOOK_EVERY_S,
        between_s: float = BETWEEN_S,
    ) -> None:
        self.counters: Counter[str] = Counter(told=0, cleaned=0, left=0, refused=0, again=0)
        self._ended = ended
        self._verifier = verifier
        self._mapping = mapping
        self._clock = clock_ms
        self._window = window
        self._look_every_s = look_every_s
        self._between_s = between_s

    async def run(self) -> None:
        """Looks for ended rooms until cancelled."""
        delay_s = self._look_every_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
            while True:
                try:
                    await self.look(http)
                    delay_s = self._look_every_s
                except Exception as error:
                    # A dead backend, Redis or disk: the rooms wait where they are stored.
                    self.counters["again"] += 1
                    log.info("aftermath.later", error=type(error).__name__)
                    asked_s = error.after_s if isinstance(error, TryAgain) else 0.0
                    delay_s = max(min(delay_s * 2, MAX_DELAY_S), min(asked_s, MAX_ASKED_S))
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))

    async def look(self, http: aiohttp.ClientSession) -> None:
        """Does once what waits. Raises TryAgain at the first that can't be done now."""
        for ended in await self._ended.waiting(self._clock() // 1000 - MAX_AGE_S):
            tells = self._verifier is not None and await self._verifies(http, self._verifier)
            how = await self._tell(http, ended) if tells else await self._clean(ended)
            self.counters[how] += 1
            log.info(f"aftermath.{how}", session=ended.key.session_id, room=ended.room)
            await self._ended.done(ended, how, self._clock())
            if tells:
                await asyncio.sleep(self._between_s)

    async def _verifies(self, http: aiohttp.ClientSession, verifier: Verifier) -> bool:
        """A token that was given for another backend doesn't make that one verify."""
        if verifier.token is None:
            return True
        self._use_window()
        try:
            async with http.get(verifier.url + wire.HEALTH_PATH, allow_redirects=False) as answer:
                self._not_now(answer)
                said = json.loads(await answer.content.read(wire.MAX_PAYLOAD_BYTES)) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TryAgain(f"{shown(verifier.url)}: {type(error).__name__}") from None
        except ValueError:
            return False
        return isinstance(said, dict) and said.get("name") == wire.GATEWAY_NAME

    async def _tell(self, http: aiohttp.ClientSession, ended: EndedRoom) -> str:
        assert self._verifier is not None
        said = {"sessionId": ended.room, "userAddress": ended.key.student, "transactionHash": ended.tx_hash}
        headers = {"Authorization": f"Bearer {self._verifier.token}"} if self._verifier.token else {}
        try:
            url = self._verifier.url + wire.ENDED_PATH
            self._use_window()
            async with http.post(url, json=said, headers=headers, allow_redirects=False) as answer:
                self._not_now(answer)
                return "told" if answer.status < 300 else "refused"
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TryAgain(f"{shown(self._verifier.url)}: {type(error).__name__}") from None

    def _not_now(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 429 or answer.status >= 500:
            asked_ms = retry_after_ms(answer.headers.get("Retry-After"), self._clock())
            raise TryAgain(f"{shown(str(answer.url))} answered {answer.status}", after_s=(asked_ms or 0) / 1000)

    def _use_window(self) -> None:
        if self._window is None:
            return
        if self._window.free() <= 0:
            raise TryAgain("as many requests as the backend allows were sent in the last minute")
        self._window.use()

    async def _clean(self, ended: EndedRoom) -> str:
        if self._mapping is None:
            return "left"
        deleted = await self._mapping.forget_ended(ended.room, ended.key, ended.ended_ms)
        return "cleaned" if deleted else "left"
