"""Addresses as the chain writes them.

Promises: `checksum` gives the EIP-55 form or None, never raises, and is cheap for an address seen before.
Doesn't promise that anybody holds the address.
"""

from __future__ import annotations

from functools import lru_cache

from eth_hash.auto import keccak

Address = str

_HEX = frozenset("0123456789abcdefABCDEF")


@lru_cache(maxsize=16_384)  # 4 MB
def checksum(text: str) -> Address | None:
    """EIP-55 form of `text` (0x and 40 hex digits in any casing), or None if it is no address."""
    if len(text) != 42 or text[:2] not in ("0x", "0X") or not _HEX.issuperset(text[2:]):
        return None
    digits = text[2:].lower()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(m, 16) >= 8 else d for d, m in zip(digits, marks, strict=False))


def same(left: Address | None, right: Address | None) -> bool:
    """True unless both are given and differ: an address that wasn't said contradicts nothing."""
    return left is None or right is None or left == right
