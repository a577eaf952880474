"""The follower on a real Anvil: its promises, one by one, quoted from its header."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from bot.chain import pages
from bot.chain.follower import Change
from bot.chain.follower import follower as module
from bot.domain.address import checksum
from bot.domain.facts import SessionKey
from tests.support.anvil import RATE, World, langdao
from tests.support.index import assert_equals_a_fresh_index, index


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


def key(world: World, number: int, student: int = 0, tutor: int = 0) -> SessionKey:
    return SessionKey(number, world.students[student], world.tutors[tutor])


async def test_catch_up__from_the_deployment__stores_every_log(world: World, tmp_path: Path) -> None:
    world.start()
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        names = [row["name"] for row in one.rows("logs", "block_number, log_index")]
        assert names == ["StudentRegistered", "FundsDeposited"] * 3 + ["TutorRegistered"] * 3 + ["SessionStarted"]
        assert one.follower.at_head.is_set()
        assert one.follower.lag_blocks == 0


async def test_catch_up__session_started__is_told_and_stored(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        tx = world.start(student=1, tutor=2)
        change = await one.pass_once()
        assert change is not None
        assert change.started == (key(world, 1, 1, 2),)
        assert change.live
        (row,) = one.rows("sessions")
        assert row["start_tx"] == tx
        assert row["started_at"] == int(world.node.header()["timestamp"], 16)
        assert (row["end_block"], row["rate"], row["closed"]) == (None, None, 0)


async def test_catch_up__session_ended__makes_a_settlement(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        world.start()
        await one.follower.catch_up()
        world.node.rpc("evm_increaseTime", 90)
        tx = world.end()
        change = await one.pass_once()
        assert change is not None
        assert change.ended == (key(world, 1),)
        assert change.funds == (world.students[0],)
        (row,) = one.rows("settlements")
        assert (row["student"], row["tutor"], row["tx_hash"]) == (world.students[0], world.tutors[0], tx)
        assert int(row["paid"]) == int(row["billed_s"]) * RATE == (row["ended_at"] - row["started_at"]) * RATE
        assert row["finality"] == "seen"
        assert row["ended_by"] is None
        assert one.rows("sessions")[0]["end_block"] == row["block_number"]


async def test_catch_up__start_and_end_in_one_page__closes_the_session_at_once(world: World, tmp_path: Path) -> None:
    world.start()
    world.end()
    world.node.mine(200)
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        assert one.rows("sessions")[0]["closed"] == 1
        assert one.rows("settlements")[0]["finality"] == "final"


async def test_catch_up__deposit__names_the_student(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        world.deposit(2)
        change = await one.pass_once()
        assert change is not None
        assert change.funds == (world.students[2],)


async def test_catch_up__quiet_block__is_told_with_one_request(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        world.deposit()
        await one.follower.catch_up()
        world.node.mine()
        before = one.rpc.requests
        change = await one.pass_once()
        assert one.rpc.requests == before + 1
        assert change is not None
        assert change.head.hash == world.node.header()["hash"]
        assert (change.started, change.ended, change.funds) == ((), (), ())


async def test_catch_up__quiet_block_while_a_settlement_waits_for_finality__is_told_with_one_request(
    world: World, tmp_path: Path
) -> None:
    async with index(world, tmp_path / "a.db") as one:
        world.start()
        world.end()
        await one.follower.catch_up()
        world.node.mine()
        before = one.rpc.requests
        await one.pass_once()
        assert one.rpc.requests == before + 1
        world.node.mine(70)
        await one.follower.catch_up()
        assert one.rows("settlements")[0]["finality"] == "final"


async def test_catch_up__a_hundred_quiet_blocks__cost_a_request_each(world: World, tmp_path: Path) -> None:
    """at most one request per quiet block, the looks at finality included"""
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        before = one.rpc.requests
        for _ in range(100):
            world.node.mine()
            await one.follower.catch_up()
        assert one.rpc.requests == before + 100


async def test_catch_up__no_new_block__tells_nothing(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        assert await one.pass_once() is None


async def test_change__could_not_be_told__is_told_again_at_the_next_pass(world: World, tmp_path: Path) -> None:
    """Quotes: "within a process each one arrives at least once"."""
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        failures = iter([module.TryAgain("busy"), None])

        async def take(change: Change) -> None:
            if failure := next(failures, None):
                raise failure
            one.changes.append(change)

        one.follower._on_change = take
        world.start()
        with pytest.raises(module.TryAgain, match="busy"):
            await one.follower.catch_up()
        change = await one.pass_once()
        assert change is not None
        assert change.started == (key(world, 1),)
        assert len(one.rows("sessions")) == 1


async def test_catch_up__unknown_event__is_kept_raw(world: World, tmp_path: Path) -> None:
    # A contract that logs its calldata, the first word as the topic, followed as if it were LangDAO.
    runtime = "366000600037" + "600035" + "60203603" + "6020" + "a1" + "00"
    creation = f"0x60{len(runtime) // 2:02x}80600b6000396000f3{runtime}"
    done = world.receipt(world.send(world.owner, None, creation))
    world.contract, world.deploy_block = str(checksum(done["contractAddress"])), int(done["blockNumber"], 16)
    world.send(world.owner, world.contract, "0x" + "77" * 32 + "88" * 32)
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        (row,) = one.rows("logs")
        assert (row["name"], row["topics"], row["data"]) == (None, "0x" + "77" * 32, "0x" + "88" * 32)


async def test_restart__at_the_head__tells_the_head_once_and_asks_for_no_logs(world: World, tmp_path: Path) -> None:
    """Quotes: "A restart resumes."."""
    world.start()
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
    async with index(world, tmp_path / "a.db") as again:
        change = await again.pass_once()
        assert change is not None
        assert change.live
        assert change.started == ()
        assert again.rpc.calls["eth_getLogs"] == 0
        assert again.follower.at_head.is_set()


@pytest.mark.parametrize("blocks", [1, 40, 500])
async def test_restart__after_blocks_were_missed__equals_a_fresh_index(
    world: World, tmp_path: Path, blocks: int
) -> None:
    """Quotes: "A restart resumes."."""
    async with index(world, tmp_path / "a.db") as one:
        world.start()
        await one.follower.catch_up()
    world.end()
    world.node.mine(blocks)
    world.start(1)
    async with index(world, tmp_path / "a.db") as again:
        await again.follower.catch_up()
        await assert_equals_a_fresh_index(again, world, tmp_path / "fresh.db")
        assert [change.live for change in again.changes][-1]


async def test_restart__a_transaction_failed__resumes_where_the_rows_are(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes: "Rows and cursor move in one transaction."."""
    world.start()
    async with index(world, tmp_path / "a.db") as one:
        with monkeypatch.context() as patch:
            patch.setattr(module.store, "sweep", lambda *_: 1 / 0)  # the last statement of the transaction
            with pytest.raises(ZeroDivisionError):
                await one.follower.catch_up()
        assert one.chain() == {"logs": [], "sessions": [], "settlements": []}
        assert one.rows("blocks", "1") == []
    async with index(world, tmp_path / "a.db") as again:
        await again.follower.catch_up()
        await assert_equals_a_fresh_index(again, world, tmp_path / "fresh.db")


