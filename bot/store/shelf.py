"""A small file of named texts that survive their program: the bundled backend's memory, where it has no Redis.

Promises: what `write` returned from is there after a crash of the program; one `write` is all or nothing; a file
belongs to one process at a time. What has expired isn't read. Others can read neither the file nor what SQLite keeps
beside it. Doesn't promise to survive the machine's power cut.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from bot.errors import Misconfigured, TryAgain

T = TypeVar("T")
Entry = tuple[str, str, str | None, int]  # kind, name, text (None: gone), until when (epoch ms)

_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
    kind TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""
_PUT = """
INSERT INTO entries VALUES (?, ?, ?, ?)
ON CONFLICT (kind, name) DO UPDATE SET text = excluded.text, until_ms = excluded.until_ms
"""


class FileShelf:
    """`setting` is what the path came from."""

    where = "file"

    def __init__(self, path: Path, setting: str) -> None:
        self._path = path
        self._setting = setting
        self._file: sqlite3.Connection | None = None

    def open(self) -> None:
        """Raises Misconfigured when the file can't be used, or another process has it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)  # before SQLite does: the log beside it takes the rights of this
            self._file = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False, isolation_level=None)
            # Held from here on: two programs on one file would overwrite each other's rooms.
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode = WAL")
            # A commit survives the program's death without waiting for the disk.
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(_TABLE)
            self._file.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise Misconfigured(f"{self._setting} {self._path}: {error}. Name a file of its own") from None

    async def read(self, now_ms: int) -> list[tuple[str, str, str]]:
        """(kind, name, text) of all that hasn't expired; what has is removed."""

        def work(file: sqlite3.Connection) -> list[tuple[str, str, str]]:
            file.execute("DELETE FROM entries WHERE until_ms <= ?", (now_ms,))
            return file.execute("SELECT kind, name, text FROM entries").fetchall()

        return await self._in_thread(work)

    async def write(self, entries: Iterable[Entry], now_ms: int) -> None:
        """All of these or none. Raises TryAgain."""
        entries = list(entries)

        def work(file: sqlite3.Connection) -> None:
            file.execute("BEGIN IMMEDIATE")
            try:
                file.executemany(_PUT, [entry for entry in entries if entry[2] is not None])
                gone = [entry[:2] for entry in entries if entry[2] is None]
                file.executemany("DELETE FROM entries WHERE kind = ? AND name = ?", gone)
                file.execute("COMMIT")
            except BaseException:
                file.execute("ROLLBACK")
                raise

        await self._in_thread(work)

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._file is not None, "not open"
        try:
            return await asyncio.to_thread(work, self._file)
        except sqlite3.Error as error:
            raise TryAgain(f"{self._path}: {error}") from None
