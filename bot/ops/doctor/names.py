"""The settings: what is missing, and names that nobody reads."""

from __future__ import annotations

import difflib
import io
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import Misconfigured
from bot.ops.doctor.patient import Check, Patient
from bot.settings import Settings

if TYPE_CHECKING:
    from dotenv.parser import Binding

NEAR = 0.84  # how alike two names have to be for one to be a slip of the other
# Names that other programs of the stack read, and that a shared .env may hold.
OTHERS = {"BACKEND_URL", "PORT", "NODE_ENV", "PYUSD_ADDRESS", "FRONTEND_URL", "STATUS_NOTE"}


async def settings(patient: Patient) -> Check:
    settings, said = patient.settings, list(patient.wrong.values())
    for name, needed in (
        ("RPC_URL", settings.endpoints),
        ("CONTRACT_ADDRESS", settings.contract),
        ("BACKEND_PRIVATE_KEY", settings.key_source),
    ):
        try:
            needed()
        except Misconfigured as error:
            if name not in patient.wrong:
                said.append(str(error))
    if said:
        return Check("settings", "failed", "; ".join(said), "Mend the environment or .env: docs/configure.md")
    given = [name.upper() for name in ("socket_url", "redis_url", "gateway_token") if getattr(settings, name)]
    return Check("settings", "ok", ", ".join(["RPC_URL", "CONTRACT_ADDRESS", *given]))


async def names(patient: Patient) -> Check:
    """Names in .env that are no settings, lines of it that say nothing, and names in the environment that are nearly
    one."""
    written, said = names_in(Path(".env")), unread()
    if not said:
        return Check("names", "ok", f"{len(written)} in .env, all known" if written else "no .env here")
    return Check("names", "warning", f"not read: {', '.join(said)}", "Mend or remove them: docs/configure.md")


def written_for(name: str) -> list[str]:
    """The names that somebody set, that nobody reads, and that are nearly this one."""
    odd, known = _odd()
    return [one for one in odd if _near(one, known) == name]


def unread() -> list[str]:
    """What somebody set and nobody reads, with what was meant; never a value."""
    odd, known = _odd()
    said = [f"{name} (did you mean {near}?)" if (near := _near(name, known)) else name for name in odd]
    written = names_in(Path(".env"))
    said += [f"{name} but for its last line" for name, times in Counter(written).items() if times > 1]
    said += [f"line {number} of .env, which isn't NAME=value" for number in _broken_lines(Path(".env"))]
    return said


def _odd() -> tuple[list[str], set[str]]:
    """The names that nobody reads, and those that there are."""
    known = {name.upper() for name in Settings.model_fields}
    written = names_in(Path(".env"))
    odd = [name for name in written if name.upper() not in known and name.upper() not in OTHERS]
    told = known | OTHERS | {name.upper() for name in odd}
    odd += [name for name in os.environ if name.upper() not in told and _near(name, known)]
    return odd, known


def _near(name: str, known: set[str]) -> str | None:
    found = difflib.get_close_matches(name.upper(), known, 1, NEAR)
    return found[0] if found else None


def names_in(path: Path) -> list[str]:
    """The names that a .env sets, as often as it does."""
    return [line.key for line in _parsed(path) if line.key and not line.error]


def _broken_lines(path: Path) -> list[int]:
    return [line.original.line for line in _parsed(path) if line.error]


def _parsed(path: Path) -> list[Binding]:
    """By the parser that reads it for the settings."""
    from dotenv.parser import parse_stream

    return list(parse_stream(io.StringIO(path.read_text(errors="replace")))) if path.is_file() else []
