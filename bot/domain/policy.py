"""What `decide` goes by: times and counts, and how far the backend's hints are trusted.

All times in milliseconds; the defaults are those of `bot.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Hints(StrEnum):
    """TRUST_BACKEND_HINTS: what the backend's own word that a lesson is over can do."""

    YES = "yes"  # it ends the lesson after grace and window, unless something contradicts
    CORROBORATED = "corroborated"  # so, but only with something beside it
    NO = "no"  # it makes the keeper look and nudge


RISK_OF_HINTS = {
    Hints.YES: "the backend's word ends a lesson unless heartbeats or a participant contradict it in time: whoever can "
    "speak as the backend, or from a participant's page, can end lessons early",
    Hints.CORROBORATED: "the backend's word ends a lesson only together with heartbeats that stopped, or a delivered "
    "nudge that nobody objected to: a lesson that has neither is billed until an operator ends it",
    Hints.NO: "no word of the backend ends a lesson: one that its participants leave without ending it, and that never "
    "had heartbeats, is billed until its balance is used up or an operator ends it",
}


@dataclass(frozen=True, slots=True)
class Policy:
    disconnect_grace_ms: int = 30_000
    nudge_window_ms: int = 60_000
    nudge_again_ms: int = 30_000
    nudge_repeats: int = 3
    heartbeat_timeout_ms: int = 60_000
    heartbeat_arm_count: int = 3
    heartbeat_arm_ms: int = 30_000
    pay_wait_ms: int = 45_000
    backend_head_start_ms: int = 12_000
    contradiction_cap_ms: int = 600_000
    drain_warning_ms: int = 300_000
    drain_grace_ms: int = 300_000
    orphan_after_ms: int = 7_200_000
    end_orphans: bool = False
    sole_room_timeout_ms: int = 300_000
    effect_max_age_ms: int = 600_000
    hints: Hints = Hints.YES
    mass_end_count: int = 10
    mass_end_share: float = 0.5
    mass_hold_max_ms: int = 900_000
