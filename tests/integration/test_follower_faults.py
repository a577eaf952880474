"""A misbehaving proxy in front of a node: whatever it does for a while, in the end the index equals a fresh one.

Quotes: "It survives nodes that fail, refuse ranges or contradict themselves: it waits and asks again, with less if need
be."
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bot.chain.follower import follower as module
from tests.support.anvil import World, langdao
from tests.support.index import Index, assert_equals_a_fresh_index, index
from tests.support.node_double import STUDENTS, TUTORS, NodeDouble
from tests.support.proxy import DROP, Proxy, each_call

Fault = Callable[[Any], Any]


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


def dropped(_: Any) -> Any:
    return DROP


def server_error(_: Any) -> Any:
    return web.Response(status=500)


async def cut_off(body: Any) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Length": "1000"})
    reply.force_close()
    return reply


def half(_: Any) -> Any:
    return web.Response(body=b'{"jsonrpc":"2.0","id":', content_type="application/json")


def garbage(_: Any) -> Any:
    return web.Response(body=bytes(range(256)), content_type="application/json")


def html(_: Any) -> Any:
    return web.Response(text="<html>Bad gateway</html>", status=502)


def rate_limit(_: Any) -> Any:
    return web.Response(status=429, headers={"Retry-After": "0.1"})


def unavailable(_: Any) -> Any:
    return web.Response(status=503)


def limit_exceeded(body: Any) -> Any:
    said = {"code": -32005, "message": "limit exceeded"}
    if isinstance(body, list):
        return [{"jsonrpc": "2.0", "id": one["id"], "error": said} for one in body]
    return {"jsonrpc": "2.0", "id": body["id"], "error": said}


async def very_slow(_: Any) -> None:
    await asyncio.sleep(1.0)  # longer than the endpoint waits, see below


FAULTS: dict[str, Fault] = {
    "dropped": dropped,
    "cut-off": cut_off,
    "500": server_error,
    "half": half,
    "garbage": garbage,
    "html-502": html,
    "429": rate_limit,
    "503": unavailable,
    "-32005": limit_exceeded,
    "very-slow": very_slow,
}


async def in_the_end(one: Index, world: Any, path: Path) -> None:
    """The index reaches the head, and is what a fresh one is."""
    async with asyncio.timeout(25):
        while one.follower.head is None or one.follower.head.hash != world.node.header()["hash"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await assert_equals_a_fresh_index(one, world, path)


async def lived_through(one: Index, world: World, steps: int = 6) -> None:
    """Lessons and reorgs while something is wrong."""
    for step in range(steps):
        world.start(step % 3, step % 3)
        world.node.mine(2)
        if step % 2:
            world.end(step % 3)
            world.node.rpc("anvil_reorg", step, [])
        else:
            world.end(step % 3)
        await asyncio.sleep(0.15)


@pytest.mark.parametrize("name", FAULTS)
async def test_follow__faults_for_a_while__is_right_in_the_end(world: World, tmp_path: Path, name: str) -> None:
    dice = random.Random(name)
    async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        one.rpc._endpoints[0].timeout_s = 0.5
        task = asyncio.create_task(one.follower.run())
        faults = 0

        def before(body: Any) -> Any:
            nonlocal faults
            if dice.random() < 0.6:
                return None
            faults += 1
            return FAULTS[name](body)

        proxy.before = before
        await lived_through(one, world)
        proxy.before = lambda body: None
        await in_the_end(one, world, tmp_path / "fresh.db")
        assert faults
        assert not task.done()
        assert not one.follower.violated
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_follow__wrong_ids__is_right_in_the_end(world: World, tmp_path: Path) -> None:
    dice = random.Random(4)

    def after(body: Any, reply: Any) -> Any:
        if dice.random() < 0.6:
            return reply
        if isinstance(reply, list):
            return [one | {"id": one["id"] + 1} for one in reply]
        return reply | {"id": 10_000_000}

    async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        task = asyncio.create_task(one.follower.run())
        proxy.after = after
        await lived_through(one, world)
        proxy.after = lambda body, reply: reply
        await in_the_end(one, world, tmp_path / "fresh.db")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_follow__stale_heads_now_and_then__retracts_nothing(world: World, tmp_path: Path) -> None:
    """A load balancer's other node is behind: its heads are no reorg."""
    dice, old = random.Random(5), world.node.header()

    def after(call: Any, reply: Any) -> Any:
        return reply | {"result": old} if call["params"][0] == "latest" and dice.random() < 0.5 else reply

    async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        task = asyncio.create_task(one.follower.run())
        await asyncio.wait_for(one.follower.at_head.wait(), 5)
        proxy.after = each_call("eth_getBlockByNumber", after)
        for tutor in range(3):
            world.start(tutor, tutor)
            await asyncio.sleep(0.2)
        proxy.after = lambda body, reply: reply
        await in_the_end(one, world, tmp_path / "fresh.db")
        assert not any(change.retracted for change in one.changes)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_follow__logs_missing_now_and_then__are_found_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECOND_LOOK_EVERY", 2)
    dice = random.Random(6)
    left_out = 0

    def after(call: Any, reply: Any) -> Any:
        nonlocal left_out
        if not reply.get("result") or dice.random() < 0.5:
            return reply
        left_out += 1
        return reply | {"result": []}

    async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        task = asyncio.create_task(one.follower.run())
        await asyncio.wait_for(one.follower.at_head.wait(), 5)
        proxy.after = each_call("eth_getLogs", after)
        await lived_through(one, world)
        proxy.after = lambda body, reply: reply
        for _ in range(6):
            world.node.mine()
            await asyncio.sleep(0.15)
        await in_the_end(one, world, tmp_path / "fresh.db")
        assert left_out
        assert ("alert.logs-differ") in {name for name, _ in one.alerts}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_follow__answers_from_another_fork_now_and_then__is_right_in_the_end(tmp_path: Path) -> None:
    """One address, two nodes behind it that disagree about the newest blocks: no step mixes the two."""
    dice = random.Random(7)
    async with NodeDouble() as node, NodeDouble() as forked, Proxy(node.url) as proxy:
        for _ in range(5):
            node.mine()
        node.finalized = 2
        forked.known, forked.head, forked.finalized = node.known, node.head, 2
        for number in range(3):
            node.start(STUDENTS[number], TUTORS[number])
            forked.start(STUDENTS[2 - number], TUTORS[number])

        def before(body: Any) -> Any:
            proxy.node_url = forked.url if dice.random() < 0.4 else node.url

        proxy.before = before
        async with index(node, tmp_path / "a.db", rpc_url=proxy.url) as one:  # type: ignore[arg-type]
            task = asyncio.create_task(one.follower.run())
            for step in range(10):
                node.end(TUTORS[step % 3]) if step % 2 else node.start(STUDENTS[step % 4], TUTORS[step % 3])
                forked.mine()
                await asyncio.sleep(0.1)
            proxy.before = lambda body: None
            proxy.node_url = node.url
            await in_the_end(one, node, tmp_path / "fresh.db")
            assert not one.follower.violated
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
