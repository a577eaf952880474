"""The times and counts that `decide` goes by. All in milliseconds; the defaults are those of `bot.settings`."""

from __future__ import annotations

from dataclasses import dataclass


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
