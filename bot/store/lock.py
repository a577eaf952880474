"""One `run` per database.

Promises: while a `Lock` is held, a second one on the same database raises Misconfigured naming the holder's pid;
it is gone with the process, however that ends, and `ensure` says when it is gone before, or the database itself:
nothing is written into a file that was removed or replaced at its place, where no restart would find it.
SQLite: a lock file beside the database; PostgreSQL: an advisory lock.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bot.errors import Misconfigured
from bot.store.db import Database

# Any number will do, as long as it is always the same: advisory locks are per PostgreSQL database.
_ADVISORY = 0x4C414E47

# `holder` takes the lock for an instant to see whether it is free; a `run` that starts just then must not give up.
PATIENCE_S = 0.5


class Closed(Misconfigured):
    """The lock's file can't be opened: another user's, as a rule. Whether somebody holds it can't be told."""


class Lock:
    """The right to be the one writer of a database. Take it with `Lock(database)`, give it back with `release`."""

    def __init__(self, database: Database, *, patience_s: float = PATIENCE_S) -> None:
        """Raises Misconfigured when another process holds it for longer than `patience_s`, Closed at once."""
        self._file: Any = None
        self._connection: Any = None
        self._database = database
        self._own = None if database.path is None else _identity(database.path)
        self._name = f"langdao-keeper {secrets.token_hex(4)} pid {os.getpid()}"  # of our session on the server
        take = self._take_file if database.sqlite else self._take_advisory
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return take(database)
            except Closed:
                raise
            except Misconfigured:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.05)

    def _take_file(self, database: Database) -> None:
        if database.path is None:
            return
        try:
            self._file = _beside(database.path).open("a+")
        except OSError as error:
            raise Closed(
                f"DATABASE_URL: {_beside(database.path)} can't be opened ({error.strerror}). Is it another user's? "
                "Start the keeper as that one, or give it to this one"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise Misconfigured(
                f"Another keeper (pid {pid}) already runs on {database.path}. Stop it, or set another DATABASE_URL"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _take_advisory(self, database: Database) -> None:
        connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # Out of the pool: the lock lives as long as this connection, and a pooled one is never really closed.
        connection.detach()
        connection.execute(text(f"SET application_name = '{self._name}'"))
        if connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": _ADVISORY}).scalar():
            self._connection = connection
            return
        holder = connection.execute(
            text(
                "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE l.locktype = 'advisory' AND l.objid = :n AND l.granted "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1"
            ),
            {"n": _ADVISORY},
        ).scalar()
        connection.close()
        pid = (holder or "").rpartition(" ")[2] or "unknown"
        raise Misconfigured(
            f"Another keeper (pid {pid}) already runs on this PostgreSQL database. Stop it, or set another DATABASE_URL"
        )

    def ensure(self) -> None:
        """After trouble, or before what matters: still ours? If its connection was lost, it is taken again.

        A server that was started anew has forgotten it. One that hasn't noticed that the connection is gone still has
        our session, which is ended. Raises Misconfigured when another took the lock meanwhile, or what the database
        raises while it is away. A file's lock goes with this process alone, unless the file is removed.
        """
        if self._database.sqlite:
            return self._ensure_files()
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
                return
            except DBAPIError:
                self._connection.invalidate()
                self._connection = None
        with self._database.engine.connect() as connection:
            ended = text("SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name = :name")
            connection.execute(ended, {"name": self._name})
        self._take_advisory(self._database)

    def _ensure_files(self) -> None:
        path = self._database.path
        if path is None or self._file is None:
            return
        if _identity(path) != self._own:
            raise Misconfigured(
                f"DATABASE_URL: {path} was removed or replaced while the keeper ran. Put it back, or a copy of it "
                "(docs/backup.md), and start again"
            )
        if _identity(_beside(path)) != _identity(self._file.fileno()):
            self._file.close()  # somebody took it for a stale one: another `run` could have begun
            self._take_file(self._database)

    def release(self) -> None:
        """Gives the lock back. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _beside(path: Path) -> Path:
    return Path(f"{path}.lock")


def _identity(file: Path | int) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None when there is none."""
    try:
        found = file.stat() if isinstance(file, Path) else os.fstat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def holder(database: Database) -> int | None:
    """The pid of the `run` that holds the database, None when there is none. Raises Closed when it can't be told."""
    try:
        lock = Lock(database, patience_s=0)
    except Closed:
        raise
    except Misconfigured as error:
        digits = str(error).partition("pid ")[2].partition(")")[0]
        return int(digits) if digits.isdigit() else 0
    lock.release()
    return None
