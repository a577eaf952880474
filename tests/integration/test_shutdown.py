"""The daemon is told to stop: a real process on a real Anvil. A test of a promise quotes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot.chain import codec
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import environment
from tests.support.servers import free_port, serving, until

JSON = {"Content-Type": "application/json"}
OPEN = "SELECT 1 FROM actions WHERE kind = 'settle' AND state = 'open'"
PROMISED_S = 5
STARTED_S = 30  # on a machine with other work
SLACK_S = 3  # until a busy machine has noticed that a process ended


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with langdao(students=2, tutors=2) as one:
        yield one


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    snapshot = shared.node.snapshot()
    shared.node.rpc("evm_setIntervalMining", 1)
    yield shared
    shared.node.rpc("evm_setIntervalMining", 0)
    shared.node.back_to(snapshot)


class Line:
    """The way to the node. Calls whose method, or the data of whose `eth_call`, is in `hangs` are never answered."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.hangs: set[str] = set()
        self.hung: list[dict[str, Any]] = []
        self.app = Starlette(routes=[Route("/", self._forward, methods=["POST"])])

    async def _forward(self, request: Request) -> Response:
        body = await request.body()
        document = json.loads(body)
        calls = document if isinstance(document, list) else [document]
        data = {call["params"][0]["data"] for call in calls if call["method"] == "eth_call"}
        if self.hangs & ({call["method"] for call in calls} | data):
            self.hung += calls
            await asyncio.sleep(3600)
        async with aiohttp.ClientSession() as http, http.post(self._target, data=body, headers=JSON) as answer:
            return Response(await answer.read(), media_type="application/json")


@contextlib.asynccontextmanager
async def daemon(home: Path, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """`langdao-keeper run`, killed at the end if it hasn't ended."""
    with (home / "log").open("a") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bot.cli", "run"),
            env=environment(home, **settings),
            cwd=home,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def settings(world: World, home: Path, url: str) -> dict[str, Any]:
    return {
        "RPC_URL": url,
        "CONTRACT_ADDRESS": world.contract,
        "START_BLOCK": world.deploy_block,
        "DATABASE_URL": f"sqlite:///{home}/keeper.db",
        "HTTP_BIND": f"127.0.0.1:{free_port()}",
        "BACKEND_PRIVATE_KEY": OWNER_KEY,
    }


def said(home: Path, event: str) -> bool:
    return f'"event": "{event}"' in (home / "log").read_text()


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(home / "keeper.db", timeout=10)) as connection:
        return connection.execute(query).fetchall()


def ask_to_settle(home: Path, session_id: int) -> None:
    """What `langdao-keeper settle` leaves."""
    payload = json.dumps({"session_id": session_id, "by": "operator"})
    with contextlib.closing(sqlite3.connect(home / "keeper.db", timeout=10)) as connection, connection:
        connection.execute("INSERT INTO inbox (kind, payload, asked_ms) VALUES ('settle', ?, 0)", (payload,))


async def running(home: Path) -> None:
    await until(lambda: said(home, "http.listening"), STARTED_S)


async def stopped(process: asyncio.subprocess.Process) -> int:
    return await asyncio.wait_for(process.wait(), PROMISED_S + SLACK_S)


async def test_sigterm__nothing_under_way__exits_0(world: World, tmp_path: Path) -> None:
    """ "SIGTERM or SIGINT: no new work, everything is stored, exit within 5 s (code 0…"."""
    async with daemon(tmp_path, **settings(world, tmp_path, world.node.url)) as process:
        await running(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert await stopped(process) == 0
    assert said(tmp_path, "keeper.stopping")
    assert said(tmp_path, "keeper.stopped")
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]


