"""How far nothing moves any more.

Promises: the finalized block goes forwards, never back; it is the node's `finalized` tag, or where there is none
`DEPTH_OF_FINALITY` below the head. Finality that stands still while blocks come is noticed after `STILL_S`, by the
blocks' own time, and stops nothing.
"""

from __future__ import annotations

import structlog

from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.follower.news import number_of
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader

DEPTH_OF_FINALITY = 64  # blocks, where the node has no `finalized` tag: two epochs
FINALITY_EVERY = 32  # blocks between looks at finality while no settlement waits for it
AWAITED_EVERY = 4  # blocks that may be pushed between two looks while one does
STILL_S = 7_200  # finality usually moves every few minutes

log = structlog.get_logger()


class FinalityWatch:
    """`to` is the finalized block, -1 before there is one. `awaited`: a settlement waits for it to move."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self.to = -1
        self.awaited = True
        self._has_tag = True
        self._looked_at = -1
        self._moved_s = 0  # the head's time, when it moved
        self._moved_at = -1  # its number
        self.stands_still = False

    def due(self, head: int, *, pushed: bool = False) -> bool:
        """Is it time for a look, at this head?"""
        if pushed and self.awaited:
            return head - self._looked_at >= AWAITED_EVERY
        return self.awaited or not 0 <= head - self._looked_at < FINALITY_EVERY

    async def with_head(self, expected: int) -> tuple[RawHeader, RawHeader | None]:
        """The node's head, and where a look is due the finalized block too, in one request."""
        if not (self._has_tag and self.due(expected)):
            latest = await self._rpc.header("latest")
            finalized = None
        else:
            calls = [("eth_getBlockByNumber", (tag, False)) for tag in ("latest", "finalized")]
            latest, finalized = await self._rpc.batch_as(RawHeader | None, calls)
        if isinstance(latest, RpcError):
            raise latest
        if latest is None:
            raise WrongAnswer("the node has no block latest")
        # What was refused here is asked for by itself, and refused or not as that deserves.
        return latest, finalized if isinstance(finalized, RawHeader) else None

    async def look(self, latest: RawHeader, finalized: RawHeader | None) -> None:
        """Moves `to`. `finalized`: the node's, where it was asked for already."""
        head = number_of(latest)
        if not self.due(head):
            return
        self._looked_at = head
        to = head - DEPTH_OF_FINALITY
        if finalized is not None:
            to = number_of(finalized)
        elif self._has_tag:
            try:
                header = await self._rpc.header("finalized")
            except RpcError as error:
                log.info("finality.by_depth", depth=DEPTH_OF_FINALITY, reason=str(error))
                self._has_tag = False
            else:
                to = number_of(header) if header is not None else -1
        self._move(min(to, head), head, int(latest.timestamp, 16))

    def _move(self, to: int, head: int, now_s: int) -> None:
        if to > self.to or head <= self._moved_at or self._moved_at < 0:
            self.to = max(self.to, to)
            self._moved_s, self._moved_at = now_s, head
            self.stands_still = False
        elif now_s - self._moved_s > STILL_S and not self.stands_still:
            self.stands_still = True
            log.warning("finality.stands_still", final=self.to, head=head, hours=round((now_s - self._moved_s) / 3600))
