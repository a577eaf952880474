"""The guard's words on the wire, against eth_abi, the ABI file and the contract's source."""

from __future__ import annotations

import asyncio
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from eth_abi import encode
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st

from bot.chain import guard_codec
from bot.chain.guard import Delegation
from bot.chain.guard_codec import Failed, Settled, Skipped, decode
from bot.chain.rpc import Rpc
from bot.chain.sender.guarded import Guarded
from bot.chain.sender.proof import NOT_GUARDED, what_came
from bot.chain.sender.terms import UNPROVEN, At
from bot.domain.address import checksum
from bot.domain.facts import SessionKey
from bot.store.txs import Item

SOURCE = (Path(__file__).parents[2] / "contracts" / "SettlementGuard.vy").read_text()
ACCOUNT, LANGDAO = "0x" + "a1" * 20, "0x" + "da" * 20

addresses = st.binary(min_size=20, max_size=20).map(lambda raw: str(checksum("0x" + raw.hex())))
keys = st.builds(SessionKey, st.integers(0, 2**256 - 1), addresses, addresses)


@given(st.lists(keys, max_size=5))
def test_settle__any_items__as_eth_abi_encodes_them(asked: list[SessionKey]) -> None:
    """`settle` is encoded byte for byte as eth_abi does"""
    items = [(key.tutor, key.session_id, key.student) for key in asked]
    body = encode(["(address,uint256,address)[]"], [items]).hex()
    assert guard_codec.settle(asked) == guard_codec.SETTLE + body


def test_literals__are_the_abis() -> None:
    """Selector, topics and gas are literals, which tests compare with the ABI and the source."""
    abi = json.loads((files("bot.chain") / "abi" / "SettlementGuard.json").read_text())
    topics = {
        one["name"]: "0x" + keccak(text=f"{one['name']}({','.join(i['type'] for i in one['inputs'])})").hex()
        for one in abi
        if one["type"] == "event"
    }
    assert topics == {
        "Settled": guard_codec.SETTLED,
        "Skipped": guard_codec.SKIPPED,
        "Failed": guard_codec.FAILED,
    }
    assert "0x" + keccak(text="settle((address,uint256,address)[])")[:4].hex() == guard_codec.SETTLE


def test_numbers__are_the_sources() -> None:
    constant = {
        name: int(value.replace("_", ""))
        for name, value in re.findall(r"(\w+): constant\(\w+\) = (\d\S*)$", SOURCE, re.M)
    }
    assert constant["MAX_ITEMS"] == guard_codec.MAX_ITEMS
    assert constant["GAS_CAP"] * 64 // 63 + 1 + constant["GAS_RESERVE"] == guard_codec.GAS_NEEDED
    named = {name: value for name, value in constant.items() if name.startswith(("NOT_", "OTHER_", "TOO_"))}
    assert named == {name: getattr(guard_codec, name) for name in named}
    assert set(named.values()) == set(guard_codec.REASONS)


def test_decode__the_guards_events() -> None:
    five = f"0x{5:064x}"
    assert decode([guard_codec.SETTLED, five], "0x") == Settled(5)
    assert decode([guard_codec.SKIPPED, five], f"0x{2:064x}") == Skipped(5, 2)
    assert decode([guard_codec.FAILED, five], "0x" + encode(["bytes"], [b"no"]).hex()) == Failed(5, b"no")
    assert decode([guard_codec.FAILED, five], "0x" + encode(["bytes"], [b""]).hex()) == Failed(5, b"")


FIVE, TWO, NO = f"0x{5:064x}", f"0x{2:064x}", "0x" + encode(["bytes"], [b"no"]).hex()


@pytest.mark.parametrize(
    ("topics", "data"),
    [
        ([], "0x"),
        ([guard_codec.SETTLED], "0x"),
        ([guard_codec.SETTLED, FIVE, FIVE], "0x"),
        ([guard_codec.SETTLED, FIVE], TWO),
        ([guard_codec.SETTLED[:-1] + "0", FIVE], "0x"),
        ([guard_codec.SKIPPED, FIVE], "0x"),
        ([guard_codec.SKIPPED, FIVE], TWO + "00"),
        ([guard_codec.FAILED, FIVE], "0x"),
        ([guard_codec.FAILED, FIVE], NO[:-2]),
        ([guard_codec.FAILED, FIVE], NO + "00" * 32),
        ([guard_codec.FAILED, FIVE], "0x" + f"{64:064x}" + NO[66:]),
    ],
)
def test_decode__not_exactly_one_of_the_guards__none(topics: list[str], data: str) -> None:
    """`decode` gives a typed event, or None for a log that isn't exactly one of the guard's"""
    assert decode([guard_codec.SETTLED, FIVE], "0x") == Settled(5)
    assert decode(topics, data) is None


