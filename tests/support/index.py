"""An index of a test's own: database, follower, and what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bot.chain.follower import Change, Follower
from bot.chain.rpc import Rpc
from bot.chain.start import identify
from bot.domain.facts import SessionKey
from bot.domain.identity import Identity
from bot.store.db import Database, Writer
from bot.store.schema import upgrade
from tests.support.anvil import World

CHAIN_TABLES = ("logs", "sessions", "settlements")


class Index:
    """A follower with its own database and connection; `changes` is what it told."""

    def __init__(self, rpc: Rpc, database: Database) -> None:
        self.rpc = rpc
        self.database = database
        self.writer = Writer(database)
        self.changes: list[Change] = []
        self.alerts: list[tuple[str, str]] = []
        self.violations: list[bool] = []
        self.follower: Follower
        self.identity: Identity

    async def take(self, change: Change) -> None:
        self.changes.append(change)

    async def alert(self, name: str, text: str) -> None:
        self.alerts.append((name, text))

    async def violation(self, violated: bool) -> None:
        self.violations.append(violated)

    def rows(self, table: str, order: str = "1, 2") -> list[dict[str, Any]]:
        with self.database.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}")).mappings()]

    def chain(self) -> dict[str, list[dict[str, Any]]]:
        """All that the index says of the chain."""
        return {table: self.rows(table) for table in CHAIN_TABLES}

    async def pass_once(self) -> Change | None:
        """One pass; the last change that it told."""
        before = len(self.changes)
        await self.follower.catch_up()
        return self.changes[-1] if len(self.changes) > before else None

    async def close(self) -> None:
        self.writer.close()
        self.database.dispose()
        await self.rpc.close()


@asynccontextmanager
async def index(
    world: World, url: str | Path, *, rpc_url: str | Sequence[str] = "", **options: Any
) -> AsyncIterator[Index]:
    """An index over `world` in the database at `url`, or in the SQLite file at that path; nothing is followed yet."""
    database = Database(f"sqlite:///{url}" if isinstance(url, Path) else url)
    upgrade(database)
    one = Index(Rpc([rpc_url or world.node.url] if isinstance(rpc_url, str) else rpc_url), database)
    identity = one.identity = await identify(one.rpc, world.contract, world.deploy_block)
    told = {"on_change": one.take, "on_alert": one.alert, "on_violation": one.violation}
    options = {"poll_interval_s": 0.05, "confirmations": 2} | told | options
    one.follower = Follower(one.rpc, one.writer, identity, **options)
    try:
        yield one
    finally:
        await one.close()


async def assert_equals_a_fresh_index(one: Index, world: World, path: Path) -> None:
    """The promise itself: row by row what an index begun now would say."""
    async with index(world, path) as fresh:
        await fresh.follower.catch_up()
        assert one.follower.head is not None
        assert one.follower.head.hash == fresh.follower.head.hash == world.node.header()["hash"]
        ours, theirs = one.chain(), fresh.chain()
    for table in CHAIN_TABLES:
        assert ours[table] == theirs[table], table


def key(world: World, number: int, student: int = 0, tutor: int = 0) -> SessionKey:
    """The session of this number between these two."""
    return SessionKey(number, world.students[student], world.tutors[tutor])