async def test_reorg__by_the_node__retracts_exactly_what_it_took_away(world: World, tmp_path: Path) -> None:
    # deposit - start 1 - start 2 - end 1      anvil_reorg(2) leaves: deposit - start 1 - x - y
    async with index(world, tmp_path / "a.db") as one:
        world.deposit()
        world.start(0, 0)
        world.start(1, 1)
        world.end(0)
        await one.follower.catch_up()
        world.node.rpc("anvil_reorg", 2, [])
        change = await one.pass_once()
        assert change is not None
        assert change.retracted == (key(world, 1), key(world, 2, 1, 1))
        assert set(change.funds) == {world.students[0], world.students[1]}
        assert [row["session_id"] for row in one.rows("sessions")] == [1]
        assert one.rows("sessions")[0]["end_block"] is None
        assert one.rows("settlements") == []
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_reorg__session_touched__leaves_one_fact_that_says_so(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        stays = world.node.header()
        mark = world.node.snapshot()
        world.start()
        world.end()
        await one.follower.catch_up()
        gone = world.node.header()
        world.node.back_to(mark)
        world.node.mine(3)
        await one.follower.catch_up()
        (fact,) = one.rows("facts")
        assert (fact["kind"], fact["source"], fact["trust"]) == ("reorg", "chain", 3)
        assert fact["session_key"] == str(key(world, 1))
        assert gone["hash"] in fact["payload"]
        assert one.changes[-1].head.number == int(stays["number"], 16) + 3


async def test_reorg__the_same_start_mined_again__is_retracted_and_started(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        mark = world.node.snapshot()
        world.start()
        await one.follower.catch_up()
        world.node.back_to(mark)
        world.node.mine()
        world.start()
        change = await one.pass_once()
        assert change is not None
        assert change.retracted == change.started == (key(world, 1),)
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_reorg__swapped_starts__the_ids_belong_to_the_others(world: World, tmp_path: Path) -> None:
    # was: start A (id 1) - start B (id 2)      is: start B (id 1) - start A (id 2)
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        mark = world.node.snapshot()
        world.start(0, 0)
        world.start(1, 1)
        await one.follower.catch_up()
        world.node.back_to(mark)
        world.start(1, 1)
        world.start(0, 0)
        change = await one.pass_once()
        assert change is not None
        assert change.retracted == (key(world, 1, 0, 0), key(world, 2, 1, 1))
        assert change.started == (key(world, 1, 1, 1), key(world, 2, 0, 0))
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_reorg__to_a_shorter_branch__is_followed(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        mark = world.node.snapshot()
        world.start()
        world.end()
        world.start()
        await one.follower.catch_up()
        world.node.back_to(mark)
        world.start(2, 2)
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_reorg__during_a_restart__is_found(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        mark = world.node.snapshot()
        world.start()
        world.node.mine(10)
        await one.follower.catch_up()
    world.node.back_to(mark)
    world.node.mine(30)
    world.start(1, 0)
    async with index(world, tmp_path / "a.db") as again:
        await again.follower.catch_up()
        assert again.changes[0].retracted == (key(world, 1),)
        await assert_equals_a_fresh_index(again, world, tmp_path / "fresh.db")


@pytest.mark.parametrize("depth", [1, 5, 33, 63])
async def test_reorg__of_any_depth_above_the_finalized_block__equals_a_fresh_index(
    world: World, tmp_path: Path, depth: int
) -> None:
    """Quotes: "A reorg of any depth above the finalized block retracts exactly what it took away"."""
    world.start()
    world.node.mine(70)
    async with index(world, tmp_path / "a.db") as one:
        world.end()
        world.node.mine(depth - 1)
        await one.follower.catch_up()
        assert len(one.rows("settlements")) == 1
        world.node.rpc("anvil_reorg", depth, [])
        await one.follower.catch_up()
        assert one.rows("settlements") == []
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


async def test_reorg__while_logs_are_unread_on_both_sides__equals_a_fresh_index_at_every_step(
    world: World, tmp_path: Path
) -> None:
    """Quotes: "The stored logs equal the canonical chain's logs of the contract at every block"."""
    dice = random.Random(8)
    async with index(world, tmp_path / "a.db") as one:
        for step in range(25):
            for _ in range(dice.randint(1, 4)):
                who, where = dice.randrange(3), dice.randrange(3)
                roll = dice.random()
                if roll < 0.15:
                    world.deposit(who)
                elif roll < 0.3:
                    world.node.mine(dice.randint(1, 9))
                elif world.is_active(where):
                    world.end(where)
                else:
                    world.start(who, where)
            if dice.random() < 0.5:
                world.node.rpc(
                    "anvil_reorg", dice.randint(1, min(20, world.node.number() - world.deploy_block - 15)), []
                )
            await one.follower.catch_up()
            await assert_equals_a_fresh_index(one, world, tmp_path / f"fresh-{step}.db")
        assert any(change.retracted for change in one.changes)


async def test_finality__violated__stops_and_keeps_the_record(world: World, tmp_path: Path) -> None:
    """Quotes: "A violation of finality stops the follower at what it has and says so"."""
    mark = world.node.snapshot()
    world.start()
    world.end()
    world.node.mine(100)
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        before = one.chain()
        world.node.back_to(mark)
        world.node.mine(200)
        await one.follower.catch_up()
        assert one.follower.violated
        assert not one.follower.at_head.is_set()
        assert one.chain() == before


async def test_head__lower_than_the_index__is_no_reorg(world: World, tmp_path: Path) -> None:
    """Quotes: "A lower head alone is not a reorg"."""
    async with index(world, tmp_path / "a.db") as one:
        mark = world.node.snapshot()
        world.start()
        world.node.mine(5)
        await one.follower.catch_up()
        before = one.chain()
        assert world.node.rpc("evm_revert", mark)  # the node lags: it has nothing above the mark
        assert await one.pass_once() is None
        assert one.chain() == before
        assert one.follower.at_head.is_set()


async def test_finality__as_blocks_come__goes_from_seen_to_confirmed_to_final(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db", confirmations=3) as one:
        world.start()
        world.end()
        seen = []
        for blocks in (0, 1, 1, 60, 2, 3):
            if blocks:
                world.node.mine(blocks)
            await one.follower.catch_up()
            seen.append((one.rows("settlements")[0]["finality"], one.rows("sessions")[0]["closed"]))
        # Its own block counts as the first confirmation; Anvil's finalized block is 64 behind.
        assert seen == [
            ("seen", 0),
            ("seen", 0),
            ("confirmed", 0),
            ("confirmed", 0),
            ("final", 1),
            ("final", 1),
        ]


async def test_blocks__long_chain__only_the_unfinalized_zone_is_kept(world: World, tmp_path: Path) -> None:
    async with index(world, tmp_path / "a.db") as one:
        for _ in range(6):
            world.node.mine(50)
            await one.follower.catch_up()
        held = [row["number"] for row in one.rows("blocks", "1")]
        assert held[-1] == world.node.number()
        assert 64 <= len(held) <= 64 + 100
        assert set(range(held[-1] - 63, held[-1] + 1)) <= set(held)


async def test_change__during_backfill__is_not_live_until_the_head(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FIRST_BLOCKS", 50)
    monkeypatch.setattr(pages, "MOST_BLOCKS", 100)
    world.node.mine(400)
    world.start()
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        assert [change.live for change in one.changes] == [False] * (len(one.changes) - 1) + [True]
        assert len(one.changes) >= 5


async def test_run__pushed_heads__are_followed_without_waiting_for_the_poll(world: World, tmp_path: Path) -> None:
    url = world.node.url.replace("http", "ws")
    async with index(world, tmp_path / "a.db", rpc_url=url, poll_interval_s=30) as one:
        task = asyncio.create_task(one.follower.run())
        await asyncio.wait_for(one.follower.at_head.wait(), 5)
        await asyncio.sleep(0.3)
        world.start()
        await _until(lambda: bool(one.rows("sessions")), 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(true: Any, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 (what is waited for is a row)
            await asyncio.sleep(0.01)


class Proxy:
    """In front of a real node: `twist(body)` may answer instead of it, or change what it answered."""

    def __init__(self, node_url: str) -> None:
        self.node_url = node_url
        self.before: Any = lambda body: None
        self.after: Any = lambda body, reply: reply

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        reply = self.before(body)
        if isinstance(reply, web.StreamResponse):
            return reply
        if reply is None:
            async with ClientSession() as session, session.post(self.node_url, json=body) as answer:
                reply = await answer.json()
        return web.json_response(self.after(body, reply))

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/", self.handle)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"


def error(body: Any, code: int, message: str) -> Any:
    return {"jsonrpc": "2.0", "id": body["id"], "error": {"code": code, "message": message}}


def is_range(body: Any) -> bool:
    return isinstance(body, dict) and body["method"] == "eth_getLogs" and "fromBlock" in body["params"][0]


async def test_backfill__node_limits_the_range__asks_for_less_and_gets_all(world: World, tmp_path: Path) -> None:
    """Quotes: "It survives nodes that ... refuse ranges"."""
    for _ in range(8):
        world.start()
        world.node.mine(60)
        world.end()
    proxy = Proxy(world.node.url)
    asked: list[int] = []

    def before(body: Any) -> Any:
        if not is_range(body):
            return None
        where = body["params"][0]
        asked.append(int(where["toBlock"], 16) - int(where["fromBlock"], 16) + 1)
        return error(body, -32005, "query returned more than 10000 results") if asked[-1] > 50 else None

    proxy.before = before
    async with index(world, tmp_path / "a.db", rpc_url=await proxy.start()) as one:
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")
    assert max(asked) > 50
    assert sum(size > 50 for size in asked) <= 8
    await proxy.runner.cleanup()


async def test_backfill__node_leaves_out_block_times__reads_them_from_headers(world: World, tmp_path: Path) -> None:
    world.start()
    world.node.mine(100)
    proxy = Proxy(world.node.url)

    def after(body: Any, reply: Any) -> Any:
        for one in reply if isinstance(reply, list) else [reply]:
            for log in one["result"] if isinstance(one.get("result"), list) else []:
                log.pop("blockTimestamp", None)
        return reply

    proxy.after = after
    async with index(world, tmp_path / "a.db", rpc_url=await proxy.start()) as one:
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")
    await proxy.runner.cleanup()


async def test_finality__node_without_the_tag__goes_by_depth(world: World, tmp_path: Path) -> None:
    world.start()
    world.end()
    proxy = Proxy(world.node.url)

    def refuse(call: Any, reply: Any) -> Any:
        return error(call, -32602, "invalid block tag") if "finalized" in call["params"] else reply

    def after(body: Any, reply: Any) -> Any:
        if isinstance(body, list):
            return [refuse(*one) for one in zip(body, reply, strict=True)]
        return refuse(body, reply)

    proxy.after = after
    async with index(world, tmp_path / "a.db", rpc_url=await proxy.start()) as one:
        await one.follower.catch_up()
        assert one.rows("settlements")[0]["finality"] == "seen"
        world.node.mine(64)
        await one.follower.catch_up()
        assert one.rows("settlements")[0]["finality"] == "final"
    await proxy.runner.cleanup()


async def test_run__node_in_trouble__never_ends_and_catches_up(world: World, tmp_path: Path) -> None:
    """Quotes: "It survives nodes that fail ... or contradict themselves: it waits and asks again"."""
    proxy = Proxy(world.node.url)
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

    async with index(world, tmp_path / "a.db", rpc_url=await proxy.start()) as one:
        proxy.before = before
        task = asyncio.create_task(one.follower.run())
        for _ in range(5):
            world.start()
            await asyncio.sleep(0.2)
            world.end()
        await asyncio.sleep(1)
        proxy.before = lambda body: None
        await _until(lambda: len(one.rows("settlements")) == 5 and one.follower.at_head.is_set(), 25)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")
    await proxy.runner.cleanup()


async def test_catch_up__logs_of_another_block__are_refused(world: World, tmp_path: Path) -> None:
    proxy = Proxy(world.node.url)

    def after(body: Any, reply: Any) -> Any:
        for one in reply if isinstance(reply, list) else []:
            for log in one["result"] if isinstance(one.get("result"), list) else []:
                log["blockHash"] = "0x" + "99" * 32
        return reply

    async with index(world, tmp_path / "a.db", rpc_url=await proxy.start()) as one:
        proxy.after = after
        with pytest.raises(module.TryAgain):
            await one.follower.catch_up()
        assert one.chain()["logs"] == []
    await proxy.runner.cleanup()
