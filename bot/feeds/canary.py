"""The canary: a room of the keeper's own on the signalling server, to tell a silent room from a silent feed.

Promises: opens a room there every few seconds and expects its own `user-connected` post at the webhook; nothing of that
room is taken for a lesson, stored, or passed on. Its name is made anew by each process and hard to guess. A server that
can't be reached is tried again for ever. `on_lost` is called once for each time that no post came for `silence_s`.
Doesn't promise that the server carries anything else: it shows that its posts reach the keeper, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp
import structlog

from bot.domain.facts import Hint, Kind
from bot.values import shown

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 10.0
STALL_S = 5.0
FIRST_DELAY_S = 0.5  # the webhook is being opened at the same time
PREFIX = "keeper-canary-"


class Canary:
    """`up` tells whether its post came within `silence_s`; `since_ms` since when that is so."""

    def __init__(
        self,
        url: str,
        *,
        silence_s: float,
        on_heard: Callable[[], None],
        on_lost: Callable[[str], Awaitable[None]],
        clock_ms: Callable[[], int],
    ) -> None:
        self.room = PREFIX + secrets.token_hex(8)
        self.up = False
        self.since_ms = clock_ms()
        self._url = url
        self._every_s = silence_s / 3
        self._silence_s = silence_s
        self._on_heard = on_heard
        self._on_lost = on_lost
        self._clock = clock_ms
        self._heard_s = time.monotonic()
        self._lost_told = False

    def takes(self, hint: Hint) -> bool:
        """Is this post about the canary's own room? Then it is nobody else's."""
        if hint.room is None or not hint.room.startswith(PREFIX):
            return False
        if hint.room == self.room and hint.kind is Kind.CONNECTED:
            self._heard_s, self._lost_told = time.monotonic(), False
            self._set_up(True)
            self._on_heard()
        return True

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(FIRST_DELAY_S)
        minding = asyncio.create_task(self._mind())
        try:
            while True:
                began_s = time.monotonic()
                await self._visit()
                await asyncio.sleep(max(0.0, self._every_s - (time.monotonic() - began_s)))
        finally:
            minding.cancel()
            await asyncio.wait([minding])

    async def _visit(self) -> None:
        """Opens the room, stays for a while, leaves."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    socket = await http.ws_connect(with_room(self._url, self.room))
                try:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._every_s):
                            async for _ in socket:
                                pass
                finally:
                    await socket.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("canary.unreachable", signalling=shown(self._url), error=type(error).__name__)

    async def _mind(self) -> None:
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, self._silence_s / 4))
            now_s = time.monotonic()
            if now_s - looked_s > STALL_S:  # we stood still, and heard nothing for that
                self._heard_s = now_s
            looked_s = now_s
            if time.monotonic() - self._heard_s <= self._silence_s:
                continue
            self._set_up(False)
            if not self._lost_told:
                self._lost_told = True
                await self._on_lost(
                    f"No post of the keeper's own room came from the signalling server at {shown(self._url)} for "
                    f"{self._silence_s:g} s: it is down, or doesn't post to this keeper (`langdao-keeper webhook`). "
                    "While that lasts and no other post comes, silence ends nothing"
                )

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up, self.since_ms = up, self._clock()
            log.info("canary.up" if up else "canary.down", signalling=shown(self._url))


def with_room(url: str, room: str) -> str:
    """The signalling server's address of a room."""
    pieces = urlsplit(url)
    query = "&".join(part for part in (pieces.query, urlencode({"room": room})) if part)
    return urlunsplit(pieces._replace(query=query))
