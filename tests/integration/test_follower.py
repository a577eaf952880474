"""The follower on a real Anvil: its promises, one by one, quoted from its header."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.chain import pages
from bot.chain.follower import Change
from bot.chain.follower import follower as module
from bot.domain.address import checksum
from tests.support.anvil import RATE, World, langdao
from tests.support.index import assert_equals_a_fresh_index, index, key
from tests.support.servers import HANGS_S, until


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


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
        assert [one["tx_hash"] for one in one.rows("logs") if one["name"] == "SessionStarted"] == [tx]
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
    async with index(world, tmp_path / "a.db", rpc_url=url, poll_interval_s=60) as one:
        task = asyncio.create_task(one.follower.run())
        await asyncio.wait_for(one.follower.at_head.wait(), HANGS_S)
        await asyncio.sleep(0.3)
        world.start()
        await until(lambda: bool(one.rows("sessions")))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
