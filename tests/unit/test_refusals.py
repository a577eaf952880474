"""What nodes say when they don't take a transaction or a call, in their own words."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi import encode
from hypothesis import given
from hypothesis import strategies as st

from bot.chain.errors import RpcError, Unreachable
from bot.chain.refusals import Refusal, classify, revert_reason, reverted

SAID = (
    # geth (core/txpool/errors.go, core/error.go)
    ("geth", "already known", Refusal.ALREADY_KNOWN),
    ("geth", "replacement transaction underpriced", Refusal.UNDERPRICED),
    ("geth", "replacement transaction underpriced: new tx gas fee cap 5 <= 5 queued", Refusal.UNDERPRICED),
    ("geth", "nonce too low: next nonce 5, tx nonce 3", Refusal.NONCE_TOO_LOW),
    ("geth", "nonce too high", Refusal.NONCE_TOO_HIGH),
    (
        "geth",
        "insufficient funds for gas * price + value: balance 1, tx cost 2, overshot 1",
        Refusal.INSUFFICIENT_FUNDS,
    ),
    ("geth", "transaction underpriced: gas tip cap 0, minimum needed 1", Refusal.FEE_TOO_LOW),
    ("geth", "max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1", Refusal.FEE_TOO_LOW),
    ("geth", "in-flight transaction limit reached for delegated accounts", Refusal.IN_FLIGHT_LIMIT),
    ("geth", "exceeds block gas limit", Refusal.GAS_LIMIT),
    ("geth", "intrinsic gas too low: gas 1, minimum needed 21000", Refusal.GAS_LIMIT),
    ("geth", "txpool is full", Refusal.POOL_FULL),
    ("geth", "gapped-nonce tx from delegated accounts", Refusal.IN_FLIGHT_LIMIT),
    # reth
    ("reth", "already known", Refusal.ALREADY_KNOWN),
    ("reth", "replacement transaction underpriced", Refusal.UNDERPRICED),
    ("reth", "nonce too low: next nonce 5, tx nonce 3", Refusal.NONCE_TOO_LOW),
    ("reth", "max fee per gas less than block base fee", Refusal.FEE_TOO_LOW),
    ("reth", "txpool is full", Refusal.POOL_FULL),
    ("reth", "transaction discarded outright due to pool size constraints", Refusal.POOL_FULL),
    ("reth", "rejected due to 0x12 being identified as a spammer", Refusal.IN_FLIGHT_LIMIT),
    ("reth", "in-flight transaction limit reached for delegated accounts", Refusal.IN_FLIGHT_LIMIT),
    # erigon (txpool/txpoolcfg DiscardReason)
    ("erigon", "already known", Refusal.ALREADY_KNOWN),
    ("erigon", "could not replace existing tx", Refusal.UNDERPRICED),
    ("erigon", "replacement transaction underpriced", Refusal.UNDERPRICED),
    ("erigon", "nonce too low", Refusal.NONCE_TOO_LOW),
    ("erigon", "fee too low", Refusal.FEE_TOO_LOW),
    ("erigon", "pending sub-pool is full", Refusal.POOL_FULL),
    ("erigon", "baseFee sub-pool is full", Refusal.POOL_FULL),
    ("erigon", "insufficient funds", Refusal.INSUFFICIENT_FUNDS),
    ("erigon", "ALREADY_EXISTS: already known", Refusal.ALREADY_KNOWN),
    ("erigon", "INTERNAL_ERROR: existing tx with same hash", Refusal.ALREADY_KNOWN),
    ("erigon", "underpriced", Refusal.FEE_TOO_LOW),
    ("erigon", "spammer", Refusal.IN_FLIGHT_LIMIT),
    ("erigon", "IntrinsicGas", Refusal.GAS_LIMIT),
    # nethermind (AcceptTxResult)
    ("nethermind", "AlreadyKnown", Refusal.ALREADY_KNOWN),
    ("nethermind", "ReplacementNotAllowed", Refusal.UNDERPRICED),
    ("nethermind", "OldNonce, Current nonce: 5, nonce of rejected tx: 3", Refusal.NONCE_TOO_LOW),
    ("nethermind", "NonceGap, Future nonce. Expected nonce: 5", Refusal.NONCE_TOO_HIGH),
    ("nethermind", "NonceTooFarInFuture", Refusal.IN_FLIGHT_LIMIT),
    ("nethermind", "InsufficientFunds, Account balance: 0, cumulative cost: 5", Refusal.INSUFFICIENT_FUNDS),
    ("nethermind", "FeeTooLow, MaxFeePerGas too low", Refusal.FEE_TOO_LOW),
    ("nethermind", "FeeTooLowToCompete", Refusal.FEE_TOO_LOW),
    ("nethermind", "GasLimitExceeded, Gas limit: 30000000", Refusal.GAS_LIMIT),
    # besu (TransactionInvalidReason as JSON-RPC errors)
    ("besu", "Known transaction", Refusal.ALREADY_KNOWN),
    ("besu", "Replacement transaction underpriced", Refusal.UNDERPRICED),
    ("besu", "Nonce too low", Refusal.NONCE_TOO_LOW),
    ("besu", "Transaction nonce is too distant from current sender nonce", Refusal.NONCE_TOO_HIGH),
    ("besu", "Upfront cost exceeds account balance", Refusal.INSUFFICIENT_FUNDS),
    ("besu", "Gas price below configured minimum gas price", Refusal.FEE_TOO_LOW),
    ("besu", "Transaction gas limit exceeds block gas limit", Refusal.GAS_LIMIT),
    ("besu", "Intrinsic gas exceeds gas limit", Refusal.GAS_LIMIT),
    # anvil
    ("anvil", "transaction already imported", Refusal.ALREADY_KNOWN),
    ("anvil", "replacement transaction underpriced", Refusal.UNDERPRICED),
    ("anvil", "nonce too low", Refusal.NONCE_TOO_LOW),
    ("anvil", "Insufficient funds for gas * price + value", Refusal.INSUFFICIENT_FUNDS),
    ("anvil", "max fee per gas less than block base fee", Refusal.FEE_TOO_LOW),
    # hardhat
    ("hardhat", "Known transaction: 0x1234", Refusal.ALREADY_KNOWN),
    (
        "hardhat",
        "Nonce too low. Expected nonce to be 5 but got 3. Note that transactions can't be queued when automining.",
        Refusal.NONCE_TOO_LOW,
    ),
    ("hardhat", "Nonce too high. Expected nonce to be 5 but got 9.", Refusal.NONCE_TOO_HIGH),
    (
        "hardhat",
        "Sender doesn't have enough funds to send tx. The max upfront cost is: 5 and the sender's balance is: 1.",
        Refusal.INSUFFICIENT_FUNDS,
    ),
    (
        "hardhat",
        "Replacement transaction underpriced. A gasPrice/maxFeePerGas of at least 5 is necessary to replace the "
        "existing transaction with nonce 3.",
        Refusal.UNDERPRICED,
    ),
    (
        "hardhat",
        "Transaction gas limit is 40000000 and exceeds block gas limit of 30000000",
        Refusal.GAS_LIMIT,
    ),
    (
        "hardhat",
        "Transaction maxFeePerGas (1) is too low for the next block, which has a baseFeePerGas of 5",
        Refusal.FEE_TOO_LOW,
    ),
    # anybody
    ("a proxy", "internal error", Refusal.UNKNOWN),
    ("a proxy", "", Refusal.UNKNOWN),
)


@pytest.mark.parametrize(("message", "expected"), [row[1:] for row in SAID], ids=[f"{n}: {m[:30]}" for n, m, _ in SAID])
def test_classify__message_of_a_node__its_meaning(message: str, expected: Refusal) -> None:
    assert classify(RpcError(-32000, message)) == expected


@pytest.mark.parametrize("error", [Unreachable("http://x", "time-out"), ValueError("?"), TimeoutError()])
def test_classify__no_answer_at_all__unknown_means_perhaps_accepted(error: BaseException) -> None:
    """what it doesn't know is UNKNOWN, and that means "perhaps accepted" """
    assert classify(error) is Refusal.UNKNOWN


