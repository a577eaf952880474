"""An ASGI app on an address, inside a program that has other things to do.

Promises: serves until cancelled, then closes within SHUTDOWN_S; leaves signals to its host; the access log is off,
because a webhook's secret stands in a path. Limits count by who is connected; whom X-Forwarded-For names is believed of
the given proxies alone, and of loopback only if it is one of them. A taken or impossible address is Misconfigured,
naming the setting.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn

from bot.errors import Misconfigured

SHUTDOWN_S = 2


async def serve(
    app: Any,
    bind: str,
    setting: str,
    *,
    proxies: Sequence[str] = (),
    on_ready: Callable[[], None] = lambda: None,
    ws_max_size: int = 1 << 20,
) -> None:
    """Serves `app` on `bind` (host:port), which came from `setting`."""
    listener = listening(bind, setting)
    config = uvicorn.Config(
        app,
        access_log=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        log_config=None,
        log_level="warning",
        server_header=False,
        ws_max_size=ws_max_size,
        timeout_graceful_shutdown=SHUTDOWN_S,
        lifespan="on",
    )
    server = _Server(on_ready, config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {bind}")
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        listener.close()


class _Server(uvicorn.Server):
    """Leaves signals alone, and says when it listens."""

    def __init__(self, ready: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _remedy(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return "Stop what listens there, or choose another port"
        case errno.EACCES:
            return "Ports below 1024 are the administrator's: choose another one"
        case _:
            return "Choose an address of this machine, e.g. 127.0.0.1, and a port"


def listening(bind: str, setting: str) -> socket.socket:
    """A listening socket. Raises Misconfigured."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle off; without, each answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(1024)
    except (OSError, ValueError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "is not host:port"
        raise Misconfigured(f"{setting} {bind}: {why}. {_remedy(error)}") from None
    return listener
