"""Looking after the database: is it whole, a copy of it, the disk it doesn't need any more.

Promises: a copy is taken while others write, is consistent, complete on the disk before it has its name, and readable
by its owner alone. Nothing here changes a row.
Doesn't promise copies of PostgreSQL: its own tools make better ones, and the errors here name them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from sqlalchemy import inspect, text

from bot.errors import Misconfigured
from bot.store import schema
from bot.store.db import Database

PAGES = 2_000  # copied between two looks whether somebody wants to write
PAUSE_S = 0.01
LISTED = 20


def check(database: Database) -> list[str]:
    """What is wrong with it, empty when nothing is."""
    wrong: list[str] = []
    with database.engine.connect() as connection:
        if database.sqlite:
            found = [str(row[0]) for row in connection.execute(text(f"PRAGMA integrity_check({LISTED})"))]
            wrong += [line for line in found if line != "ok"]
            wrong += [f"broken reference: {tuple(row)}" for row in connection.execute(text("PRAGMA foreign_key_check"))]
        from bot.store.tables import Table

        there = set(inspect(connection).get_table_names())
        wrong += [f"table {name} is missing" for name in sorted(set(Table.metadata.tables) - there)]
    present = schema.version(database)
    if present != schema.HEAD:
        wrong.append(f"schema {present}, this keeper's is {schema.HEAD}")
    return wrong


def backup(database: Database, target: Path) -> int:
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


def vacuum(database: Database) -> None:
    """Gives back what deleted rows left. The caller holds the lock: it takes as long as writing all of it anew."""
    with database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        if database.sqlite:
            raw.execute("VACUUM")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            connection.rollback()
            raw.autocommit = True
            raw.execute("VACUUM (ANALYZE)")
            raw.autocommit = False
