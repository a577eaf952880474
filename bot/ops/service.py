"""What a service manager is told: that we are ready, that we live, that we stop.

Promises: says nothing where nobody asked (no NOTIFY_SOCKET), and never fails the daemon. `alive` is called by the event
loop, so a loop that hangs is noticed and the service started anew.
Twelve lines of the documented datagram protocol; the packages for it are unkept.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class ServiceManager:
    """systemd's `Type=notify` protocol (sd_notify(3))."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.get("NOTIFY_SOCKET", "")

    def ready(self, text: str) -> None:
        self._say(f"READY=1\nSTATUS={text}")

    def alive(self, text: str) -> None:
        self._say(f"WATCHDOG=1\nSTATUS={text}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.sendto(text.replace("\0", "").encode(), address)
