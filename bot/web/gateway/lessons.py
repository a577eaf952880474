"""What the chain says of sessions, for a gateway that may have no node.

Promises: an answer is at most KEEP_S old; what can't be asked, because no chain is configured, the node is away, or
everybody together has asked LOOKS_PER_MINUTE times, is TryAgain, never a guess. So nobody makes it knock at the node
without end.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from bot.chain.codec import OnChainSession
from bot.chain.witness import Witness
from bot.domain.address import Address
from bot.errors import TryAgain
from bot.feeds.posts import Limiter

KEEP_S = 1.0
MAX_KEPT = 5_000
LOOKS_PER_MINUTE = 1_200


class Lessons:
    def __init__(self, witness: Witness | None) -> None:
        self.witness = witness
        self._looks = Limiter(LOOKS_PER_MINUTE)
        self._kept: OrderedDict[int | Address, tuple[float, OnChainSession | None]] = OrderedDict()

    def asked(self) -> Witness:
        """The one to ask. Raises TryAgain where no chain is configured."""
        if self.witness is None:
            raise TryAgain("this gateway has no chain to look at: RPC_URL and CONTRACT_ADDRESS are not set")
        return self.witness

    def looked(self) -> Witness:
        """The one to ask, once. Raises TryAgain also when it was asked too often."""
        witness = self.asked()
        if self._looks.wait_s("chain"):
            raise TryAgain("the chain is asked too often just now")
        return witness

    async def session(self, session_id: int) -> OnChainSession | None:
        """The session with this id, running or ended; None when the chain has none."""
        if (kept := self._fresh(session_id)) is not None:
            return kept[1]
        return self._keep(session_id, await self.looked().session(session_id))

    async def of(self, student: Address, tutor: Address) -> OnChainSession | None:
        """The running session of these two."""
        kept = self._fresh(tutor)
        found = kept[1] if kept is not None else self._keep(tutor, await self.looked().active(tutor))
        return found if found is not None and found.student == student else None

    def _fresh(self, name: int | Address) -> tuple[float, OnChainSession | None] | None:
        kept = self._kept.get(name)
        return kept if kept is not None and time.monotonic() - kept[0] < KEEP_S else None

    def _keep(self, name: int | Address, found: OnChainSession | None) -> OnChainSession | None:
        self._kept[name] = (time.monotonic(), found)
        self._kept.move_to_end(name)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return found