@given(
    st.lists(st.sampled_from([guard_codec.SETTLED, guard_codec.SKIPPED, guard_codec.FAILED, "0x05", "0x", "zz"])),
    st.binary(max_size=200).map(lambda raw: "0x" + raw.hex()),
)
def test_decode__anything__never_raises(topics: list[str], data: str) -> None:
    decode(topics, data)


@pytest.mark.parametrize("each", [300_000, 400_000, 10_000_000])
def test_most_within__any_limit__that_many_fit_and_one_more_does_not(each: int) -> None:
    for limit in (1_000_000, 7_500_000, 15_000_000, 2**24):
        most = guard_codec.most_within(limit, each)
        assert most == 1 or guard_codec.gas_limit(most, each) <= limit
        assert most == guard_codec.MAX_ITEMS or guard_codec.gas_limit(most + 1, each) > limit


@pytest.mark.parametrize("each", [300_000, 456_350, 10_000_000])
def test_gas_limit__all_before_it_burn_their_share__the_last_one_finds_what_the_guard_asks_for(each: int) -> None:
    """Each item may burn GAS_LIMIT, and the last one still finds the gas that the guard asks for."""
    for count in range(1, guard_codec.MAX_ITEMS + 1):
        left = guard_codec.gas_limit(count, each) - guard_codec.ENTRY_GAS - count * guard_codec.ITEM_DATA_GAS
        assert left - (count - 1) * each >= guard_codec.GAS_NEEDED
    assert guard_codec.gas_limit(0, each) == 0


# What a receipt says of each item ------------------------------------------------------------------------------------


def receipt(*logs: tuple[str, str, int, str], status: str = "0x1", to: str = ACCOUNT) -> dict[str, object]:
    entries = [
        {"address": where, "topics": [topic, f"0x{number:064x}"], "data": data} for where, topic, number, data in logs
    ]
    return {"status": status, "to": to, "logs": entries}


def item(number: int) -> Item:
    return Item(SessionKey(number, "0x" + "51" * 20, "0x" + "71" * 20), number)


def outcomes(said: dict[str, object], *numbers: int) -> list[tuple[str, str | None]]:
    return [(one.outcome, one.reason) for one in what_came(said, [item(number) for number in numbers], LANGDAO)]


def test_what_came__stopped_for_want_of_gas__that_one_and_all_behind_it_are_deferred() -> None:
    """Where some burn the guard's whole cap, those that the gas doesn't reach are decided anew."""
    gas = (ACCOUNT, guard_codec.SKIPPED, 2, f"0x{guard_codec.TOO_LITTLE_GAS:064x}")
    said = outcomes(receipt((ACCOUNT, guard_codec.SKIPPED, 1, f"0x{1:064x}"), gas), 1, 2, 3)
    assert [outcome for outcome, _ in said] == ["over", "deferred", "deferred"]


def test_what_came__settled_without_session_ended__failed() -> None:
    """`Settled` proves no end: LangDAO's own SessionEnded does. What the guard says of an item explains why there
    was no end, and proves none."""
    assert outcomes(receipt((ACCOUNT, guard_codec.SETTLED, 1, "0x")), 1) == [("failed", UNPROVEN)]


def test_what_came__the_events_are_somebody_elses__count_for_nothing() -> None:
    other = (LANGDAO, guard_codec.SKIPPED, 1, f"0x{1:064x}")
    assert outcomes(receipt(other), 1) == [("refused", NOT_GUARDED)]


def test_what_came__nothing_ran__refused() -> None:
    assert outcomes(receipt(), 1, 2) == [("refused", NOT_GUARDED)] * 2
    assert outcomes(receipt((ACCOUNT, guard_codec.SETTLED, 1, "0x"), status="0x0"), 1) == [("refused", NOT_GUARDED)]


# How many go into one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_gas", [2_000_000, 30_000_000, 36_000_000, 60_000_000, 200_000_000])
def test_guarded__blocks_of_any_size__a_transaction_stays_below_a_quarter_and_eip_7825(block_gas: int) -> None:
    """A transaction stays below the limit of one (EIP-7825), and below a quarter of a block."""
    guarded = Guarded(Rpc(["http://127.0.0.1:1"]), LANGDAO, Delegation(ACCOUNT), ACCOUNT, 300_000)
    asyncio.run(guarded.why_not(At(1, "0x"), ["0x", "0x", {"gasLimit": hex(block_gas)}]))
    limit = min(16_777_216, block_gas // 4)
    assert guarded.most == 1 or guarded.gas(guarded.most) <= limit
    assert guarded.gas(guarded.most + 1) > limit
