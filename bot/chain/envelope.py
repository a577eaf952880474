"""A transaction's bytes: what is signed, and what is sent. Pure.

Promises: byte for byte what eth_account makes of the same transaction and key (a test compares both on random ones), in
native code where it counts, in a sixth of the time: a settlement waits for it, and five hundred wait for each other.
Knows the two kinds that the keeper sends: dynamic fees (EIP-1559, without access list) and legacy (EIP-155).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import rlp
from eth_hash.auto import keccak

# eth_account's names, in the order in which a transaction is encoded.
DYNAMIC = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "to", "value", "data")
LEGACY = ("nonce", "gasPrice", "gas", "to", "value", "data")
DYNAMIC_TYPE = b"\x02"


def sign(transaction: Mapping[str, Any], recoverable: Callable[[bytes], bytes]) -> bytes:
    """The signed bytes. `recoverable` signs a hash: r and s, 32 bytes each, then the parity, 0 or 1."""
    if "gasPrice" in transaction:
        fields = [encoded(transaction[name]) for name in LEGACY]
        chain_id = int(transaction["chainId"])
        r, s, parity = _parts(recoverable(keccak(_encode([*fields, encoded(chain_id), b"", b""]))))
        return _encode([*fields, encoded(35 + 2 * chain_id + parity), r, s])
    fields = [*(encoded(transaction[name]) for name in DYNAMIC), []]
    r, s, parity = _parts(recoverable(keccak(DYNAMIC_TYPE + _encode(fields))))
    return DYNAMIC_TYPE + _encode([*fields, encoded(parity), r, s])


def called(raw: str) -> str:
    """Whom signed bytes (0x hex) call: an address in lower case."""
    content = bytes.fromhex(raw[2:])
    dynamic = content[:1] == DYNAMIC_TYPE
    fields = rlp.decode(content[1:] if dynamic else content)
    return "0x" + bytes(fields[(DYNAMIC if dynamic else LEGACY).index("to")]).hex()


def encoded(value: Any) -> Any:
    """A field as it stands in the encoding: an integer without leading zeros, or bytes; None when it wasn't given."""
    if value is None:
        return None
    if isinstance(value, int):
        return value.to_bytes((value.bit_length() + 7) // 8)
    return bytes(value) if isinstance(value, bytes | bytearray) else bytes.fromhex(str(value).removeprefix("0x"))


def _encode(fields: list[Any]) -> bytes:
    """Of byte strings and lists of such: looking at each for what it is would take twice as long again."""
    return bytes(rlp.encode(fields, infer_serializer=False))


def _parts(signature: bytes) -> tuple[bytes, bytes, int]:
    return signature[:32].lstrip(b"\0"), signature[32:64].lstrip(b"\0"), signature[64]
