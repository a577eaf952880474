"""One database, one writer.

Promises: `Writer` runs one transaction at a time, each in full or not at all, in a thread of its own, so that the
event loop never waits for a disk. A transaction asked for as `durable` has reached the disk when the call returns.
A full or read-only disk, a lock or a server that is away are waited out: while nothing can be written nothing goes on.
A change takes effect once, also when the connection is lost in its commit. A durable one is written only while the
database is still ours; in SQLite every one.
SQLite (default, WAL) and PostgreSQL are the same code by URL, but for how `Writer.rows` reaches SQLite's driver.
Doesn't promise that two processes may write: `bot.store.lock` sees to that for `run`; other commands leave a row
in the inbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import structlog
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlmodel import Session

from bot.errors import Misconfigured
from bot.store import bulk, doubt
from bot.store.pragmas import PRAGMAS
from bot.store.trouble import passing

T = TypeVar("T")

log = structlog.get_logger("store")

CONNECT_S = 5  # a server that takes the connection and says nothing; without it one is waited for, for ever

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0


class Database:
    """An open database: sessions for reading and for writing, on SQLite or PostgreSQL."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Raises Misconfigured when the URL is unusable, or, with `must_exist`, when there is no file yet."""
        try:
            parsed = make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
        except ArgumentError:
            raise Misconfigured(
                "DATABASE_URL is not a database URL, e.g. sqlite:////var/lib/keeper.db or postgresql://…"
            ) from None
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.path = Path(parsed.database) if self.sqlite and parsed.database else None
        if self.path is not None:
            self._check_file(self.path, must_exist)
        elif "connect_timeout" not in parsed.query:
            parsed = parsed.update_query_dict({"connect_timeout": str(CONNECT_S)})
        try:
            self.engine: Engine = create_engine(parsed, pool_pre_ping=not self.sqlite)
        except (NoSuchModuleError, ArgumentError, ImportError):
            raise Misconfigured(
                "DATABASE_URL names a database that isn't supported. Use sqlite:///… or postgresql://…"
            ) from None
        self._driver: sqlite3.Connection | None = None
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @staticmethod
    def _check_file(path: Path, must_exist: bool) -> None:
        if must_exist:
            if not path.exists():
                raise Misconfigured(
                    f"No database at {path.absolute()} yet: start `langdao-keeper run` first, or set DATABASE_URL"
                )
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Misconfigured(
                f"DATABASE_URL: {path.parent} can't be made ({error.strerror}). Choose another place"
            ) from None
        if not path.exists():
            with contextlib.suppress(OSError):  # what can't be made can't be written, and that is said below
                path.touch(mode=0o600)  # signed transactions and everybody's lessons are nobody else's business
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise Misconfigured(f"DATABASE_URL: {path} can't be written. Mend its rights or choose another place")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that changes nothing, on one consistent state of the database, whoever writes meanwhile."""
        # SQLite's readers see one state as they are; PostgreSQL's see each statement's own unless told.
        engine = self.engine if self.sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ")
        with Session(engine) as session:
            yield session

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on any exception."""
        with self.engine.connect() as connection:
            if self.sqlite:
                connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                    "PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL"
                )
            connection = connection.execution_options(keeper_write=True)
            with Session(connection) as session, session.begin():
                yield session

    @contextmanager
    def write_by_driver(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """The same past SQLAlchemy, which costs more than the commit itself. Only of a SQLite file.

        Copies nothing from the log into the file, up to 32 MB at a time: the next of `write` does, and nobody waits.
        """
        try:
            driver = self._open_driver()
            driver.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
            driver.execute("BEGIN IMMEDIATE")
            yield driver
            driver.execute("COMMIT")
        except BaseException as error:
            self._close_driver()  # and with it goes what it had begun
            if isinstance(error, sqlite3.Error):
                raise DBAPIError("a transaction of the driver's", None, error) from error
            raise

    def _open_driver(self) -> sqlite3.Connection:
        if self._driver is None:
            opened = self.engine.raw_connection()
            self._driver = cast(sqlite3.Connection, opened.driver_connection)
            opened.detach()
            self._driver.execute("PRAGMA wal_autocheckpoint=0")
        return self._driver

    def _close_driver(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def dispose(self) -> None:
        self._close_driver()
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see below
    for pragma in PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Any) -> None:
    # IMMEDIATE: a writer takes its lock at the start, not in the middle, where SQLite can't wait for it.
    write = connection.get_execution_options().get("keeper_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


class Writer:
    """The one place through which the daemon changes its state.

    `await writer(change)` runs `change(session)` as one transaction and returns what it returned. Calls are served
    in order, but a durable one goes before those that wait: what it stores is about to leave for the chain.
    An error leaves the database as it was; one that passes (`bot.store.trouble`) is waited out, and all that
    is behind it waits too, so that nothing is lost and nothing goes on unrecorded. `change` may therefore run more than
    once, and only the last run counts: it must change nothing but the session.
    """

    def __init__(self, database: Database, ensure: Callable[[], None] = lambda: None) -> None:
        """`ensure`: is the database still ours? Called when trouble is over, before what is durable, and, where that
        costs no request, before everything."""
        self._database = database
        self._ensure = ensure
        # In which it writes. Many rows are best made here too: what a processor has just made is near it.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._durable: deque[_Call] = deque()
        self._usual: deque[_Call] = deque()
        self._closing = threading.Event()
        self.trouble: str | None = None  # why nothing can be written now

    async def __call__(self, change: Callable[[Session], T], *, durable: bool = False) -> T:
        return await self._call(_Call(change, durable, Future()))

    async def rows(self, change: Callable[[bulk.Driver], T], *, durable: bool = False) -> T:
        """The same of what somebody waits for: `change` gets a connection, and works by `bot.store.bulk`."""
        return cast(T, await self._call(_Call(change, durable, Future(), rows=True)))

    async def _call(self, call: _Call) -> Any:
        (self._durable if call.durable else self._usual).append(call)
        try:
            self.thread.submit(self._next)
        except RuntimeError:  # closed
            call.done.cancel()
            raise
        return await asyncio.wrap_future(call.done)

    def _next(self) -> None:
        """As many of these were handed to the thread as there are calls; each takes the first that is due."""
        call = (self._durable or self._usual).popleft()
        if not call.done.set_running_or_notify_cancel():
            return
        try:
            found = self._run(call)
        except BaseException as error:
            call.done.set_exception(error)
        else:
            call.done.set_result(found)

    def _run(self, call: _Call) -> Any:
        pause_s = FIRST_PAUSE_S
        asked: tuple[str, Any] | None = None  # a transaction whose commit was asked for, and what came of the change
        while True:
            try:
                if self.trouble is not None or call.durable or self._database.sqlite:
                    self._ensure()
                if asked is not None and doubt.committed(self._database.engine, asked[0]):
                    done = asked[1]
                elif call.rows and self._database.path is not None:
                    with self._database.write_by_driver(durable=call.durable) as driver:
                        done = call.change(driver)
                else:
                    asked = None
                    with self._database.write(durable=call.durable) as session:
                        done = call.change(session.connection() if call.rows else session)
                        number = doubt.number_of(session)
                        asked = None if number is None else (number, done)
            except DBAPIError as error:
                why = passing(error)
                if why is None or self._closing.is_set():
                    raise
                if self.trouble != why:
                    log.error("store.trouble", why=why, text="nothing is written, so nothing is signed; tried again")
                self.trouble = why
                if self._closing.wait(pause_s):
                    raise
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                continue
            if self.trouble is not None:
                log.warning("store.trouble-over", was=self.trouble)
                self.trouble = None
            return done

    def close(self) -> None:
        """Waits for the transaction under way, and no longer for trouble to pass."""
        self._closing.set()
        self.thread.shutdown(wait=True)


class _Call(NamedTuple):
    change: Callable[[Any], Any]
    durable: bool
    done: Future[Any]
    rows: bool = False  # `change` gets a connection instead of a session


def reachable(database: Database) -> None:
    """Raises Misconfigured when the database can't be opened."""
    try:
        with database.engine.connect():
            pass
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        where = database.path or f"{database.engine.url.get_backend_name()} on {database.engine.url.host}"
        broken = "malformed" in reason
        remedy = ". Put a copy in its place: docs/backup.md" if broken else ""
        raise Misconfigured(f"DATABASE_URL: can't open {where} ({reason[:120]}){remedy}") from None
