"""Nonces derived from the chain and live rows, and how many may be under way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.chain.sender.nonces import Gaps, Group, Limit, groups_of, next_nonce
from bot.domain.facts import SessionKey
from bot.store import txs
from bot.store.txs import Tx

KEY = SessionKey(1, "0x" + "11" * 20, "0x" + "22" * 20)


def tx(nonce: int, state: str = txs.SENT, max_fee: int = 1) -> Tx:
    name = f"0x{nonce}.{max_fee}"
    return Tx(name, nonce, "0x", txs.SETTLE, (txs.Item(KEY, 1),), "0x", 300_000, max_fee, 1, state, 0, 0)


@given(st.integers(0, 99), st.lists(st.integers(0, 99)), st.lists(st.integers(0, 99)))
def test_next_nonce__whatever_is_known__above_all_of_it(used: int, pending: list[int], own: list[int]) -> None:
    """The next nonce is above what any endpoint knows to be pending and above every live row of ours."""
    nonce = next_nonce(used, pending, [tx(one) for one in own])
    assert nonce >= max([used, *pending])
    assert all(nonce > one for one in own)
    assert nonce in {used, *pending, *(one + 1 for one in own)}


def test_groups__states__deep_mined_or_unmined() -> None:
    live = [tx(1, txs.REPLACED), tx(1, txs.CONFIRMED, 2), tx(2, txs.SENT), tx(2, txs.MINED, 2), tx(3, txs.STORED)]
    confirmed, mined, unmined = groups_of(live)
    assert (confirmed.deep, confirmed.unmined) == (True, False)
    assert (mined.deep, mined.unmined) == (False, False)
    assert (unmined.deep, unmined.unmined) == (False, True)
    assert groups_of([tx(4, txs.LOST)])[0].deep


def test_gaps__nobody_knows_a_transaction_below_ours__named_after_k_blocks() -> None:
    """A gap is named only below an own unmined row, when nobody has known a transaction there for k blocks."""
    ours = [Group(6, [tx(6)])]
    gaps = Gaps(3)
    assert [gaps.look(5, 5, ours, block) for block in (10, 11, 12, 13)] == [None, None, None, 5]
    assert gaps.look(5, 6, ours, 14) is None  # somebody knows one now
    assert gaps.look(5, 5, ours, 15) is None  # and it counts anew
    assert gaps.look(6, 6, ours, 20) is None  # ours is next: no gap
    assert gaps.look(5, 5, [], 30) is None


def test_limit__refused_and_mined__halved_and_grown_up_to_its_most() -> None:
    """`Limit` halves when a node has enough of us and grows again by one for each transaction mined."""
    limit = Limit(8)
    for expected in (4, 2, 1, 1):
        limit.halve()
        assert limit.now == expected
    limit.grow(3)
    assert limit.now == 4
    limit.grow(100)
    assert limit.now == 8
