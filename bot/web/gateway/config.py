"""What the gateway has to be told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bot.places import state_dir
from bot.settings import Settings


def wall_ms() -> int:
    """Epoch milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Secrets never show in the repr. Without `token` nobody can nudge or read the record."""

    bind: str  # host:port
    token: str | None = field(repr=False)
    hook_secret: str = field(repr=False)
    redis_url: str | None = field(default=None, repr=False)  # None: everything in `state_file`
    state_file: Path | None = None  # None, and no Redis: everything in memory
    disconnect_grace_s: float = 30  # how long somebody who was lost may come back
    explorer_url: str | None = None  # pages link transactions under it
    debug_page: bool = False
    heartbeat_every_s: float = 5  # at most one `webrtc:session-heartbeat` per room in this time
    heartbeat_timeout_s: float = 60  # silence after which a series of heartbeats has stopped
    heartbeat_series: int = 3  # heartbeats that make a series
    ack_timeout_s: float = 5  # how long a participant's page has to acknowledge a nudge
    socket_events_per_minute: int = 10  # per ordinary socket
    http_requests_per_minute: int = 100  # per address, for requests without a secret
    trusted_proxies: tuple[str, ...] = ()  # whose X-Forwarded-For says which address that is
    ping_interval_s: float = 25
    ping_timeout_s: float = 60
    clock_ms: Callable[[], int] = wall_ms

    @classmethod
    def of(cls, settings: Settings, hook_secret: str) -> GatewayConfig:
        """As the settings say. Raises Misconfigured without GATEWAY_TOKEN."""
        port = settings.gateway_bind.rpartition(":")[2]
        return cls(
            bind=settings.gateway_bind,
            token=settings.shared_token(),
            hook_secret=hook_secret,
            explorer_url=settings.explorer_url,
            debug_page=settings.debug_page,
            http_requests_per_minute=settings.gateway_requests_per_minute,
            trusted_proxies=tuple(settings.proxies()),
            redis_url=settings.redis_url.get_secret_value() if settings.redis_url else None,
            state_file=settings.gateway_state_file or state_dir() / f"gateway-{port}.db",
            disconnect_grace_s=settings.disconnect_grace_s,
            # Coalesced more coarsely than that, a living room would look silent to a keeper with a short time-out.
            heartbeat_every_s=min(5.0, settings.heartbeat_timeout_s / 4),
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            heartbeat_series=settings.heartbeat_arm_count,
        )
