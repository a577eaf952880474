"""What nodes say when they don't take a transaction, as one enumeration.

Promises: `classify` never raises; what it doesn't know is UNKNOWN, and that means "perhaps accepted": look the
transaction up by hash and nonce. `revert_reason` reads the reason of a failed call, '' for empty revert data.
Sources: geth core/txpool/errors.go, reth and erigon pool errors, Nethermind AcceptTxResult, Besu
TransactionInvalidReason, Anvil and Hardhat messages.
"""

from __future__ import annotations

import re
from enum import StrEnum

from bot.chain.errors import RpcError


class Refusal(StrEnum):
    ALREADY_KNOWN = "already-known"  # as good as accepted
    UNDERPRICED = "underpriced"  # a replacement that bids too little
    NONCE_TOO_LOW = "nonce-too-low"  # the nonce is used: by us or by somebody else
    NONCE_TOO_HIGH = "nonce-too-high"
    INSUFFICIENT_FUNDS = "insufficient-funds"
    FEE_TOO_LOW = "fee-too-low"
    IN_FLIGHT_LIMIT = "in-flight-limit"
    GAS_LIMIT = "gas-limit"
    POOL_FULL = "pool-full"
    UNKNOWN = "unknown"


# In this order: some messages contain another's words.
_WORDS: tuple[tuple[str, Refusal], ...] = (
    ("already known", Refusal.ALREADY_KNOWN),
    ("alreadyknown", Refusal.ALREADY_KNOWN),
    ("known transaction", Refusal.ALREADY_KNOWN),
    ("already imported", Refusal.ALREADY_KNOWN),
    ("already in mempool", Refusal.ALREADY_KNOWN),
    ("existing tx with same hash", Refusal.ALREADY_KNOWN),
    ("replacement transaction underpriced", Refusal.UNDERPRICED),
    ("replacementnotallowed", Refusal.UNDERPRICED),
    ("could not replace existing", Refusal.UNDERPRICED),
    ("replacement fee too low", Refusal.UNDERPRICED),
    ("nonce too low", Refusal.NONCE_TOO_LOW),
    ("nonce is too low", Refusal.NONCE_TOO_LOW),
    ("old nonce", Refusal.NONCE_TOO_LOW),
    ("oldnonce", Refusal.NONCE_TOO_LOW),
    ("gapped-nonce tx from delegated", Refusal.IN_FLIGHT_LIMIT),  # only the next nonce of a delegated account
    ("noncetoofarinfuture", Refusal.IN_FLIGHT_LIMIT),  # Nethermind's limit a sender
    ("spammer", Refusal.IN_FLIGHT_LIMIT),  # reth's and erigon's limit a sender
    ("nonce too high", Refusal.NONCE_TOO_HIGH),
    ("nonce too far", Refusal.NONCE_TOO_HIGH),
    ("nonce is too distant", Refusal.NONCE_TOO_HIGH),
    ("noncegap", Refusal.NONCE_TOO_HIGH),
    ("nonce gap", Refusal.NONCE_TOO_HIGH),
    ("insufficient funds", Refusal.INSUFFICIENT_FUNDS),
    ("insufficientfunds", Refusal.INSUFFICIENT_FUNDS),
    ("doesn't have enough funds", Refusal.INSUFFICIENT_FUNDS),
    ("upfront cost exceeds", Refusal.INSUFFICIENT_FUNDS),
    ("in-flight transaction limit", Refusal.IN_FLIGHT_LIMIT),
    ("account limit exceeded", Refusal.IN_FLIGHT_LIMIT),
    ("too many transactions", Refusal.IN_FLIGHT_LIMIT),
    ("txpool is full", Refusal.POOL_FULL),
    ("transaction pool is full", Refusal.POOL_FULL),
    ("sub-pool is full", Refusal.POOL_FULL),
    ("pool overflow", Refusal.POOL_FULL),
    ("pool size constraints", Refusal.POOL_FULL),
    ("txpool overflow", Refusal.POOL_FULL),
    ("exceeds block gas limit", Refusal.GAS_LIMIT),
    ("gas limit too high", Refusal.GAS_LIMIT),
    ("gas limit is too high", Refusal.GAS_LIMIT),
    ("exceeds transaction gas", Refusal.GAS_LIMIT),
    ("intrinsic gas", Refusal.GAS_LIMIT),
    ("intrinsicgas", Refusal.GAS_LIMIT),
    ("gaslimitexceeded", Refusal.GAS_LIMIT),
    ("transaction underpriced", Refusal.FEE_TOO_LOW),
    ("feetoolow", Refusal.FEE_TOO_LOW),
    ("fee too low", Refusal.FEE_TOO_LOW),
    ("less than block base fee", Refusal.FEE_TOO_LOW),
    ("below base fee", Refusal.FEE_TOO_LOW),
    ("gas price below", Refusal.FEE_TOO_LOW),
    ("max fee per gas less than", Refusal.FEE_TOO_LOW),
    ("too low for the next block", Refusal.FEE_TOO_LOW),
    ("underpriced", Refusal.FEE_TOO_LOW),
)


def classify(error: BaseException) -> Refusal:
    """What a failed eth_sendRawTransaction means."""
    if not isinstance(error, RpcError):
        return Refusal.UNKNOWN
    said = str(error.message).lower()
    return next((refusal for words, refusal in _WORDS if words in said), Refusal.UNKNOWN)


_ERROR_STRING = "08c379a0"
# The call itself failed: its like would fail when mined. Nethermind says -32015 and "VM execution error."
_VM_WORDS = ("revert", "vm execution error", "out of gas", "outofgas", "invalid opcode", "invalid jump")


def revert_reason(error: RpcError) -> str:
    """The reason string of a reverted call; '' when the revert data is empty or isn't a reason string."""
    data = error.data
    if isinstance(data, dict):  # Hardhat and some proxies wrap it
        data = data.get("data")
    if isinstance(data, str):
        data = data.removeprefix("Reverted ").removeprefix("0x")  # Nethermind says "Reverted 0x…"
    if isinstance(data, str) and data.startswith(_ERROR_STRING):
        try:
            body = bytes.fromhex(data[8:])
            length = int.from_bytes(body[32:64], "big")
            return body[64 : 64 + length].decode("utf-8", "replace")
        except ValueError:
            return ""
    if isinstance(data, str) and data:
        return ""
    # No data at all: the message may hold the reason.
    found = re.search(r"reverted: *(.+)|reason string '(.*)'", str(error.message))
    return (found.group(1) or found.group(2) or "").strip() if found else ""


def reverted(error: RpcError) -> bool:
    """Did the contract refuse, rather than the node?"""
    said = str(error.message).lower()
    return error.code == 3 or any(words in said for words in _VM_WORDS)
