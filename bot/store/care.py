"""Looking after the database: is it whole, and the disk that it doesn't need any more.

Promises: nothing here changes a row.
"""

from __future__ import annotations

from sqlalchemy import inspect, text

from bot.store import schema
from bot.store.db import Database

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
