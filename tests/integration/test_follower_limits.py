"""A node that limits ranges, leaves fields out or answers wrongly: the follower before a proxy that does so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bot.chain.follower import follower as module
from tests.support.anvil import World, langdao
from tests.support.index import assert_equals_a_fresh_index, index
from tests.support.proxy import Proxy
from tests.support.servers import until


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


@pytest.fixture
async def proxy(world: World) -> AsyncIterator[Proxy]:
    async with Proxy(world.node.url) as one:
        yield one


def error(body: Any, code: int, message: str) -> Any:
    return {"jsonrpc": "2.0", "id": body["id"], "error": {"code": code, "message": message}}


def is_range(body: Any) -> bool:
    return isinstance(body, dict) and body["method"] == "eth_getLogs" and "fromBlock" in body["params"][0]


async def test_backfill__node_limits_the_range__asks_for_less_and_gets_all(
    world: World, proxy: Proxy, tmp_path: Path
) -> None:
    """Quotes: "It survives nodes that ... refuse ranges"."""
    for _ in range(8):
        world.start()
        world.node.mine(60)
        world.end()
    asked: list[int] = []

    def before(body: Any) -> Any:
        if not is_range(body):
            return None
        where = body["params"][0]
        asked.append(int(where["toBlock"], 16) - int(where["fromBlock"], 16) + 1)
        return error(body, -32005, "query returned more than 10000 results") if asked[-1] > 50 else None

    proxy.before = before
    async with index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")
    assert max(asked) > 50
    assert sum(size > 50 for size in asked) <= 8


async def test_backfill__node_leaves_out_block_times__reads_them_from_headers(
    world: World, proxy: Proxy, tmp_path: Path
) -> None:
    world.start()
    world.node.mine(100)

    def after(body: Any, reply: Any) -> Any:
        for one in reply if isinstance(reply, list) else [reply]:
            for log in one["result"] if isinstance(one.get("result"), list) else []:
                log.pop("blockTimestamp", None)
        return reply

    proxy.after = after
    async with index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_finality__node_without_the_tag__goes_by_depth(world: World, proxy: Proxy, tmp_path: Path) -> None:
    world.start()
    world.end()

    def refuse(call: Any, reply: Any) -> Any:
        return error(call, -32602, "invalid block tag") if "finalized" in call["params"] else reply

    def after(body: Any, reply: Any) -> Any:
        if isinstance(body, list):
            return [refuse(*one) for one in zip(body, reply, strict=True)]
        return refuse(body, reply)

    proxy.after = after
    async with index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        assert one.rows("settlements")[0]["finality"] == "seen"
        world.node.mine(64)
        await one.follower.catch_up()
        assert one.rows("settlements")[0]["finality"] == "final"


async def test_run__node_in_trouble__never_ends_and_catches_up(world: World, proxy: Proxy, tmp_path: Path) -> None:
    """Quotes: "It survives nodes that fail ... or contradict themselves: it waits and asks again"."""
    dice = random.Random(2)

    def before(body: Any) -> Any:
        roll = dice.random()
        if roll < 0.2:
            return web.Response(status=500)
        if roll < 0.3:
            return web.Response(text="{}")
        if roll < 0.4 and isinstance(body, dict):
            return error(body, -32603, "internal error")
        return None

    async with index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        proxy.before = before
        task = asyncio.create_task(one.follower.run())
        for _ in range(5):
            world.start()
            await asyncio.sleep(0.2)
            world.end()
        await asyncio.sleep(1)
        proxy.before = lambda body: None
        await until(lambda: len(one.rows("settlements")) == 5 and one.follower.at_head.is_set())
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_catch_up__logs_of_another_block__are_refused(world: World, proxy: Proxy, tmp_path: Path) -> None:

    def after(body: Any, reply: Any) -> Any:
        for one in reply if isinstance(reply, list) else []:
            for log in one["result"] if isinstance(one.get("result"), list) else []:
                log["blockHash"] = "0x" + "99" * 32
        return reply

    async with index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        proxy.after = after
        with pytest.raises(module.TryAgain):
            await one.follower.catch_up()
        assert one.chain()["logs"] == []
