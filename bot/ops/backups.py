"""Copies of the database, made by the daemon while it works.

Promises: how old the newest copy is decides when the next is due, not how long the daemon has run, so that restarts
neither skip nor repeat one. Only files of its own making are ever deleted, and the newest `keep` stay.
Doesn't promise a copy on another machine: fetch them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from bot.errors import Misconfigured
from bot.store.backup import take_backup
from bot.store.db import Database

log = structlog.get_logger("backups")

LOOK_EVERY_S = 60.0
AGAIN_S = 900.0  # after one that failed
_STAMP = "%Y%m%dT%H%M%SZ"


class Backups:
    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        every_s: float,
        keep: int,
        failed: Callable[[str], Awaitable[None]],
    ) -> None:
        assert database.path is not None
        self._database = database
        self._folder = folder
        self._every_s = every_s
        self._keep = keep
        self._failed = failed
        self._name = database.path.name
        self._mine = re.compile(re.escape(self._name) + r"\.\d{8}T\d{6}Z")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = LOOK_EVERY_S
            if await asyncio.to_thread(self._due):
                try:
                    await asyncio.to_thread(self.make)
                except Misconfigured as error:
                    await self._failed(str(error))
                    pause_s = AGAIN_S
            await asyncio.sleep(pause_s)

    def make(self) -> Path:
        """Makes one now, and deletes what is beyond `keep`. Raises Misconfigured. Blocks."""
        target = self._folder / f"{self._name}.{datetime.now(UTC).strftime(_STAMP)}"
        began_s = time.monotonic()
        size = take_backup(self._database, target)
        log.info("backup.made", file=str(target), bytes=size, took_s=round(time.monotonic() - began_s, 2))
        for old in self.made()[self._keep :]:
            old.unlink(missing_ok=True)
        return target

    def made(self) -> list[Path]:
        """The copies that are there, the newest first."""
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if self._mine.fullmatch(path.name)), reverse=True)

    def _due(self) -> bool:
        newest = next(iter(self.made()), None)
        return newest is None or time.time() - newest.stat().st_mtime >= self._every_s
