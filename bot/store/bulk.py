"""Rows past the ORM: many at a time, and the few that a settlement waits for.

Promises: they go through the driver; that costs a tenth of what objects do. The SQL is SQLite's, with `?` for
values, and runs on PostgreSQL too. Each function is part of its caller's transaction.
`rows` also takes a list of texts or of whole numbers, however long, as one value: `column IN (?...)`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection

Driver = Connection | sqlite3.Connection  # SQLAlchemy's way to the driver, or the driver

# Values of one statement, of the 32,766 that SQLite takes. Larger ones take more memory, and no less time.
_VALUES_A_STATEMENT = 1_100
_IN_MAX = 500  # values of one IN (...)


def insert(connection: Connection, into: str, row: str, values: list[Any]) -> None:
    """Adds rows that aren't there yet; `into` ends with `VALUES `, `row` is one of them, as `(?, ?)`.

    `values` are those of all rows, one after the other: a tuple for each row would cost more than storing it.
    """
    width = row.count("?")
    if connection.dialect.name != "sqlite":
        many(connection, _statement(into, row, 1), list(zip(*[iter(values)] * width, strict=True)))
        return
    # A row that can't be stored fails the transaction. Else SQLite keeps a journal to take back its statement alone.
    into = into.replace("INSERT", "INSERT OR FAIL", 1)
    # Few sizes, so that the driver's cache of prepared statements stays small.
    done, rows = 0, _VALUES_A_STATEMENT // width
    while done < len(values):
        while done + rows * width > len(values):
            rows //= 2
        connection.exec_driver_sql(_statement(into, row, rows), tuple(values[done : done + rows * width]))
        done += rows * width


@lru_cache(maxsize=64)
def _statement(into: str, row: str, rows: int) -> str:
    return f"{into}{', '.join([row] * rows)} ON CONFLICT DO NOTHING"


def many(connection: Driver, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Runs `sql` for each of the rows."""
    rows = rows if isinstance(rows, list) else list(rows)
    if not rows:
        return
    if isinstance(connection, sqlite3.Connection):
        connection.executemany(sql, rows)
    else:
        connection.exec_driver_sql(_dialect(connection, sql), rows)


def run(connection: Connection, sql: str, values: tuple[Any, ...] = ()) -> int:
    """Runs `sql` once; how many rows it changed."""
    return connection.exec_driver_sql(_dialect(connection, sql), values).rowcount


def scalar(connection: Driver, sql: str, values: tuple[Any, ...] = ()) -> Any:
    """The first value of the first row that `sql` gives; None where it gives none."""
    if isinstance(connection, sqlite3.Connection):
        row = connection.execute(sql, values).fetchone()
        return None if row is None else row[0]
    return connection.exec_driver_sql(_dialect(connection, sql), values).scalar()


def rows(connection: Driver, sql: str, values: tuple[Any, ...] = ()) -> Sequence[Any]:
    """What `sql` gives, JSON as the driver gives it. Where one of the values is an empty list, nothing."""
    lists = [value for value in values if isinstance(value, list)]
    if not all(lists):
        return ()
    for one in lists:  # one value instead of hundreds: neither the statement nor its plan depends on how many there are
        sql = sql.replace("?...", _among(connection, isinstance(one[0], int)), 1)
    given = (json.dumps(value) if isinstance(value, list) else value for value in values)
    if isinstance(connection, sqlite3.Connection):
        return connection.execute(sql, tuple(given)).fetchall()
    return connection.exec_driver_sql(_dialect(connection, sql), tuple(given)).cursor.fetchall()


def _among(connection: Driver, whole_numbers: bool) -> str:
    if isinstance(connection, sqlite3.Connection) or connection.dialect.name == "sqlite":
        return "SELECT value FROM json_each(?)"
    one = "jsonb_array_elements_text(CAST(? AS jsonb))"
    return f"SELECT CAST({one} AS bigint)" if whole_numbers else f"SELECT {one}"


def _dialect(connection: Connection, sql: str) -> str:
    return sql if connection.dialect.name == "sqlite" else sql.replace("?", "%s")


def parts(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Parts that fit into one IN (...)."""
    return (values[start : start + _IN_MAX] for start in range(0, len(values), _IN_MAX))
