"""What signs: one interface, whoever holds the key.

Promises: a key held here is never logged and doesn't show in a repr. What `sign` returns is exactly the transaction
asked for, signed by `address`.
Doesn't promise an answer in no time: a remote signer is another program (`bot.chain.remote_signer`).
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

    async def sign(self, transaction: dict[str, Any]) -> Signed:
        """Signs a transaction given in eth_account's form. Raises TryAgain when it can't be signed now."""
        ...

    async def close(self) -> None:
        """Closes what is open. Safe to call twice."""
        ...


class KeySigner:
    """Signs with a private key held in memory."""

    def __init__(self, key: str | bytes) -> None:
        from web3 import Account  # late: importing web3 takes longer than everything else at start

        self._account = Account.from_key(key)
        self.address: Address = self._account.address

    async def sign(self, transaction: dict[str, Any]) -> Signed:
        signed = self._account.sign_transaction(transaction)
        return Signed(signed.raw_transaction.to_0x_hex(), signed.hash.to_0x_hex())

    async def close(self) -> None:
        """Nothing is open."""

    def __repr__(self) -> str:
        return f"KeySigner({self.address})"
