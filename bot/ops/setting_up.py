"""From a backend's settings to the keeper's own: what is taken over, what is asked for, how the file looks.

Promises: pure. Every name that is written is a setting; a value is written so that it is read back as it was. The
backend's key is taken over only when that is asked for.
Doesn't promise that the settings are true of the world: `doctor` looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import ValidationError

from bot.errors import Misconfigured
from bot.loading import in_words
from bot.settings import Settings

KEY = "BACKEND_PRIVATE_KEY"


class Question(NamedTuple):
    name: str
    text: str
    needed: bool = False
    secret: bool = False


QUESTIONS = (
    Question("RPC_URL", "RPC_URL, a JSON-RPC node of the chain (several: separated by commas)", needed=True),
    Question("CONTRACT_ADDRESS", "CONTRACT_ADDRESS, your LangDAO contract", needed=True),
    Question("SOCKET_URL", "SOCKET_URL, the backend's address, e.g. http://127.0.0.1:4000 (empty: none)"),
    Question("REDIS_URL", "REDIS_URL, the backend's Redis (empty: none)"),
    Question("APPRISE_URLS", "APPRISE_URLS, where alerts go (empty: the log)"),
    Question(KEY, f"{KEY}, the guard's keeper's key or the owner's (empty: watch only)", secret=True),
)

# Setting -> the names under which backends have it, the first that is there counts.
TAKEN = {
    "RPC_URL": ("RPC_URL", "SEPOLIA_RPC_URL", "NEXT_PUBLIC_RPC_URL"),
    "CONTRACT_ADDRESS": ("CONTRACT_ADDRESS", "LANGDAO_CONTRACT_ADDRESS", "NEXT_PUBLIC_CONTRACT_ADDRESS"),
    "START_BLOCK": ("START_BLOCK",),
    "SOCKET_URL": ("SOCKET_URL", "NEXT_PUBLIC_BACKEND_URL"),
    "REDIS_URL": ("REDIS_URL",),
    "APPRISE_URLS": ("APPRISE_URLS",),
    KEY: (KEY, "PRIVATE_KEY"),
}

WHY = {
    "RPC_URL": "A node of the chain; a comma-separated list fails over.",
    "CONTRACT_ADDRESS": "The LangDAO contract.",
    "START_BLOCK": "The block of its deployment; without it the keeper looks for it.",
    "SOCKET_URL": "The backend's Socket.IO address: who hung up is heard there.",
    "REDIS_URL": "The backend's Redis: which addresses belong to a room.",
    "APPRISE_URLS": "Where alerts go. Try it: langdao-keeper alert --test",
    KEY: "Signs the ends of sessions that are over. Without it the keeper watches.",
}
HINTS = """
# What else there is: docs/configure.md. What most operators want next:
#   langdao-keeper webhook         the line to change at the signalling server, so that heartbeats are heard
#   GATEWAY_TOKEN=…                if the backend is the bundled one: nudges reach participants
#   PUBLIC_URL=https://…           the address under which participants reach its pages
#   HEARTBEAT_PING_URL=https://…   a dead man's switch
#   OPERATOR_TOKEN=…               acting from the status page at http://127.0.0.1:4100
"""


def taken_over(backend: Mapping[str, str], *, sign: bool) -> dict[str, str]:
    """The keeper's settings, as far as a backend's .env has them."""
    found: dict[str, str] = {}
    for name, names in TAKEN.items():
        value = next((backend[one].strip() for one in names if backend.get(one, "").strip()), None)
        if value is not None and (sign or name != KEY):
            found[name] = value
    port = backend.get("PORT", "").strip()
    if "SOCKET_URL" not in found and port.isascii() and port.isdigit():
        found["SOCKET_URL"] = f"http://127.0.0.1:{port}"
    return found


def checked(found: Mapping[str, str]) -> Settings:
    """The settings that these make, whatever the environment says. Raises Misconfigured."""
    try:
        return Settings(_env_file=None, **{name.lower(): value for name, value in found.items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise Misconfigured(in_words(error)) from None


def text(found: Mapping[str, str]) -> str:
    """The file."""
    lines = ["# The LangDAO keeper's settings, by `langdao-keeper init`. The environment wins over this file.", ""]
    for name, why in WHY.items():
        if name in found:
            lines += [f"# {why}", f"{name}={_quoted(found[name])}", ""]
    return "\n".join(lines) + HINTS


def _quoted(value: str) -> str:
    plain = value.isascii() and value.isprintable() and not set(value) & set(" #'\"\\$`")
    if plain:
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
