"""Headers that a websocket announced.

Promises: each one wakes whoever waits; the newest few are kept for him. A subscription that says nothing while the
chain goes on is given up and made anew.
Doesn't promise that every head is announced, in order, or of the right branch.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader

KEPT = 64
SILENT_AFTER = 2  # new heads in a row that polling found first; with one, the announcement may be a moment late

log = structlog.get_logger()


class Pushes:
    """What the node pushed. `take` empties it."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._headers: deque[RawHeader] = deque(maxlen=KEPT)
        self._woken = asyncio.Event()
        self._subscribed = False
        self._missed = 0

    async def listen(self) -> None:
        """Until cancelled."""
        try:
            async for header in self._rpc.subscribe_heads():
                self._subscribed, self._missed = True, 0
                if header is not None:
                    self._headers.append(header)
                else:
                    self._headers.clear()  # something may be missing between them
                self._woken.set()
        except Exception:  # polling goes on without it
            log.exception("follower.not_woken")

    async def wait(self, timeout_s: float) -> bool:
        """True when woken, False after `timeout_s`."""
        try:
            await asyncio.wait_for(self._woken.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def take(self) -> list[RawHeader]:
        """What was announced since the last time, oldest first."""
        self._woken.clear()
        taken = list(self._headers)
        self._headers.clear()
        return taken

    async def found_by_polling(self) -> None:
        """A new head came to light without having been announced."""
        if not self._subscribed:
            return
        self._missed += 1
        if self._missed >= SILENT_AFTER:
            self._subscribed = False
            log.warning("follower.subscription_silent", heads=self._missed)
            await self._rpc.subscribe_anew()