async def test_sigterm__in_the_middle_of_a_settlement__is_stored_and_the_same_is_sent_by_the_next(
    world: World, tmp_path: Path
) -> None:
    """ "no new work, everything is stored", "and the next start resumes by reading"."""
    line = Line(world.node.url)
    line.hangs = {"eth_sendRawTransaction"}
    world.start(0, 0)
    session_id = world.counter()
    async with serving(line.app) as url:
        # Blocks go by while it is down; it mustn't look slow to the next.
        given = settings(world, tmp_path, url) | {"REPLACE_AFTER_BLOCKS": 1000}
        async with daemon(tmp_path, **given) as process:
            await running(tmp_path)
            ask_to_settle(tmp_path, session_id)
            await until(lambda: line.hung, 20)
            process.send_signal(signal.SIGTERM)
            assert await stopped(process) == 0
        [(stored, state)] = rows(tmp_path, "SELECT hash, state FROM txs")
        assert state == "stored"
        assert world.is_active(0)
        line.hangs.clear()
        async with daemon(tmp_path, **given) as process:
            await until(lambda: not world.is_active(0), STARTED_S)
            await until(lambda: rows(tmp_path, "SELECT 1 FROM settlements WHERE ended_by IS NOT NULL"), 20)
            process.send_signal(signal.SIGTERM)
            assert await stopped(process) == 0
    assert [tx_hash for (tx_hash,) in rows(tmp_path, "SELECT hash FROM txs")] == [stored]
    assert rows(tmp_path, "SELECT session_id, tx_hash FROM settlements") == [(session_id, stored)]


async def test_sigterm__many_ends_ordered__stops_without_working_them_off(world: World, tmp_path: Path) -> None:
    """ "no new work": what was signed ahead of the answer stays where it is stored, for the next start."""
    line = Line(world.node.url)
    world.start(0, 0)
    world.start(1, 1)
    async with serving(line.app) as url:
        async with daemon(tmp_path, **settings(world, tmp_path, url)) as process:
            await running(tmp_path)
            line.hangs = {"eth_call"}  # while it looks, before anything leaves
            for session_id in (1, 2):
                ask_to_settle(tmp_path, world.counter() - 2 + session_id)
            await until(lambda: len(rows(tmp_path, OPEN)) == 2 and line.hung, 20)
            process.send_signal(signal.SIGTERM)
            assert await stopped(process) == 0
    signed = rows(tmp_path, "SELECT hash, state FROM txs")
    assert {state for _, state in signed} <= {"stored"}
    assert [world.node.rpc("eth_getTransactionByHash", tx_hash) for tx_hash, _ in signed] == [None] * len(signed)
    assert world.is_active(0)
    assert world.is_active(1)
    assert len(rows(tmp_path, OPEN)) == 2


async def test_sigterm__before_the_head_is_reached__exits(world: World, tmp_path: Path) -> None:
    """ "exit within 5 s": also while the node gives nothing to begin with."""
    line = Line(world.node.url)
    line.hangs = {codec.OWNER}  # asked when there is ground to stand on
    async with serving(line.app) as url:
        async with daemon(tmp_path, **settings(world, tmp_path, url)) as process:
            await until(lambda: line.hung, STARTED_S)
            process.send_signal(signal.SIGTERM)
            assert await stopped(process) == 0
    assert said(tmp_path, "keeper.stopping")
    assert not said(tmp_path, "http.listening")


def locked(home: Path) -> sqlite3.Connection:
    """Somebody else holds the database: what the daemon writes has to wait."""
    connection = sqlite3.connect(home / "keeper.db", isolation_level=None, timeout=20)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def stuck(world: World, home: Path, process: asyncio.subprocess.Process) -> sqlite3.Connection:
    """A daemon that was told to stop and can't, because its writer waits."""
    await running(home)
    lock = locked(home)
    await asyncio.sleep(0.3)  # by then the writer waits: the inbox is read every quarter of a second
    process.send_signal(signal.SIGTERM)
    await until(lambda: said(home, "keeper.stopping"), 20)
    return lock


async def test_second_sigterm__ends_it_at_once(world: World, tmp_path: Path) -> None:
    """ "a second one ends it at once (130)"."""
    async with daemon(tmp_path, **settings(world, tmp_path, world.node.url)) as process:
        with contextlib.closing(await stuck(world, tmp_path, process)):
            assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await stopped(process) == 130
    assert said(tmp_path, "keeper.forced")


async def test_sigterm__database_held_by_another__exits_nevertheless(world: World, tmp_path: Path) -> None:
    """ "exit within 5 s (code 0, or 1 when something hung and was left behind)"."""
    async with daemon(tmp_path, **settings(world, tmp_path, world.node.url)) as process:
        with contextlib.closing(await stuck(world, tmp_path, process)):
            assert await stopped(process) in (0, 1)
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
