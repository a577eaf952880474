"""One finding, and what a round of checks knows so far.

Promises: nothing is kept between rounds. A check that can't run raises `Skip`, with the reason.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bot.settings import Settings

if TYPE_CHECKING:
    from bot.chain.guard import Delegation
    from bot.chain.rpc import Rpc
    from bot.chain.wire import RawHeader
    from bot.store.db import Database

REQUEST_S = 4.0

Result = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    result: Result
    value: str
    remedy: str | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Skip(Exception):
    """This check can't run, and why."""


@dataclass(slots=True)
class Patient:
    """What earlier checks found out, for the later ones."""

    settings: Settings
    wrong: Mapping[str, str]  # settings that can't be: left out of `settings`
    rpc: Rpc | None = None
    chain_id: int | None = None
    head: RawHeader | None = None
    head_seen_s: float = 0.0
    has_code: bool = False
    owner: str | None = None
    delegation: Delegation | None = None
    database: Database | None = None
    schema_ok: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def node(self) -> Rpc:
        if self.rpc is None or self.chain_id is None:
            raise Skip("the RPC can't be reached")
        return self.rpc

    def contract(self) -> str:
        self.node()
        if not self.has_code:
            raise Skip("the contract can't be read")
        return self.settings.contract()

    def stored(self) -> Database:
        if self.database is None or not self.schema_ok:
            raise Skip("there is no database to read")
        return self.database


Checker = Callable[[Patient], Awaitable[Check]]

# What to do when a check itself fails, e.g. for want of an answer.
REMEDIES = {
    "rpc": "Start the node or mend RPC_URL",
    "contract": "Check CONTRACT_ADDRESS and RPC_URL",
    "owner": "Check CONTRACT_ADDRESS: it isn't a LangDAO contract",
    "finality": "Use a node that knows the `finalized` tag in RPC_URL",
    "backend": "Start the backend or mend SOCKET_URL",
    "redis": "Start Redis or mend REDIS_URL; without it rooms are linked by the socket's word alone",
    "database": "Mend DATABASE_URL or the rights of the folder",
    "schema": "Mend DATABASE_URL: is it the keeper's database?",
}

# A check says nothing true without the settings that it is about.
READS = {
    "rpc": ("RPC_URL",),
    "contract": ("CONTRACT_ADDRESS",),
    "key": ("BACKEND_PRIVATE_KEY", "KEYSTORE_FILE", "KEYSTORE_PASSWORD_FILE", "REMOTE_SIGNER_URL",
            "REMOTE_SIGNER_ADDRESS", "REMOTE_SIGNER_TIMEOUT_S"),
    "balance": ("MIN_BALANCE_ETH",),
    "backend": ("SOCKET_URL", "NEXT_PUBLIC_BACKEND_URL"),
    "signalling": ("SIGNALLING_URL",),
    "redis": ("REDIS_URL",),
    "public-url": ("PUBLIC_URL",),
    "hints": ("TRUST_BACKEND_HINTS",),
    "silence": ("FEED_SILENCE_S", "HEARTBEAT_TIMEOUT_S"),
    "alerts": ("APPRISE_URLS",),
    "database": ("DATABASE_URL",),
    "webhook": ("WEBHOOK_SECRET_FILE", "HTTP_BIND"),
}  # fmt: skip


def said_of(error: Exception) -> str:
    """What a person can make of a connection that failed."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    why = getattr(error, "os_error", error)
    if isinstance(why, ConnectionRefusedError) or getattr(why, "errno", None) == errno.ECONNREFUSED:
        return "nobody listens there"
    if isinstance(why, socket.gaierror):
        return "no such host"
    return type(error).__name__
