"""The mass-end breaker: when many lessons seem to end at once, it is more likely the backend that is broken.

Promises
 - It trips when, within WINDOW_MS, more than MASS_END_COUNT ends were decided and they are more than MASS_END_SHARE of
   the active sessions. Ends by a participant's signature or an operator's `settle` don't count.
 - What rests on evidence from before it tripped is held: until the session has evidence of its own from after that, an
   operator resumes, or, if it has been silent since, MASS_HOLD_MAX_S have passed. What was held once and released
   doesn't trip it again.
 - Pure; times are passed in; what is remembered can be rebuilt from the record.
Doesn't promise that nothing of a wave goes out: up to MASS_END_COUNT ends that fall due before the rest may.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bot.domain.policy import Policy

WINDOW_MS = 30_000
HOLD = "mass-end"  # why a decision holds

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Breaker(Generic[K]):
    """`tripped_ms` is when it tripped, None while it isn't; `since_ms` is when it last tripped or was released."""

    tripped_ms: int | None = None
    since_ms: int = 0
    recent: dict[K, int] = field(default_factory=dict)  # what counted lately, and when; in the order of time

    def note(self, ends: Iterable[tuple[K, int]], active: int, policy: Policy, now_ms: int) -> int | None:
        """Takes ends that were decided now, as (session, newest evidence). Their count in the window if it trips now.

        `active` is how many sessions are active, those that end now included.
        """
        fresh = [key for key, evidence_ms in ends if evidence_ms > self.since_ms]
        self.recent = {key: at for key, at in self.recent.items() if now_ms - at < WINDOW_MS and key not in fresh}
        self.recent |= dict.fromkeys(fresh, now_ms)
        count = len(self.recent)
        if not fresh or count <= policy.mass_end_count or count <= policy.mass_end_share * active:
            return None
        self.tripped_ms = self.since_ms = now_ms
        self.recent = {}
        return count

    def release(self, now_ms: int) -> None:
        """An operator has looked, or there is nothing left to hold."""
        self.tripped_ms, self.since_ms = None, now_ms
        self.recent = {}
