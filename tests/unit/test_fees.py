"""What a transaction bids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chain.fees import GWEI, Caps, Fees, Market, first_bid, highest, outbids, replacement, retraction, settle_cap
from bot.domain.urgency import Urgency

WEI = st.integers(1, 10**13)
FEES = st.builds(lambda max_fee, part: Fees(max_fee, max(1, max_fee * part // 100)), WEI, st.integers(0, 100))
CAPS = st.builds(Caps.of, st.integers(1, 10_000), st.floats(1, 20))


def test_market__history__twice_the_next_base_fee_and_the_median_tip() -> None:
    """EIP-1559 from `eth_feeHistory` (tip percentile, fee cap = tip + 2 × base fee)"""
    history = {"baseFeePerGas": ["0x64", "0x6e", "0x78"], "reward": [["0x9"], ["0x2"], ["0x5"]]}
    market = Market.of(history)
    assert market is not None
    assert market.bid() == Fees(2 * 0x78 + 5, 5)


def test_market__urgent__a_higher_percentile_of_the_tips() -> None:
    """Urgency follows what somebody loses by waiting"""
    market = Market.of({"baseFeePerGas": ["0x64"], "reward": [["0x1", "0x5", "0x9"]]})
    assert market is not None
    assert [market.bid(urgency).tip for urgency in Urgency] == [1, 5, 9]


@pytest.mark.parametrize("reward", [None, [], [[]], [["0x0", "0x0", "0x0"]]])
def test_market__no_rewards__tip_of_one_wei(reward: object) -> None:
    market = Market.of({"baseFeePerGas": ["0x2"], "reward": reward})
    assert market is not None
    assert market.bid(Urgency.CLAIM) == Fees(5, 1)


@pytest.mark.parametrize("history", [{}, {"baseFeePerGas": None}, {"baseFeePerGas": ["0x0", "0x0"]}])
def test_market__no_base_fee__legacy_at_the_gas_price(history: object) -> None:
    """legacy where there is no base fee"""
    assert Market.of(history) is None
    assert Market.of_price(7).bid(Urgency.CLAIM) == Fees(7, 7)


@given(FEES, FEES)
def test_highest__two_bids__neither_field_of_either_is_above(one: Fees, other: Fees) -> None:
    best = highest(one, other)
    assert best.max_fee == max(one.max_fee, other.max_fee)
    assert best.tip == max(one.tip, other.tip)


def test_outbids__a_little_more__is_not_worth_a_replacement() -> None:
    assert not outbids(Fees(1_100, 10), Fees(1_000, 10))
    assert outbids(Fees(1_125, 10), Fees(1_000, 10))
    assert outbids(Fees(1_000, 12), Fees(1_000, 10))


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


@given(FEES, FEES, CAPS)
def test_retraction__of_one_signed_under_any_cap__is_priced_at_the_least_that_replaces_it(
    old: Fees, suggested: Fees, caps: Caps
) -> None:
    """Where MAX_FEE_GWEI was lowered … their retraction bids the least that replaces them"""
    bid = retraction(old, suggested, caps)
    assert 8 * bid.max_fee >= 9 * old.max_fee
    assert 8 * bid.tip >= 9 * old.tip
    assert bid.max_fee <= max(caps.retract, replacement(old, old, 10**30).max_fee)  # type: ignore[union-attr]
    assert bid.tip <= bid.max_fee


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
