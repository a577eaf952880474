"""The settings: what is missing, and names that nobody reads."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from bot.errors import Misconfigured
from bot.ops.doctor.patient import Check, Patient
from bot.settings import Settings

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
    """Names in .env that are no settings, and names in the environment that are nearly one."""
    known = {name.upper() for name in Settings.model_fields}
    written = _names_in(Path(".env"))
    odd = [name for name in written if name.upper() not in known and name.upper() not in OTHERS]
    told = known | OTHERS | {name.upper() for name in odd}
    odd += [name for name in os.environ if name.upper() not in told and _near(name, known)]
    if not odd:
        return Check("names", "ok", f"{len(written)} in .env, all known" if written else "no .env here")
    said = [f"{name} (did you mean {near}?)" if (near := _near(name, known)) else name for name in odd]
    return Check("names", "warning", f"not read: {', '.join(said)}", "Mend or remove them: docs/configure.md")


def _near(name: str, known: set[str]) -> str | None:
    found = difflib.get_close_matches(name.upper(), known, 1, NEAR)
    return found[0] if found else None


def _names_in(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = (line.strip().removeprefix("export ") for line in path.read_text(errors="replace").splitlines())
    return [line.partition("=")[0].strip() for line in lines if "=" in line and not line.startswith("#")]
