"""What a setting's value has to look like, a check for each kind; and how much of a URL may be seen.

Promises: each check returns the value as it is kept, or raises ValueError with the end of a sentence that begins with
the setting's name and doesn't hold the value, which may be secret. None, not given, passes.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from bot.domain.address import checksum

HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
KEY = re.compile(r"(0x)?[0-9a-fA-F]{64}")


def address(value: str | None) -> str | None:
    """Checksummed."""
    if value is None:
        return None
    address = checksum(value.strip())
    if address is None:
        raise ValueError("is not an address (0x and 40 hex digits)")
    return address


def private_key(value: SecretStr | None) -> SecretStr | None:
    """0x and 64 hex digits."""
    if value is None:
        return None
    text = value.get_secret_value().strip()
    if not KEY.fullmatch(text):
        raise ValueError("is not a private key (64 hex digits, with or without 0x)")
    return SecretStr("0x" + text.removeprefix("0x"))


def url(value: SecretStr | None) -> SecretStr | None:
    """Or several, separated by commas; of any kind, SQLite's and Unix sockets' too."""
    if value is None:
        return None
    for part in value.get_secret_value().split(","):
        pieces = urlsplit(part.strip())
        if not pieces.scheme or not (pieces.netloc or pieces.scheme.startswith(("sqlite", "unix"))):
            raise ValueError("is not a URL (scheme://host...)")
    return value


def file(value: Path | None) -> Path | None:
    """A path, `~` at its beginning being this user's home, as in a shell."""
    try:
        return None if value is None else value.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, and there is no such home. Give the whole path") from None


def database(value: SecretStr | None) -> SecretStr | None:
    """Not in a folder of the name `~`, which nobody means."""
    if value is not None and re.match(r"sqlite[^:]*:/+~", value.get_secret_value()):
        raise ValueError("has a ~, which stands for no home here. Give the whole path: sqlite:////home/…")
    return value


def webhook_secret(value: SecretStr | None) -> SecretStr | None:
    """As Standard Webhooks have it, or any text that is long enough."""
    if value is None:
        return None
    text = value.get_secret_value().strip()
    if text.startswith("whsec_"):
        try:
            short = len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) < 24
        except ValueError:
            raise ValueError("is not base64 after whsec_") from None
    else:
        short = len(text) < 24
    if short:
        raise ValueError("is shorter than 24 characters. Make one: openssl rand -hex 32")
    return SecretStr(text)


def event_name(value: str | None) -> str | None:
    """An event that isn't Socket.IO's own; None when empty."""
    name = value.strip() if value else ""
    if name in ("connect", "disconnect", "message", "error"):
        raise ValueError("is a name of Socket.IO's own. Choose another one")
    return name or None


def token(value: SecretStr | None) -> SecretStr | None:
    """Long enough not to be guessed."""
    if value is not None and len(value.get_secret_value()) < 16:
        raise ValueError("is too short: 16 characters at least, e.g. of `openssl rand -hex 16`")
    return value


def node_urls(value: SecretStr | None) -> SecretStr | None:
    """Of nodes, separated by commas: http, https, ws or wss."""
    if value is not None:
        for part in value.get_secret_value().split(","):
            pieces = urlsplit(part.strip())
            if part.strip() and (pieces.scheme not in ("http", "https", "ws", "wss") or not pieces.netloc):
                raise ValueError("is not a URL of a node (http://host..., https://, ws:// or wss://)")
    return value


def http_url(value: SecretStr | None) -> SecretStr | None:
    """http or https."""
    if value is not None:
        pieces = urlsplit(value.get_secret_value().strip())
        if pieces.scheme not in ("http", "https") or not pieces.netloc:
            raise ValueError("is not a URL (http://host... or https://host...)")
    return value


def ws_url(value: SecretStr | None) -> SecretStr | None:
    """ws or wss."""
    if value is not None:
        pieces = urlsplit(value.get_secret_value().strip())
        if pieces.scheme not in ("ws", "wss") or not pieces.netloc:
            raise ValueError("is not a WebSocket's URL (ws://host... or wss://host...)")
    return value


def base_url(value: str | None) -> str | None:
    """http or https, to build others on: without a slash at its end."""
    if value is not None:
        pieces = urlsplit(value.strip())
        if pieces.scheme not in ("http", "https") or not pieces.netloc or pieces.query or pieces.fragment:
            raise ValueError("is not a URL to build others on (http://host... or https://host...)")
    return value.strip().rstrip("/") if value else None


def json_object(value: SecretStr | None) -> SecretStr | None:
    """A JSON object, as text."""
    if value is None:
        return None
    try:
        said = json.loads(value.get_secret_value())
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ValueError('is not a JSON object, e.g. {"token": "…"}')
    return value


def names_in_json(value: object) -> object:
    """What a JSON object says, of a text; its names and values are looked at after this."""
    if not isinstance(value, str):
        return value
    try:
        said = json.loads(value)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ValueError('is not a JSON object, e.g. {"call:over": "ended"}')
    return said


def host_and_port(value: str) -> str:
    """`host:port`."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("is not host:port")
    return value


def host_names(value: str | None) -> str | None:
    """Names of hosts, separated by commas, without scheme and port."""
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    if any(not HOST.fullmatch(name) for name in names):
        raise ValueError("is not names of hosts, e.g. keeper.example,keeper (no scheme, no port)")
    return ",".join(names) or None


def networks(value: str | None) -> str | None:
    """Addresses and networks, separated by commas. Not everybody: then whoever asks would say who asks."""
    parts = [part.strip() for part in (value or "").split(",") if part.strip()]
    try:
        found = [ipaddress.ip_network(part) for part in parts]
    except ValueError:
        raise ValueError("is not addresses or networks, e.g. 127.0.0.1,10.0.0.0/8") from None
    if any(one.prefixlen == 0 for one in found):
        raise ValueError("names everybody; name the proxies")
    return ",".join(parts) or None


def shown(url: str | SecretStr) -> str:
    """Scheme and host of a URL: all of it that may be seen in a log, an error or an output."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    pieces = urlsplit(text.split(",")[0].strip())
    host = pieces.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    try:
        port = f":{pieces.port}" if pieces.port else ""
    except ValueError:
        port = ""
    return f"{pieces.scheme}://{host}{port}"
