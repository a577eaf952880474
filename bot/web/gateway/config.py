"""What the gateway has to be told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def wall_ms() -> int:
    """Epoch milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Secrets never show in the repr. Without `token` nobody can nudge or read the record."""

    bind: str  # host:port
    token: str | None = field(repr=False)
    hook_secret: str = field(repr=False)
    redis_url: str | None = field(default=None, repr=False)  # None: mappings in memory
    heartbeat_every_s: float = 5  # at most one `webrtc:session-heartbeat` per room in this time
    heartbeat_timeout_s: float = 60  # silence after which a series of heartbeats has stopped
    heartbeat_series: int = 3  # heartbeats that make a series
    ack_timeout_s: float = 5  # how long a participant's page has to acknowledge a nudge
    socket_events_per_minute: int = 10  # per ordinary socket
    http_requests_per_minute: int = 100  # per address, for requests without a secret
    ping_interval_s: float = 25
    ping_timeout_s: float = 60
    clock_ms: Callable[[], int] = wall_ms
