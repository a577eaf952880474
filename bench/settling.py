"""What the benchmarks of settlements have in common: a daemon's record, the world that it runs in, and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.listening import Listening
from scripts.world.chain import LangDAO, Node
from scripts.world.processes import Failed

BLOCK_S = 2
BLOCK_GAS = 30_000_000
BURST_LIMIT_S = 240.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Record:
    """The keeper's SQLite file: requests in, times out."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def ask(self, sessions: list[int]) -> None:
        """What `langdao-keeper settle` leaves, for all of them in one transaction."""
        now_ms = round(time.time() * 1000)
        rows = [("settle", json.dumps({"session_id": one, "by": "operator"}), now_ms) for one in sessions]
        with contextlib.closing(sqlite3.connect(self._file, timeout=30)) as connection, connection:
            connection.executemany("INSERT INTO inbox (kind, payload, asked_ms) VALUES (?, ?, ?)", rows)

    def decided_s(self, session_id: int) -> float | None:
        rows = self._rows(
            "SELECT created_ms FROM actions WHERE kind = 'settle' AND session_key LIKE ?", (f"{session_id}:%",)
        )
        # Stored in whole milliseconds, the rest cut off: half of one on average.
        return (rows[0][0] + 0.5) / 1000 if rows else None

    def settled(self, sessions: list[int]) -> int:
        low, high = min(sessions), max(sessions)
        query = "SELECT count(*) FROM settlements WHERE ended_by IS NOT NULL AND session_id BETWEEN ? AND ?"
        return int(self._rows(query, (low, high))[0][0])

    def active(self) -> int:
        return int(self._rows("SELECT count(*) FROM sessions WHERE end_block IS NULL AND rate IS NOT NULL", ())[0][0])

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self._file, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()


async def until(what: str, look: Any, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failed(f"not within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.02)
    return found


@dataclass(slots=True)
class World:
    node: Node
    dao: LangDAO
    owner: Any
    proxy: Listening
    record: Record
    folder: Path
