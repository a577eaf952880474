"""Several nodes, incomplete answers, pushed heads: the follower before real nodes, and a proxy that twists words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.chain.follower import follower as module
from tests.support.anvil import World, langdao
from tests.support.index import Index, assert_equals_a_fresh_index, index
from tests.support.proxy import Proxy, each_call


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


@asynccontextmanager
async def before(world: World) -> AsyncIterator[Proxy]:
    async with Proxy(world.node.url) as proxy:
        yield proxy


async def left_out(proxy: Proxy, one: Index) -> None:
    """The next pass gets no logs, of blocks that the node knows."""
    proxy.after = each_call("eth_getLogs", lambda call, reply: reply | {"result": []})
    await one.follower.catch_up()
    proxy.after = lambda body, reply: reply


@pytest.mark.provokes("alert.logs-differ")
async def test_second_look__logs_were_left_out__are_taken_and_said(world: World, tmp_path: Path) -> None:
    """Quotes: "Logs that a node left out of a block it knew are found by a second look, and taken."."""
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        world.start(0, 0)
        world.end(0)
        await left_out(proxy, one)
        assert one.rows("sessions") == []
        world.start(1, 1)
        await one.follower.catch_up()
        await one.follower.second_look()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")
        assert [name for name, _ in one.alerts] == ["alert.logs-differ"]
        assert "2 more, 0 fewer" in one.alerts[0][1]
        told = [key.session_id for key in one.changes[-1].started]
        assert told == [1, 2]


async def test_second_look__nothing_was_left_out__costs_one_request_and_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    async with index(world, tmp_path / "a.db") as one:
        world.start()
        await one.follower.catch_up()
        told, requests, rows = len(one.changes), one.rpc.requests, one.chain()
        await one.follower.second_look()
        assert (len(one.changes), one.rpc.requests, one.chain()) == (told, requests + 1, rows)
        assert one.alerts == []


async def test_second_look__the_node_now_leaves_logs_out__keeps_them_and_says_so(world: World, tmp_path: Path) -> None:
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        world.start()
        await one.follower.catch_up()
        rows = one.chain()
        proxy.after = each_call("eth_getLogs", lambda call, reply: reply | {"result": []})
        await one.follower.second_look()
        assert one.chain() == rows
        await one.follower.second_look()
        assert len(one.alerts) == 1, "said again although nothing changed"
        assert "0 more, 10 fewer" in one.alerts[0][1]


async def test_second_look__another_node_has_more__differing_answers_are_an_alert(world: World, tmp_path: Path) -> None:
    """differing answers for the same block hash are an alert"""
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=(proxy.url, world.node.url)) as one:
        await one.follower.catch_up()
        world.start()
        proxy.after = each_call("eth_getLogs", lambda call, reply: reply | {"result": []})
        await one.follower.catch_up()
        assert one.rows("sessions") == []
        await one.follower.second_look()
        texts = [text for _, text in one.alerts]
        assert sorted("1 more" in text for text in texts) == [False, True]
        assert [row["session_id"] for row in one.rows("sessions")] == [1]


async def test_second_look__as_blocks_come__happens_by_itself(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECOND_LOOK_EVERY", 4)
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        world.start()
        await left_out(proxy, one)
        task = asyncio.create_task(one.follower.run())
        for _ in range(8):
            world.node.mine()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            while not one.rows("sessions"):  # noqa: ASYNC110 (what is waited for is a row)
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


def stale(world: World) -> Any:
    """A node that stands still at the present head."""
    frozen = world.node.header()
    number = int(frozen["number"], 16)

    def after(call: Any, reply: Any) -> Any:
        at = call["params"][0]
        if at == "latest":
            return reply | {"result": frozen}
        if isinstance(at, str) and at.startswith("0x") and int(at, 16) > number:
            return reply | {"result": None}
        return reply

    return each_call("eth_getBlockByNumber", after)


async def test_several_nodes__the_preferred_one_lags__the_others_are_followed(world: World, tmp_path: Path) -> None:
    """Quotes: "Of several nodes, one that lags or has strayed is not followed back in time"."""
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=(proxy.url, world.node.url)) as one:
        await one.follower.catch_up()
        proxy.after = stale(world)
        world.start()
        world.node.mine(10)
        await one.follower.second_look()
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_several_nodes__a_lagging_one_answers_after_failover__is_not_followed_back(
    world: World, tmp_path: Path
) -> None:
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=(world.node.url, proxy.url)) as one:
        await one.follower.catch_up()
        proxy.after = stale(world)
        world.start()
        world.node.mine(10)
        await one.follower.catch_up()
        rows = one.chain()
        one.rpc.ask_last({0}, 60)  # as if the good one were in trouble
        await one.follower.catch_up()
        assert one.chain() == rows
        assert not any(change.retracted for change in one.changes)
        assert one.follower.head is not None
        assert one.follower.head.hash == world.node.header()["hash"]


@pytest.mark.parametrize("ahead", [0, 1])
async def test_several_nodes__one_is_on_a_branch_of_its_own__is_followed_only_when_that_is_longer(
    world: World, tmp_path: Path, ahead: int
) -> None:
    """a lagging or forked node is not followed back in time"""
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=(proxy.url, world.node.url)) as one:
        world.start()
        await one.follower.catch_up()
        rows = one.chain()
        proxy.after = each_call("eth_getBlockByNumber", branch_of_its_own(world.node.number(), ahead))
        if ahead:
            assert await one.follower._compare_nodes() is False
        else:
            await one.follower.catch_up()
            assert one.chain() == rows
            assert one.follower.head is not None
            assert one.follower.head.hash == world.node.header()["hash"]
            assert not one.follower.violated


def branch_of_its_own(head: int, ahead: int) -> Any:
    def after(call: Any, reply: Any) -> Any:
        at = call["params"][0]
        if at == "latest" or (at.startswith("0x") and int(at, 16) >= head):
            other = dict(reply["result"] or {})
            if at == "latest":
                other["number"] = hex(head + ahead)
            return reply | {"result": other | {"hash": "0x" + "99" * 32, "parentHash": "0x" + "98" * 32}}
        return reply

    return after


@pytest.mark.provokes("alert.finality")
async def test_violation__is_told_when_it_begins_and_when_it_is_over(world: World, tmp_path: Path) -> None:
    """Quotes: "A violation of finality stops the follower at what it has and says so"."""
    world.start()
    world.node.mine(100)
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        rows = one.chain()
        with langdao() as other:
            other.node.mine(200)
            proxy.node_url = other.node.url
            for _ in range(3):
                await one.follower.catch_up()
            assert (one.violations, one.chain()) == ([True], rows)
            assert not one.follower.at_head.is_set()
        proxy.node_url = world.node.url
        world.end()
        await one.follower.catch_up()
        assert one.violations == [True, False]
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


@pytest.mark.provokes("alert.finality-still")
async def test_finality__stands_still_for_hours__is_said_once_and_stops_nothing(world: World, tmp_path: Path) -> None:
    """Quotes: "finality that merely stands still for hours is said, and stops nothing"."""
    async with before(world) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        frozen = world.node.rpc("eth_getBlockByNumber", "finalized", False)

        def after(call: Any, reply: Any) -> Any:
            return reply | {"result": frozen} if call["params"][0] == "finalized" else reply

        proxy.after = each_call("eth_getBlockByNumber", after)
        world.start()
        world.end()
        await one.follower.catch_up()
        world.node.rpc("evm_increaseTime", 7_201)
        for _ in range(3):
            world.node.mine(2)
            await one.follower.catch_up()
        assert [name for name, _ in one.alerts] == ["alert.finality-still"]
        assert one.follower.at_head.is_set()
        assert one.rows("settlements")[0]["finality"] == "confirmed"
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


# Pushed heads


@asynccontextmanager
async def pushed(world: World, path: Path) -> AsyncIterator[Index]:
    """Following by websocket; polling is out of the way."""
    url = world.node.url.replace("http", "ws")
    async with index(world, path, rpc_url=url, poll_interval_s=30) as one:
        task = asyncio.create_task(one.follower.run())
        await asyncio.wait_for(one.follower.at_head.wait(), 5)
        await asyncio.sleep(0.3)
        yield one
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def reached(one: Index, world: World) -> None:
    async with asyncio.timeout(5):
        while one.follower.head is None or one.follower.head.hash != world.node.header()["hash"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_pushed__quiet_blocks__cost_no_request(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes: "A quiet one costs no request."."""
    monkeypatch.setattr(module, "SECOND_LOOK_EVERY", 1_000)
    async with pushed(world, tmp_path / "a.db") as one:
        world.deposit()  # a bloom that was right
        await reached(one, world)
        before_s = one.rpc.requests
        for _ in range(20):
            world.node.mine()
            await reached(one, world)
        assert one.rpc.requests <= before_s + 1  # the look at finality each 32 blocks may fall among them
        assert [change.head.number for change in one.changes[-20:]] == list(
            range(world.node.number() - 19, world.node.number() + 1)
        )


