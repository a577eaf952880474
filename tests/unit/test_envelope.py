"""The bytes of signed transactions, against eth_account's."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.chain.envelope import called
from bot.chain.signer import KeySigner

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEYS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32))
BIG = st.integers(0, 2**128)
COMMON = {
    "chainId": st.integers(1, 2**53),
    "nonce": st.integers(0, 2**63),
    "to": st.binary(min_size=20, max_size=20).map(to_checksum_address),
    "value": BIG,
    "data": st.binary(max_size=200).map(lambda data: "0x" + data.hex()),
    "gas": st.integers(21_000, 2**40),
}
DYNAMIC = st.fixed_dictionaries(COMMON | {"type": st.just(2), "maxFeePerGas": BIG, "maxPriorityFeePerGas": BIG})
LEGACY = st.fixed_dictionaries(COMMON | {"gasPrice": BIG})


@settings(max_examples=25)
@given(key=KEYS, transaction=DYNAMIC | LEGACY)
async def test_sign__any_transaction_and_key__byte_for_byte_what_eth_account_makes(
    key: bytes, transaction: dict[str, Any]
) -> None:
    """byte for byte what eth_account makes of the same transaction and key … Knows the two kinds that the keeper sends:
    dynamic fees (EIP-1559, without access list) and legacy (EIP-155)."""
    account = Account.from_key(key)
    expected = account.sign_transaction(transaction)
    signed = await KeySigner(key).sign(transaction)
    assert (signed.raw, signed.hash) == (expected.raw_transaction.to_0x_hex(), expected.hash.to_0x_hex())
    assert KeySigner(key).address == account.address
    assert called(signed.raw) == transaction["to"].lower()


def test_key_signer__repr__shows_the_address_alone() -> None:
    """ "a key held here is never logged and doesn't show in a repr"."""
    key = "0x" + "11" * 32
    assert repr(KeySigner(key)) == f"KeySigner({Account.from_key(key).address})"
    assert "1111" not in str(vars(KeySigner(key)))


@pytest.mark.parametrize("key", ["0x" + "00" * 32, "0x" + "ff" * 32, "0x12", "0x" + "zz" * 32])
def test_key_signer__no_key__is_a_value_error(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        KeySigner(key)
