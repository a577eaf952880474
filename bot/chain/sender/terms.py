"""What the sender is given: its limits, the head it works at, and those it asks and tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bot.chain.fees import Caps
from bot.domain.facts import SessionKey
from bot.domain.urgency import Urgency

UNPROVEN = "mined without SessionEnded"  # the reason of a failure that a simulation doesn't foresee


@dataclass(frozen=True, slots=True)
class SenderConfig:
    chain_id: int
    gas_limit: int
    confirmations: int
    replace_after_blocks: int
    max_in_flight: int
    caps: Caps
    min_balance_wei: int
    daily_budget_wei: int
    warn_settlements: int = 100
    probe_every_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class At:
    """The head that a look is pinned to."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action.

    `outcome`: settled, over, failed, refused, withdrawn, waiting, lost, retracted, deferred.
    """

    key: SessionKey
    action_id: int
    outcome: str
    reason: str | None = None
    tx_hash: str | None = None


class Hooks(Protocol):
    """What the sender asks and tells."""

    def still_due(self, key: SessionKey) -> bool:
        """Would this session be ended now?"""
        ...

    def withdrawn(self, key: SessionKey) -> bool:
        """Has it stopped being due, e.g. by a sign of life? A pause withdraws nothing."""
        ...

    def urgency(self, key: SessionKey) -> Urgency: ...

    def set_aside(self) -> Sequence[tuple[SessionKey, str]]:
        """Sessions whose end is due, but reverted too often; each with the reason."""
        ...

    async def cured(self, key: SessionKey, reason: str | None = None) -> None:
        """The end of a session that was set aside would succeed now, or revert for another reason, this one."""
        ...

    def may_pay_wait(self, key: SessionKey) -> bool: ...
    async def paying(self, key: SessionKey, payer: str) -> None: ...

    async def report(self, outcomes: Sequence[Outcome]) -> None:
        """These became known together; when this returns they are stored."""
        ...

    async def alert(self, name: str, text: str, key: SessionKey | None) -> None: ...
