"""The codec against eth_abi on random values, and against the literals of the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi import encode
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from bot.chain import codec
from bot.domain.address import checksum

ROOT = Path(__file__).resolve().parents[2]

addresses = st.binary(min_size=20, max_size=20).map(lambda raw: str(checksum("0x" + raw.hex())))
uint8 = st.integers(0, 255)
uint256 = st.integers(0, 2**256 - 1)
WORDS = st.text("0123456789abcdefxyz", max_size=700)


def topic(kind: str, value: Any) -> str:
    return "0x" + encode([kind], [value]).hex()


def data(kinds: list[str], *values: Any) -> str:
    return "0x" + encode(kinds, values).hex()


@pytest.mark.parametrize(
    ("constant", "literal"),
    [
        (codec.START_SESSION, "0x14974de8"),
        (codec.END_SESSION, "0x7ce02794"),
        (codec.ACTIVE_SESSIONS, "0x23ef2936"),
        (codec.GET_SESSION, "0x402ff0db"),
        (codec.SESSION_COUNTER, "0xcc64e2af"),
        (codec.OWNER, "0x8da5cb5b"),
        (codec.STUDENT_BALANCES, "0x01bf7ff6"),
        (codec.SESSION_STARTED, "0xa1b15600c9aef5c5d3c0c18700942ad4caf125753a856588b1aa2a0a969b0063"),
        (codec.SESSION_ENDED, "0x1f566c0c31d295290bb19b5162e239dbdeeb51107556dd0c39b1a86a303ed393"),
    ],
)
def test_constant__listed_in_the_protocol__is_the_literal(constant: str, literal: str) -> None:
    assert constant == literal


@pytest.mark.parametrize(
    ("constant", "signature"),
    [
        (codec.START_SESSION, "startSession(address,uint8)"),
        (codec.END_SESSION, "endSession(address)"),
        (codec.ACTIVE_SESSIONS, "activeSessions(address)"),
        (codec.GET_SESSION, "getSession(uint256)"),
        (codec.SESSION_COUNTER, "sessionCounter()"),
        (codec.OWNER, "owner()"),
        (codec.STUDENT_BALANCES, "studentBalances(address,address)"),
        (codec.PYUSD_TOKEN, "PYUSD_TOKEN()"),
        (codec.DECIMALS, "decimals()"),
        (codec.BALANCE_OF, "balanceOf(address)"),
    ],
)
def test_selector__of_a_call__is_the_hash_of_its_signature(constant: str, signature: str) -> None:
    assert constant == "0x" + keccak(signature.encode()).hex()[:8]


def test_topics__of_the_abi__are_all_known_by_name() -> None:
    abi = json.loads((ROOT / "bot/chain/abi/LangDAO.json").read_text())
    events = [entry for entry in abi if entry["type"] == "event"]
    assert len(events) == 7
    for event in events:
        signature = f"{event['name']}({','.join(one['type'] for one in event['inputs'])})"
        assert codec.NAMES["0x" + keccak(signature.encode()).hex()] == event["name"]


@given(uint256, addresses, addresses, uint8)
def test_decode__session_started__equals_what_eth_abi_encoded(
    number: int, student: str, tutor: str, language: int
) -> None:
    topics = [
        codec.SESSION_STARTED,
        topic("uint256", number),
        topic("address", student),
        topic("address", tutor),
    ]
    assert codec.decode(topics, data(["uint8"], language)) == codec.SessionStarted(number, student, tutor, language)


@given(uint256, addresses, uint256, uint256)
def test_decode__session_ended__equals_what_eth_abi_encoded(number: int, tutor: str, duration: int, paid: int) -> None:
    topics = [codec.SESSION_ENDED, topic("uint256", number), topic("address", tutor)]
    event = codec.decode(topics, data(["uint256", "uint256"], duration, paid))
    assert event == codec.SessionEnded(number, tutor, duration, paid)


@given(addresses, st.lists(uint8, max_size=40), uint256)
def test_decode__tutor_registered__equals_what_eth_abi_encoded(user: str, languages: list[int], rate: int) -> None:
    topics = [codec.TUTOR_REGISTERED, topic("address", user)]
    event = codec.decode(topics, data(["uint8[]", "uint256"], languages, rate))
    assert event == codec.TutorRegistered(user, tuple(languages), rate)


@given(addresses, uint8, uint256)
def test_decode__student_registered__equals_what_eth_abi_encoded(user: str, language: int, budget: int) -> None:
    topics = [codec.STUDENT_REGISTERED, topic("address", user)]
    event = codec.decode(topics, data(["uint8", "uint256"], language, budget))
    assert event == codec.StudentRegistered(user, language, budget)


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (codec.FUNDS_DEPOSITED, codec.FundsDeposited),
        (codec.FUNDS_WITHDRAWN, codec.FundsWithdrawn),
        (codec.PAYMENT_PROCESSED, codec.PaymentProcessed),
    ],
)
@given(one=addresses, other=addresses, amount=uint256)
def test_decode__two_addresses_and_an_amount__equals_what_eth_abi_encoded(
    first: str, kind: Any, one: str, other: str, amount: int
) -> None:
    event = codec.decode([first, topic("address", one), topic("address", other)], data(["uint256"], amount))
    assert event == kind(one, other, amount)
    assert type(event) is kind


@given(st.sampled_from([*codec.NAMES, "0x" + "ab" * 32]), st.lists(WORDS, max_size=4), WORDS)
def test_decode__anything_at_all__never_raises(first: str, others: list[str], content: str) -> None:
    """Quotes: "decode gives a typed event, or None ..., and never raises"."""
    codec.decode([first, *others], content)
    codec.decode([], content)


@pytest.mark.parametrize("content", ["0x", "0x" + "00" * 31, "0x" + "00" * 64, "0x" + "00" * 30 + "0100"])
def test_decode__session_started_with_other_data__is_none(content: str) -> None:
    word = "0x" + "00" * 32
    assert codec.decode([codec.SESSION_STARTED, word, word, word], content) is None


def test_decode__topic_that_is_no_address__is_none() -> None:
    word = "0x" + "00" * 32
    assert codec.decode([codec.SESSION_STARTED, word, "0x" + "11" * 32, word], "0x" + "00" * 32) is None


FIELDS = ["address", "address", "address", *["uint256"] * 4, "uint8", "uint256", "bool"]


SESSIONS = st.tuples(
    addresses,
    addresses,
    addresses,
    uint256,
    uint256,
    uint256,
    uint256,
    uint8,
    st.integers(1, 2**256 - 1),
    st.booleans(),
)


@given(SESSIONS)
def test_decode_session__random_fields__equals_what_eth_abi_encoded(fields: tuple[Any, ...]) -> None:
    session = codec.decode_session(encode(FIELDS, fields))
    assert session == codec.OnChainSession(*fields)


def test_decode_session__all_zero__is_none() -> None:
    assert codec.decode_session(bytes(320)) is None


@pytest.mark.parametrize("content", [b"", bytes(319), bytes(352), b"\xff" * 320])
def test_decode_session__another_layout__raises_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="session"):
        codec.decode_session(content)


@given(addresses, addresses, uint256)
def test_encode__calls_with_arguments__equal_eth_abi(one: str, other: str, number: int) -> None:
    assert codec.end_session(one) == codec.END_SESSION + encode(["address"], [one]).hex()
    assert codec.active_sessions(one) == codec.ACTIVE_SESSIONS + encode(["address"], [one]).hex()
    assert codec.get_session(number) == codec.GET_SESSION + encode(["uint256"], [number]).hex()
    both = encode(["address", "address"], [one, other]).hex()
    assert codec.student_balances(one, other) == codec.STUDENT_BALANCES + both
    assert codec.tutor_of_end(codec.end_session(one)) == one


@pytest.mark.parametrize("calldata", ["0x", "0x7ce02794", "0x14974de8" + "00" * 32, "nonsense"])
def test_tutor_of_end__another_call__is_none(calldata: str) -> None:
    assert codec.tutor_of_end(calldata) is None
