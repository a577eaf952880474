"""What may be spent: the balance floor, and the gas of a day.

Promises: what is under way counts as spent, each nonce at the most that it can cost, an earlier key's for the day's
budget only; what was mined counts by its receipt, for a day from its block's time, whenever it was signed or replaced;
below the floor, or beyond the day's budget, no settlement is signed, be it new or in another's place; a warning comes
while there is still enough for many. Retractions are never refused: not to send them costs more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bot.chain.fees import Fees, Market
from bot.chain.sender.outbox import Outbox
from bot.chain.sender.terms import SenderConfig
from bot.domain.facts import SessionKey
from bot.store import txs
from bot.store.db import Writer
from bot.store.txs import Tx

DAY_MS = 86_400_000
COUNT_EVERY_MS = 60_000  # what was spent a day ago counts no more
ETHER = 10**18
SETTLE_GAS = 215_000  # what one takes at most, a tutor's first; see docs/PROTOCOL.md


@dataclass(slots=True)
class Purse:
    """What is left for the settlements of one round, in wei.

    `reserved`: the most that what is under way can cost; `former`: the same of an earlier key, which pays it itself.
    """

    balance: int
    spent: int
    reserved: int
    former: int = 0

    @property
    def used(self) -> int:
        """What the day's budget has gone to, or may still go to."""
        return self.spent + self.reserved + self.former


class Funds:
    def __init__(
        self,
        outbox: Outbox,
        writer: Writer,
        config: SenderConfig,
        former_wei: Callable[[], int],
        clock_ms: Callable[[], int],
    ) -> None:
        self._outbox = outbox
        self._writer = writer
        self._config = config
        self._former_wei = former_wei  # the most that what an earlier key left under way can cost
        self._clock = clock_ms
        self._spent = 0
        self._counted: tuple[int, int] | None = None  # when, and at which cost

    async def count(self) -> None:
        """Counts anew what was spent in a day, if it can have changed."""
        now, costs = self._clock(), self._outbox.costs_taken
        if self._counted is None or self._counted[1] != costs or now - self._counted[0] > COUNT_EVERY_MS:
            self._spent = await self._writer(lambda session: txs.spent_since(session, now - DAY_MS))
            self._counted = (now, costs)

    async def purse(self, balance: int) -> Purse:
        """What there is now."""
        await self.count()
        reserved = sum(group.most for group in self._outbox.groups if group.unmined)
        return Purse(balance, self._spent, reserved, self._former_wei())

    async def refuses(self, purse: Purse, gas: int, bid: Fees, key: SessionKey) -> str | None:
        """Why so much gas at this bid isn't signed for: a reason; '' when it only has to wait for what is under way."""
        need = gas * bid.max_fee
        floor, budget = self._config.min_balance_wei, self._config.daily_budget_wei
        address = self._outbox.address
        if purse.balance < floor + need:
            text = f"{address} has {purse.balance / ETHER:.4f} ETH, too little to end sessions: send it ETH"
            await self._outbox.alert_once("balance", "alert.balance", text, key)
            return "balance of the key below MIN_BALANCE_ETH"
        if purse.spent + need > budget:
            text = (
                f"{purse.spent / ETHER:.4f} ETH spent in 24 hours: DAILY_GAS_BUDGET_ETH is used up, nothing is signed"
            )
            await self._outbox.alert_once("budget", "alert.gas-budget", text, key)
            return "daily gas budget used up"
        self._outbox.gone("balance", "budget", "funds")
        if purse.balance - purse.reserved < floor + need or purse.used + need > budget:
            return ""
        purse.reserved += need
        return None

    async def allow(self, purse: Purse, more: int, tx: Tx) -> bool:
        """May a settlement that is under way cost so much more? An alert when it may not."""
        after = purse.reserved + more
        names = ", ".join(map(str, tx.sessions))
        if more > 0 and purse.balance < self._config.min_balance_wei + after:
            text = (
                f"{self._outbox.address} has {purse.balance / ETHER:.4f} ETH, too little for the settlement of session "
                f"{names} to bid more: send it ETH"
            )
            await self._outbox.alert_once("balance", "alert.balance", text, tx.key)
            return False
        if more > 0 and purse.used + more > self._config.daily_budget_wei:
            text = (
                f"{purse.used / ETHER:.4f} ETH are spent in 24 hours or under way: by "
                f"DAILY_GAS_BUDGET_ETH the settlement of session {names} can't bid more, and waits"
            )
            await self._outbox.alert_once("budget", "alert.gas-budget", text, tx.key)
            return False
        purse.reserved = after
        return True

    async def warn(self, balance: int, market: Market) -> None:
        """Tells the operator while there is still time, how many settlements are left."""
        price = max(1, min(market.base + market.tips[0], self._config.caps.settle))
        left = max(0, balance - self._config.min_balance_wei) // (SETTLE_GAS * price)
        if left >= self._config.warn_settlements:
            self._outbox.gone("balance-low")
            return
        text = (
            f"{self._outbox.address} has {balance / ETHER:.4f} ETH: enough for about {left} more settlements at the "
            "present fee, then nothing is signed. Send it ETH"
        )
        await self._outbox.alert_once("balance-low", "alert.balance-low", text, None)
