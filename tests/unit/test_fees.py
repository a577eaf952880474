"""What a transaction bids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chain.fees import GWEI, Caps, Fees, first_bid, replacement, settle_cap, suggestion

WEI = st.integers(1, 10**13)
FEES = st.builds(lambda max_fee, part: Fees(max_fee, max(1, max_fee * part // 100)), WEI, st.integers(0, 100))
CAPS = st.builds(Caps.of, st.integers(1, 10_000), st.floats(1, 20))


def test_suggestion__history__twice_the_next_base_fee_and_the_median_tip() -> None:
    history = {"baseFeePerGas": ["0x64", "0x6e", "0x78"], "reward": [["0x9"], ["0x2"], ["0x5"]]}
    assert suggestion(history) == Fees(2 * 0x78 + 5, 5)


@pytest.mark.parametrize("reward", [None, [], [[]], [["0x0"]]])
def test_suggestion__no_rewards__tip_of_one_wei(reward: object) -> None:
    assert suggestion({"baseFeePerGas": ["0x0"], "reward": reward}) == Fees(1, 1)


@given(FEES, CAPS)
def test_first_bid__any_suggestion__never_above_the_settlement_cap(suggested: Fees, caps: Caps) -> None:
    bid = first_bid(suggested, caps)
    assert bid.max_fee <= caps.settle
    assert bid.tip <= bid.max_fee


@given(FEES, FEES, WEI)
def test_replacement__any_bid__raises_both_by_an_eighth_and_stays_below_its_cap(
    old: Fees, suggested: Fees, cap: int
) -> None:
    """Replacements raise each fee field by at least 12.5 %, rounded up, at least 1 wei."""
    bid = replacement(old, suggested, cap)
    if bid is not None:
        assert bid.max_fee <= cap
        assert bid.tip <= bid.max_fee
        assert 8 * bid.max_fee >= 9 * old.max_fee
        assert 8 * bid.tip >= 9 * old.tip
        assert (bid.max_fee > old.max_fee, bid.tip > old.tip) == (True, True)


@given(FEES, FEES, CAPS)
def test_replacement__retraction_of_any_settlement__can_always_be_priced(
    suggested: Fees, later: Fees, caps: Caps
) -> None:
    """settlements stop bidding below [the retraction cap], so that a retraction can always be priced"""
    bid = first_bid(suggested, caps)
    while bid is not None:
        assert replacement(bid, later, caps.retract) is not None
        bid = replacement(bid, later, settle_cap(later, caps))


@given(FEES, CAPS)
def test_settle_cap__any_suggestion__below_both_caps(suggested: Fees, caps: Caps) -> None:
    """settlements stop at `MAX_FEE_GWEI`/1.25, and `MAX_FEE_MULTIPLE` × the fee suggested now, never above these"""
    cap = settle_cap(suggested, caps)
    assert cap <= caps.settle <= caps.retract * 4 // 5
    assert cap <= caps.multiple * suggested.max_fee


def test_caps__defaults__in_wei() -> None:
    assert Caps.of(100, 5) == Caps(80 * GWEI, 100 * GWEI, 5)


def test_replacement__at_the_cap__none() -> None:
    old = Fees(90 * GWEI, GWEI)
    assert replacement(old, Fees(GWEI, 1), 100 * GWEI) is None
    assert replacement(old, Fees(GWEI, 1), 102 * GWEI) == Fees(90 * GWEI * 9 // 8, GWEI * 9 // 8)
