"""What a transaction bids. Pure; all amounts are wei per gas.

Promises: a settlement never bids above `Caps.settle`, a retraction never above `Caps.retract`, which leaves room above
any settlement, so that a retraction can always be priced. Where MAX_FEE_GWEI was lowered while dearer settlements were
under way, their retraction bids the least that replaces them: above the new cap, within the one that they were signed
by, and for a fraction of what they would cost if they were mined. A replacement raises both fields by at least 12.5 %,
rounded up, and at least 1 wei: what nodes ask for.

Bids follow EIP-1559: fee cap = tip + 2 × base fee, and the tip is what blocks of late have paid, at a percentile that
follows what somebody loses by waiting. Where there is no base fee, both fields are the gas price of old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.domain.urgency import Urgency

GWEI = 10**9
HEADROOM = (5, 4)  # settlements stop at MAX_FEE / 1.25


PERCENTILES = (50.0, 75.0, 90.0)  # of the tips in recent blocks, by urgency


@dataclass(frozen=True, slots=True)
class Fees:
    max_fee: int
    tip: int


@dataclass(frozen=True, slots=True)
class Market:
    """What is paid now: the next block's base fee and a tip for each urgency. `legacy`: there is no base fee."""

    base: int
    tips: tuple[int, ...]
    legacy: bool = False

    @classmethod
    def of(cls, history: Any) -> Market | None:
        """From an `eth_feeHistory` result with PERCENTILES; None where there is no base fee."""
        bases = [int(base, 16) for base in history.get("baseFeePerGas") or [] if base is not None]
        if not any(bases):
            return None
        rewards = [block for block in history.get("reward") or [] if block]
        return cls(bases[-1], tuple(_median([_reward(block, n) for block in rewards]) for n in range(len(PERCENTILES))))

    @classmethod
    def of_price(cls, price: int) -> Market:
        """From `eth_gasPrice`, where there is no base fee."""
        return cls(0, (max(price, 1),) * len(PERCENTILES), legacy=True)

    def bid(self, urgency: Urgency = Urgency.BILLED) -> Fees:
        """The bid that should do now."""
        tip = self.tips[urgency]
        return Fees(tip + 2 * self.base, tip)

    def floor(self) -> int:
        """Who bids less isn't in the next block."""
        return self.tips[0] if self.legacy else self.base


@dataclass(frozen=True, slots=True)
class Caps:
    """Highest bids: of a settlement, of a retraction, and the multiple of what is suggested now."""

    settle: int
    retract: int
    multiple: float

    @classmethod
    def of(cls, max_fee_gwei: float, multiple: float) -> Caps:
        top = round(max_fee_gwei * GWEI)
        return cls(top * HEADROOM[1] // HEADROOM[0], top, multiple)


def first_bid(suggested: Fees, caps: Caps) -> Fees:
    """The bid of a new settlement; it may be too low to be mined now, and then waits."""
    max_fee = min(suggested.max_fee, caps.settle)
    return Fees(max_fee, min(suggested.tip, max_fee))


def replacement(old: Fees, suggested: Fees, cap: int) -> Fees | None:
    """A bid that replaces `old`, None if the cap forbids it."""
    max_fee = max(_raised(old.max_fee), suggested.max_fee)
    tip = max(_raised(old.tip), suggested.tip)
    if max_fee > cap:
        max_fee = cap
    if max_fee < _raised(old.max_fee) or _raised(old.tip) > max_fee:
        return None
    return Fees(max_fee, min(tip, max_fee))


def retraction(old: Fees, suggested: Fees, caps: Caps) -> Fees:
    """The bid that takes back a settlement of `old`."""
    bid = replacement(old, suggested, max(caps.retract, _raised(old.max_fee)))
    assert bid is not None  # a tip is never above its fee, so neither is the raised one
    return bid


def settle_cap(suggested: Fees, caps: Caps) -> int:
    """The highest that a settlement may bid now."""
    return min(caps.settle, int(caps.multiple * suggested.max_fee))


def highest(*bids: Fees) -> Fees:
    """Each field at least as high as in any of these."""
    return Fees(max(bid.max_fee for bid in bids), max(bid.tip for bid in bids))


def outbids(one: Fees, other: Fees) -> bool:
    """Is a field of `one` so much above `other` that a replacement would be worth it?"""
    return one.max_fee >= _raised(other.max_fee) or one.tip >= _raised(other.tip)


def _raised(value: int) -> int:
    return max(value + 1, -(-value * 9 // 8))


def _reward(block: Any, number: int) -> int:
    return int(block[min(number, len(block) - 1)], 16)


def _median(values: list[int]) -> int:
    return max(sorted(values)[len(values) // 2], 1) if values else 1
