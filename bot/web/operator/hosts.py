"""Under which names the operator's pages may be asked for.

Promises: a name of somebody else's that leads here (DNS rebinding) gets nothing to read: whose page a browser is on,
it says in `Host`. Allowed are addresses (a page that came from one can't be led elsewhere), localhost, the host in
HTTP_BIND and in PUBLIC_URL, and the names in HTTP_HOSTS.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

MISDIRECTED = 421


class Hosts:
    def __init__(self, bind: str, public_url: str | None, more: str | None) -> None:
        given = (bind.rpartition(":")[0], urlsplit(public_url or "").hostname or "", *(more or "").split(","))
        self._names = {"localhost", *(name.strip().lower().rstrip(".") for name in given)} - {""}

    def allows(self, host: str) -> bool:
        """Is this `Host` header one of ours?"""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._names or name.endswith(".localhost") or _is_address(name)

    def check(self, request: Request) -> None:
        """Raises a 421 that says what to set."""
        host = request.headers.get("host", "")
        if not self.allows(host):
            detail = f"{host[:100]!r} isn't a name of this keeper: if it is, add it to HTTP_HOSTS"
            raise HTTPException(MISDIRECTED, detail)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
