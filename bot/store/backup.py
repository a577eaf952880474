"""A copy of the database.

Promises: it is taken while others write, is consistent, complete on the disk before it has its name, and readable by
its owner alone.
Doesn't promise copies of PostgreSQL: its own tools make better ones, and the errors here name them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from bot.errors import Misconfigured
from bot.store.db import Database

PAGES = 2_000  # copied between two looks whether somebody wants to write
PAUSE_S = 0.01


def take_backup(database: Database, target: Path) -> int:
    """Copies an SQLite database to `target` while others go on; the copy's size in bytes. Raises Misconfigured."""
    if database.path is None:
        raise Misconfigured("DATABASE_URL is no SQLite file: copy it with its own tools, e.g. pg_dump -Fc")
    unfinished = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        source = sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)
        copy = sqlite3.connect(unfinished)
        try:
            source.backup(copy, pages=PAGES, sleep=PAUSE_S)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete in itself
        finally:
            copy.close()
            source.close()
        with unfinished.open("rb") as done:
            os.fsync(done.fileno())
        unfinished.replace(target)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise Misconfigured(f"{target} can't be written ({error}). Choose another place") from None
    return target.stat().st_size