async def test_pushed__blocks_with_logs_and_reorgs__equal_a_fresh_index(world: World, tmp_path: Path) -> None:
    """Quotes: "taken at its word only when it is the child of the block that the index has reached"."""
    async with pushed(world, tmp_path / "a.db") as one:
        for step in range(6):
            world.start(step % 3, step % 3)
            world.node.mine(2)
            world.end(step % 3)
            if step % 2:
                world.node.rpc("anvil_reorg", step, [])
            await reached(one, world)
            await assert_equals_a_fresh_index(one, world, tmp_path / f"fresh-{step}.db")


async def test_pushed__subscription_falls_silent__is_noticed_and_made_anew(world: World, tmp_path: Path) -> None:
    """silence of the subscription is noticed"""
    url = world.node.url.replace("http", "ws")
    async with index(world, tmp_path / "a.db", rpc_url=url, poll_interval_s=0.2) as one:
        task = asyncio.create_task(one.follower.run())
        await asyncio.wait_for(one.follower.at_head.wait(), 5)
        await asyncio.sleep(0.3)
        endpoint: Any = one.rpc._endpoints[0]
        read, silent, announced = endpoint._pushed, True, 0

        def deaf(content: Any) -> Any:
            nonlocal announced
            announced += not silent
            return None if silent else read(content)

        endpoint._pushed = deaf
        socket = endpoint._subscription
        async with asyncio.timeout(10):
            while not socket.closed:
                world.node.mine()
                await asyncio.sleep(0.25)
            silent = False
            while not announced:
                world.node.mine()
                await asyncio.sleep(0.25)
        await reached(one, world)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
