"""What a participant's page is told of a session: what the chain says, what the keeper means to do, the bill.

Promises: pure. Everything here is on the public chain, follows from it, or was said in the session's own rooms; nothing
names who asked for it, and no key, secret or contact is here. Chain times are
epoch seconds of blocks (`_s`, `startedAt`), the keeper's own times epoch ms (`…Ms`), amounts strings of base units.
Doesn't promise that what is planned will happen: any fact may change it, and then there is a new plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bot.domain.address import Address
from bot.domain.breaker import HOLD
from bot.domain.decide import Action, Decision
from bot.domain.facts import SessionKey


class State(StrEnum):
    """Where a session stands, for somebody who looks at it."""

    RUNNING = "running"  # nobody has said anything against it
    DUE = "due"  # something was said or missed: it is to be ended and paid
    ENDING = "ending"  # the keeper is ending it
    HELD = "held"  # its end is due, but the keeper may not or cannot end it
    ENDED = "ended"  # on chain
    GONE = "gone"  # a reorg took it


@dataclass(frozen=True, slots=True)
class Bill:
    """One `SessionEnded`. What isn't known yet is None."""

    paid: int
    seconds: int
    ended_at_s: int | None
    ended_by: str | None
    tx_hash: str
    call_ended_at_s: int | None
    overbilled_s: int | None
    overbilled: int | None

    def payload(self) -> dict[str, Any]:
        return {
            "paid": str(self.paid),
            "seconds": self.seconds,
            "endedAt": self.ended_at_s,
            "endedBy": self.ended_by,
            "txHash": self.tx_hash,
            "callEndedAt": self.call_ended_at_s,
            "overbilledSeconds": self.overbilled_s,
            "overbilled": None if self.overbilled is None else str(self.overbilled),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """`due_ms` is None while nothing is due; `why` says the reason in words."""

    key: SessionKey
    chain_id: int
    contract: Address
    state: State
    rooms: Sequence[str] = ()
    started_at_s: int | None = None
    rate: int | None = None
    balance: int | None = None
    reason: str = ""
    why: str = ""
    ask: bool = False
    due_ms: int | None = None
    drained_ms: int | None = None
    hold: str | None = None
    bill: Bill | None = None

    def payload(self) -> dict[str, Any]:
        """The plan as JSON, but for the clocks, which differ each time."""
        return {
            "sessionId": self.key.session_id,
            "chainId": self.chain_id,
            "contract": self.contract,
            "student": self.key.student,
            "tutor": self.key.tutor,
            "rooms": list(self.rooms),
            "state": self.state.value,
            "startedAt": self.started_at_s,
            "rate": _text(self.rate),
            "balance": _text(self.balance),
            "reason": self.reason,
            "why": self.why,
            "ask": self.ask,
            "dueMs": self.due_ms,
            "drainedMs": self.drained_ms,
            "hold": self.hold,
            "bill": None if self.bill is None else self.bill.payload(),
        }


def state_of(decision: Decision, *, settling: bool) -> State:
    """`settling`: an end was decided and its transaction is under way."""
    if decision.action is Action.CLOSE:
        return State.ENDED
    if settling or decision.action is Action.END:
        return State.ENDING
    if decision.action is Action.HOLD:
        return State.HELD
    return State.RUNNING if decision.reason in ("running", "orphan") else State.DUE


def hold_of(decision: Decision, general: str | None) -> str | None:
    """Why nothing is signed: `paused`, `watching`, `finality`; for this session alone `set-aside`, `mass-end`."""
    if general is not None:
        return general
    if decision.action is not Action.HOLD:
        return None
    return HOLD if decision.inputs.get("hold") == HOLD else "set-aside"


def _text(amount: int | None) -> str | None:
    return None if amount is None else str(amount)
