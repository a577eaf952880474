"""What the chain's answers prove. Pure.

Promises: only the contract's own `SessionEnded`, in a receipt with status 1, is an end; only the id with its student
and its tutor, active, is the session.
"""

from __future__ import annotations

from typing import Any

from bot.chain import codec
from bot.chain.errors import RpcError
from bot.chain.refusals import revert_reason
from bot.domain.facts import SessionKey


def ended_in(receipt: dict[str, Any], contract: str) -> list[int]:
    """The ids of the sessions that ended in this transaction, by the contract's own SessionEnded; none if it failed."""
    if receipt.get("status") != "0x1":
        return []
    found = []
    for entry in receipt.get("logs", ()):
        if entry["address"].lower() == contract.lower():
            event = codec.decode(entry["topics"], entry["data"])
            if isinstance(event, codec.SessionEnded):
                found.append(event.session_id)
    return found


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
