"""The key, and nothing but signing with it.

Promises: the key is held here only, is never logged, and doesn't show in a repr. Signing is local and deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from bot.domain.address import Address


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction: raw bytes and hash, both 0x-hex."""

    raw: str
    hash: str


class Signer(Protocol):
    @property
    def address(self) -> Address: ...

    def sign(self, transaction: dict[str, Any]) -> Signed:
        """Signs a transaction given in eth_account's form."""
        ...


class KeySigner:
    """Signs with a private key held in memory."""

    def __init__(self, key: str) -> None:
        from web3 import Account  # late: importing web3 takes longer than everything else at start

        self._account = Account.from_key(key)
        self.address: Address = self._account.address

    def sign(self, transaction: dict[str, Any]) -> Signed:
        signed = self._account.sign_transaction(transaction)
        return Signed(signed.raw_transaction.to_0x_hex(), signed.hash.to_0x_hex())

    def __repr__(self) -> str:
        return f"KeySigner({self.address})"
