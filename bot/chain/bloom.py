"""A block's `logsBloom`: can it have logs of this contract?

Promises: no block with a log of the contract is passed over while the node's blooms are right; and a bloom is believed
only after one was seen to be right: some networks leave it zero, and once one was wrong, none is believed again.
"""

from __future__ import annotations

from eth_hash.auto import keccak

from bot.chain.wire import RawHeader
from bot.domain.address import Address

_BLOOM_DIGITS = 512


class Bloom:
    """What the blooms of this node are worth, for one contract."""

    def __init__(self, contract: Address) -> None:
        marks = keccak(bytes.fromhex(contract[2:]))
        self._bits = sum({1 << (int.from_bytes(marks[at : at + 2], "big") & 2047) for at in (0, 2, 4)})
        self._right: bool | None = None

    def may_have_logs(self, header: RawHeader) -> bool:
        """False only if the block has no logs of the contract."""
        return self._right is not True or self._says(header)

    def saw_logs_in(self, header: RawHeader) -> None:
        """This block did have a log of the contract: was its bloom right?"""
        if self._right is not False:
            self._right = self._says(header)

    def _says(self, header: RawHeader) -> bool:
        bloom = header.logs_bloom
        return bloom is not None and len(bloom) == 2 + _BLOOM_DIGITS and int(bloom, 16) & self._bits == self._bits