REASON = "Session not active"
DATA = "0x08c379a0" + encode(["string"], [REASON]).hex()
REVERTS = (
    ("geth", RpcError(3, f"execution reverted: {REASON}", DATA), REASON),
    ("geth, no data", RpcError(-32000, f"execution reverted: {REASON}"), REASON),
    ("geth, empty", RpcError(3, "execution reverted", "0x"), ""),
    ("geth, empty and no data", RpcError(-32000, "execution reverted"), ""),
    ("reth", RpcError(3, f"execution reverted: {REASON}", DATA), REASON),
    ("erigon", RpcError(3, f"execution reverted: {REASON}", DATA), REASON),
    ("nethermind", RpcError(-32015, "VM execution error.", f"Reverted {DATA}"), REASON),
    ("nethermind, empty", RpcError(-32015, "VM execution error.", "Reverted 0x"), ""),
    ("besu", RpcError(-32000, "Execution reverted", DATA), REASON),
    ("anvil", RpcError(3, f"execution reverted: {REASON}", DATA), REASON),
    ("anvil, empty", RpcError(3, "execution reverted", "0x"), ""),
    (
        "hardhat",
        RpcError(
            -32603,
            f"Error: VM Exception while processing transaction: reverted with reason string '{REASON}'",
            {"message": "…", "data": DATA},
        ),
        REASON,
    ),
    (
        "hardhat, no data",
        RpcError(-32603, f"Error: VM Exception while processing transaction: reverted with reason string '{REASON}'"),
        REASON,
    ),
    ("custom error", RpcError(3, "execution reverted", "0x12345678"), ""),
    ("broken data", RpcError(3, "execution reverted", "0x08c379a0zz"), ""),
    ("no more gas", RpcError(-32000, "out of gas"), ""),
)


@pytest.mark.parametrize(("error", "reason"), [row[1:] for row in REVERTS], ids=[row[0] for row in REVERTS])
def test_revert_reason__failed_call__its_reason_or_nothing(error: RpcError, reason: str) -> None:
    """`revert_reason` reads the reason of a failed call, '' for empty revert data."""
    assert reverted(error)
    assert revert_reason(error) == reason


@given(st.integers(), st.none() | st.text() | st.integers() | st.lists(st.text()), st.none() | st.text())
def test_classify__any_error__is_some_refusal(code: int, message: Any, data: Any) -> None:
    """`classify` never raises"""
    assert classify(RpcError(code, message, data)) in Refusal
    assert isinstance(revert_reason(RpcError(code, message, data)), str)


@pytest.mark.parametrize(
    "error",
    [RpcError(-32005, "limit exceeded"), RpcError(-32000, "header not found"), RpcError(-32601, "no such method")],
)
def test_reverted__the_node_refuses__is_no_revert(error: RpcError) -> None:
    assert not reverted(error)
