"""Where the keeper's files are, as far as no setting says so.

Promises: only names places; nothing is made or opened here.
"""

from __future__ import annotations

import os
from pathlib import Path

from bot.errors import Misconfigured
from bot.settings import Settings


def state_dir() -> Path:
    """`$XDG_STATE_HOME/langdao-keeper`, or `~/.local/state/langdao-keeper`. Raises Misconfigured without either."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return Path(base).expanduser() / "langdao-keeper"
    except RuntimeError:
        raise Misconfigured(
            "XDG_STATE_HOME is not set, and this user has no home for the keeper's files. Set it to a folder of its own"
        ) from None


def database_url(settings: Settings, chain_id: int) -> str:
    """DATABASE_URL, or SQLite under `state_dir()`, one file a chain and contract."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite:///{state_dir() / f'{chain_id}-{settings.contract()}.db'}"


def webhook_secret_file(settings: Settings, database: Path | None) -> Path:
    """The file with the webhook's secret: as set, or beside the database, or (PostgreSQL) in `state_dir()`."""
    if settings.webhook_secret_file is not None:
        return settings.webhook_secret_file
    beside = database or state_dir() / settings.contract()
    return beside.with_name(f"{beside.name}.webhook")
