"""What a transaction bids. Pure; all amounts are wei per gas.

Promises: a settlement never bids above `Caps.settle`, a retraction never above `Caps.retract`, which leaves room above
any settlement, so that a retraction can always be priced. A replacement raises both fields by at least 12.5 %, rounded
up, and at least 1 wei: what nodes ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GWEI = 10**9
HEADROOM = (5, 4)  # settlements stop at MAX_FEE / 1.25


@dataclass(frozen=True, slots=True)
class Fees:
    max_fee: int
    tip: int


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


def suggestion(history: Any) -> Fees:
    """The bid that should do now, from an `eth_feeHistory` result with one reward percentile."""
    base = int(history["baseFeePerGas"][-1], 16)
    rewards = sorted(int(block[0], 16) for block in history.get("reward") or [] if block)
    tip = rewards[len(rewards) // 2] if rewards else 0
    tip = max(tip, 1)
    return Fees(tip + 2 * base, tip)


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


def settle_cap(suggested: Fees, caps: Caps) -> int:
    """The highest that a settlement may bid now."""
    return min(caps.settle, int(caps.multiple * suggested.max_fee))


def _raised(value: int) -> int:
    return max(value + 1, -(-value * 9 // 8))
