"""What the keeper wrote down, read from its SQLite file as any other program may.

Written without the keeper's own code: what judges the keeper mustn't share its mistakes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A transaction in one of these is not accounted for.
OPEN_STATES = ("stored", "sent")
# What a keeper that is alone with its key has no reason to say.
SUSPICIOUS = ("alert.wrong-session", "alert.foreign-nonce", "alert.former-key", "alert.delegation")


@dataclass(frozen=True, slots=True)
class Tx:
    hash: str
    nonce: int
    kind: str
    sessions: set[int]
    state: str
    mined: bool


class Record:
    def __init__(self, file: Path) -> None:
        self._file = file

    def txs(self) -> list[Tx]:
        items: dict[str, set[int]] = {}
        for row in self._rows("SELECT tx_hash, session_key FROM tx_items"):
            items.setdefault(row["tx_hash"], set()).add(_id(row["session_key"]))
        rows = self._rows("SELECT hash, nonce, kind, state, mined_block FROM txs ORDER BY nonce, stored_ms")
        return [
            Tx(
                hash=row["hash"],
                nonce=row["nonce"],
                kind=row["kind"],
                sessions=items.get(row["hash"], set()),
                state=row["state"],
                mined=bool(row["mined_block"]),
            )
            for row in rows
        ]

    def decided(self) -> set[int]:
        """Sessions that the keeper decided to end."""
        return {_id(row["session_key"]) for row in self._rows("SELECT session_key FROM actions WHERE kind = 'settle'")}

    def open_settlements(self) -> set[int]:
        query = "SELECT session_key FROM actions WHERE kind = 'settle' AND state = 'open'"
        return {_id(row["session_key"]) for row in self._rows(query)}

    def settlements(self) -> dict[int, dict[str, Any]]:
        query = "SELECT session_id, tx_hash, ended_by, by_keeper, reason FROM settlements"
        return {row["session_id"]: dict(row) for row in self._rows(query)}

    def suspicions(self) -> list[str]:
        marks = ",".join("?" * len(SUSPICIOUS))
        return [
            row["text"]
            for row in self._rows(f"SELECT text FROM alerts WHERE name IN ({marks})", SUSPICIOUS)  # noqa: S608
        ]

    def calm(self, sessions: set[int]) -> bool:
        """Whether nothing is under way, and all that is to be known of these ends is known."""
        known = self.settlements()
        return (
            all(one in known and known[one]["ended_by"] is not None for one in sessions)
            and not self.open_settlements()
            and not any(tx.state in OPEN_STATES for tx in self.txs())
        )

    def _rows(self, query: str, values: tuple[str, ...] = ()) -> list[sqlite3.Row]:
        with self._open() as connection:
            return connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._file, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            yield connection
        finally:
            connection.close()


def _id(session_key: str) -> int:
    """The chain's id of a session: its key begins with it."""
    return int(session_key.partition(":")[0])
