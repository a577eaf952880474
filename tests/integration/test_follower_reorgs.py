"""Reorgs on a real Anvil: the follower retracts exactly what was taken away, and nothing for a node that lags."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.anvil import World, langdao
from tests.support.index import assert_equals_a_fresh_index, index, key


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


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


@pytest.mark.parametrize("first", range(1, 64, 9))
async def test_reorg__of_each_depth_to_63_by_the_node__equals_a_fresh_index_each_time(
    world: World, tmp_path: Path, first: int
) -> None:
    """Quotes: "A reorg of any depth above the finalized block retracts exactly what it took away".

    Nine depths on each chain: after some nine hundred blocks Anvil has no state left to go back to.
    """
    world.node.mine(70)
    async with index(world, tmp_path / "a.db") as one:
        for depth in range(first, first + 9):
            # A lesson whose end, and whose start from depth 3 on, are in what is taken away.
            between = depth // 2
            world.start(depth % 3, depth % 3)
            if between:
                world.node.mine(between)
            world.end(depth % 3)
            if depth > between + 2:
                world.node.mine(depth - between - 2)
            await one.follower.catch_up()
            left = one.follower.head
            world.node.rpc("anvil_reorg", depth, [])
            await one.follower.catch_up()
            assert left != one.follower.head
            assert not one.follower.violated
            assert one.changes[-1].retracted
            await assert_equals_a_fresh_index(one, world, tmp_path / f"fresh-{depth}.db")
            if world.is_active(depth % 3):
                world.end(depth % 3)


async def test_reorg__swapped_starts_across_a_restart__the_ids_belong_to_the_others(
    world: World, tmp_path: Path
) -> None:
    """ "A restart resumes.", and a session is its id with its student and tutor."""
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        mark = world.node.snapshot()
        world.start(0, 0)
        world.start(1, 1)
        await one.follower.catch_up()
    world.node.back_to(mark)
    world.start(1, 1)
    world.start(0, 0)
    world.end(1)
    async with index(world, tmp_path / "a.db") as again:
        await again.follower.catch_up()
        assert again.changes[0].retracted == (key(world, 1, 0, 0), key(world, 2, 1, 1))
        assert again.changes[0].started == (key(world, 1, 1, 1), key(world, 2, 0, 0))
        assert again.changes[0].ended == (key(world, 1, 1, 1),)
        await assert_equals_a_fresh_index(again, world, tmp_path / "fresh.db")
