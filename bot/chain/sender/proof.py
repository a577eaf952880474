"""What the chain's answers prove. Pure.

Promises: only the contract's own `SessionEnded`, in a receipt with status 1, is an end; only the id with its student
and its tutor, active, is the session. What the guard says of an item explains why there was no end, and proves none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bot.chain import codec, guard_codec
from bot.chain.errors import RpcError
from bot.chain.refusals import revert_reason
from bot.chain.sender.terms import UNPROVEN
from bot.domain.facts import SessionKey
from bot.store.txs import Item

NOT_GUARDED = "the owner's account didn't run the guard"


class Came(NamedTuple):
    """What came of one session of a mined settlement."""

    item: Item
    outcome: str
    reason: str | None


def ended_in(receipt: dict[str, Any], contract: str) -> list[int]:
    """The ids of the sessions that ended in this transaction, by the contract's own SessionEnded; none if it failed."""
    found = []
    for entry in _logs_of(receipt, contract):
        event = codec.decode(entry["topics"], entry["data"])
        if isinstance(event, codec.SessionEnded):
            found.append(event.session_id)
    return found


def what_came(receipt: dict[str, Any], items: Sequence[Item], contract: str) -> list[Came]:
    """Of each item of a settlement; it called LangDAO itself, or the account that the guard speaks for."""
    ended = set(ended_in(receipt, contract))
    to = str(receipt.get("to"))
    if to.lower() == contract.lower():
        missing = ("over", "another session was in the slot") if ended else ("failed", UNPROVEN)
        said: dict[int, tuple[str, str]] = {}
    else:
        said, missing = _said_by_guard(receipt, to)
    return [
        Came(item, "settled", None)
        if item.key.session_id in ended
        else Came(item, *said.get(item.key.session_id, missing))
        for item in items
    ]


def _said_by_guard(receipt: dict[str, Any], account: str) -> tuple[dict[int, tuple[str, str]], tuple[str, str]]:
    """Outcome and reason by session id, and those of a session that it didn't mention."""
    said: dict[int, tuple[str, str]] = {}
    missing = ("refused", NOT_GUARDED)
    for entry in _logs_of(receipt, account):
        match guard_codec.decode(entry["topics"], entry["data"]):
            case guard_codec.Skipped(number, guard_codec.TOO_LITTLE_GAS):  # it stopped there
                missing = said[number] = ("deferred", guard_codec.REASONS[guard_codec.TOO_LITTLE_GAS])
            case guard_codec.Skipped(number, why):
                said[number] = ("over", guard_codec.REASONS.get(why, f"skipped for the guard's reason {why}"))
            case guard_codec.Failed(number, data):
                outcome, reason = why_refused(RpcError(3, "execution reverted", "0x" + data.hex()))
                said[number] = (outcome, f"{UNPROVEN}: {reason}" if outcome == "failed" else reason)
            case guard_codec.Settled(number):
                said[number] = ("failed", UNPROVEN)
    return said, missing


def _logs_of(receipt: dict[str, Any], address: str) -> list[dict[str, Any]]:
    if receipt.get("status") != "0x1":
        return []
    return [entry for entry in receipt.get("logs", ()) if entry["address"].lower() == address.lower()]


def mined_by(receipt: Any, head: int) -> bool:
    """Is this a receipt, of a block up to `head`?"""
    return (
        isinstance(receipt, dict) and receipt.get("blockNumber") is not None and int(receipt["blockNumber"], 16) <= head
    )


def holds(active: codec.OnChainSession | None, key: SessionKey) -> bool:
    """Is `key` the tutor's active session?"""
    return (
        active is not None
        and active.active
        and (active.id, active.student, active.tutor) == (key.session_id, key.student, key.tutor)
    )


def why_refused(error: RpcError) -> tuple[str, str]:
    """Outcome and reason of a simulation that reverted."""
    reason = revert_reason(error)
    if reason == "Session not active":
        return "over", reason
    if reason.startswith("Caller is not"):
        return "refused", reason
    return "failed", reason or "the token refuses the payment (it reverts without a reason: paused or frozen?)"
