"""Which of a database's errors pass: a full or read-only disk, another's lock, a server that is away.

Promises: anything else (a mistake in a statement, a broken file) is not taken for one of these.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

_SQLITE = {
    sqlite3.SQLITE_BUSY: "another program holds its lock",
    sqlite3.SQLITE_LOCKED: "another program holds its lock",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_READONLY: "it can't be written",
    sqlite3.SQLITE_CANTOPEN: "its file can't be opened",
}
# Classes of PostgreSQL's SQLSTATE: connection, resources, operator, and one state: read-only.
_POSTGRES = {"08": "the server can't be reached", "53": "the server lacks resources", "57": "the server was stopped"}
_READ_ONLY = "25006"


def passing(error: DBAPIError) -> str | None:
    """Why this passes, in words; None if it doesn't."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return None if code is None else _SQLITE.get(code & 0xFF)
    if error.connection_invalidated:
        return _POSTGRES["08"]
    state = getattr(cause, "sqlstate", None)
    if state is None:
        # psycopg knows no state when there was no server to give one.
        return _POSTGRES["08"] if type(cause).__name__ in ("OperationalError", "InterfaceError") else None
    return "it can't be written" if state == _READ_ONLY else _POSTGRES.get(str(state)[:2])
