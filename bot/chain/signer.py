"""What signs: one interface, whoever holds the key.

Promises: a key held here is never logged and doesn't show in a repr. What `sign` returns is exactly the transaction
asked for, signed by `address`.
Doesn't promise an answer in no time: a remote signer is another program (`bot.chain.remote_signer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from coincurve import PrivateKey
from eth_hash.auto import keccak

from bot.chain import envelope
from bot.domain.address import Address, checksum

KEY_BYTES = 32


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
    """Signs with a private key held in memory, given as 32 bytes or their hex."""

    def __init__(self, key: str | bytes) -> None:
        """Raises ValueError when this is no key."""
        secret = bytes.fromhex(key.removeprefix("0x")) if isinstance(key, str) else key
        if len(secret) != KEY_BYTES:
            raise ValueError("a private key has 32 bytes")
        self._key = PrivateKey(secret)
        public = self._key.public_key.format(compressed=False)
        address = checksum("0x" + keccak(public[1:])[-20:].hex())
        assert address is not None
        self.address: Address = address

    async def sign(self, transaction: dict[str, Any]) -> Signed:
        content = envelope.sign(transaction, lambda digest: self._key.sign_recoverable(digest, hasher=None))
        return Signed("0x" + content.hex(), "0x" + keccak(content).hex())

    async def close(self) -> None:
        """Nothing is open."""

    def __repr__(self) -> str:
        return f"KeySigner({self.address})"
