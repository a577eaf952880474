"""Can the keeper do its job at this moment, and if not, why not.

Promises: each reason has a constant name, a text that says what to do, and rests on what was seen, not on what is
configured. Looking costs nothing but memory reads: it is asked by probes, by the alerts and by the dead man's switch.
Doesn't promise that a reason is new: a blip of a second is one too. `bot.ops.watch` waits before it calls anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from bot.chain.follower import Follower
from bot.domain.feeds import SOCKET, WEBHOOK
from bot.reconciler import Reconciler

LAG_BLOCKS = 5
WRITTEN_MS = 15_000  # the database takes a row every two seconds, if it takes any

NAMES = ("not-at-head", "log-lag", "head-old", "finality", "database", "key", "balance", "feeds")
REDIS = "redis"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps the keeper from its job. `name` is one of NAMES."""

    name: str
    text: str


class Treasury(Protocol):
    """What the sender says of its means."""

    @property
    def address(self) -> str: ...

    @property
    def balance_wei(self) -> int | None: ...


class Readiness:
    """Asks the parts. `sender` None: the keeper watches, and needs neither key nor ETH."""

    def __init__(
        self,
        follower: Follower,
        reconciler: Reconciler,
        *,
        min_balance_wei: int,
        head_old_ms: int,
        written_ms: Callable[[], int],
        trouble: Callable[[], str | None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._follower = follower
        self._reconciler = reconciler
        self._min_balance_wei = min_balance_wei
        self._head_old_ms = head_old_ms
        self._written_ms = written_ms
        self._trouble = trouble
        self._clock = clock_ms
        self.sender: Treasury | None = None
        self.key_trouble: Callable[[], str | None] = lambda: None
        self.in_use: Callable[[], Iterable[str]] = lambda: ()
        self.redis_up: Callable[[], bool | None] = lambda: None  # None: not set up

    def reasons(self) -> list[Reason]:
        """Why the keeper isn't ready; empty when it is."""
        return [*self._chain(), *self._database(), *self._means(), *self._feeds()]

    def _chain(self) -> list[Reason]:
        follower, found = self._follower, []
        lag = follower.lag_blocks
        if follower.violated:
            found.append(Reason("finality", "the node took back final blocks: compare it with another in RPC_URL"))
        if not follower.at_head.is_set():
            found.append(Reason("not-at-head", "the index hasn't reached the head of the chain: look at RPC_URL"))
        elif lag is not None and lag > LAG_BLOCKS:
            found.append(Reason("log-lag", f"the index is {lag} blocks behind the head"))
        head = follower.head
        if head is not None and self._clock() - head.received_ms > self._head_old_ms:
            age_s = (self._clock() - head.received_ms) // 1000
            found.append(Reason("head-old", f"no new block for {age_s} s: is the node in RPC_URL in sync?"))
        return found

    def _database(self) -> list[Reason]:
        silent_ms, why = self._clock() - self._written_ms(), self._trouble()
        if why is not None:
            return [Reason("database", f"nothing can be written: {why}")]
        if silent_ms <= WRITTEN_MS:
            return []
        return [
            Reason("database", f"nothing could be written for {silent_ms // 1000} s: look at disk and DATABASE_URL")
        ]

    def _means(self) -> list[Reason]:
        sender = self.sender
        if sender is None:
            return []
        found = []
        trouble = self.key_trouble()
        if trouble is not None:
            found.append(Reason("key", f"the key can't sign: {trouble}"))
        if sender.balance_wei is not None and sender.balance_wei < self._min_balance_wei:
            text = f"{sender.address} has {sender.balance_wei / 10**18:.4f} ETH, less than MIN_BALANCE_ETH: send it ETH"
            found.append(Reason("balance", text))
        return found

    def _feeds(self) -> list[Reason]:
        now, feeds = self._clock(), self._reconciler.feeds
        down = [name for name in (SOCKET, WEBHOOK) if name in set(self.in_use()) and not feeds.up(name, now)]
        if self.redis_up() is False:
            down.append(REDIS)
        if not down:
            return []
        return [Reason("feeds", f"{' and '.join(down)} can't be heard: silence proves nothing meanwhile")]
