"""Random chains with random reorgs: after every step the database equals a fresh index of the canonical chain."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.chain.errors import WrongAnswer
from bot.store.db import Database
from bot.store.schema import upgrade
from tests.support.anvil import langdao
from tests.support.index import Index, assert_equals_a_fresh_index, index
from tests.support.node_double import STUDENTS, TUTORS, Block, NodeDouble, deposited, unknown

DEPTH = 63  # the deepest reorg
steps = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("end"), st.integers(0, 3)),
        st.tuples(st.just("deposit"), st.integers(0, 3)),
        st.tuples(st.just("unknown")),
        st.tuples(st.just("quiet"), st.integers(1, 70)),
        st.tuples(st.just("fork"), st.integers(1, DEPTH), st.integers(0, 80)),
        st.tuples(st.just("swap"), st.integers(2, 20)),
        st.tuples(st.just("back")),
        st.tuples(st.just("lag"), st.integers(0, 10)),
        st.tuples(st.just("finalize"), st.integers(0, 10)),
        st.tuples(st.just("restart")),
    ),
    min_size=4,
    max_size=14,
)


class Chain:
    """A node double that is told a script; reorgs stay above what is final."""

    def __init__(self, node: NodeDouble) -> None:
        self.node = node
        self.left: list[Block] = []

    def play(self, step: tuple) -> None:  # type: ignore[type-arg]
        node = self.node
        match step:
            case ("start", student, tutor):
                node.start(STUDENTS[student], TUTORS[tutor])
            case ("end", tutor):
                node.end(TUTORS[tutor])
            case ("deposit", student):
                node.mine(deposited(STUDENTS[student], 5), deposited(STUDENTS[student], 7))
            case ("unknown",):
                node.mine(unknown(node.head.number))
            case ("quiet", blocks):
                for _ in range(blocks):
                    node.mine()
            case ("fork", depth, blocks):
                self.fork(depth)
                for number in range(max(1, blocks)):
                    node.start(STUDENTS[number % 4], TUTORS[number % 3]) if number % 7 == 0 else node.mine()
            case ("swap", depth):
                # Whatever started first on the branch that is left starts last on the new one.
                self.fork(depth)
                for number in reversed(range(3)):
                    node.start(STUDENTS[number], TUTORS[number])
            case ("back",) if self.left:
                self.go_back(self.left[-1])
            case ("lag", blocks):
                node.lag = min(blocks, node.head.number - node.finalized - 1)
            case ("finalize", behind):
                node.finalized = max(node.finalized, node.head.number - DEPTH - behind)
                node.mine()  # an index looks at finality when a head comes

    def fork(self, depth: int) -> None:
        self.node.lag = 0
        room = self.node.head.number - max(self.node.finalized, self.node.deploy_block)
        if room > 0:
            self.left.append(self.node.fork(min(depth, room)))

    def go_back(self, branch: Block) -> None:
        """The very same blocks again, where what is final allows it."""
        node = self.node
        final = node.head.at(node.finalized)
        assert final is not None
        there = branch.at(node.finalized)
        if there is not None and there.hash == final.hash:
            self.left.append(node.head)
            node.lag = 0
            node.head = branch


async def followed(script: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = Database(f"sqlite:///{folder / 'empty.db'}")
        upgrade(template)
        template.dispose()
        shutil.copy(folder / "empty.db", folder / "a.db")
        async with NodeDouble() as node, AsyncExitStack() as stack:
            chain = Chain(node)
            one: Index = await stack.enter_async_context(index(node, folder / "a.db"))  # type: ignore[arg-type]
            for at, step in enumerate(script):
                if step == ("restart",):
                    await stack.aclose()
                    one = await stack.enter_async_context(index(node, folder / "a.db"))  # type: ignore[arg-type]
                chain.play(step)
                try:
                    await one.follower.catch_up()
                except WrongAnswer:
                    # After a restart there is nothing to report until the node has what the index has.
                    assert node.lag
                    assert one.follower.head is None
                assert not one.follower.violated
                if node.lag:
                    continue  # the index is further than the node admits to be, and right to stay there
                shutil.copy(folder / "empty.db", folder / f"fresh-{at}.db")
                await assert_equals_a_fresh_index(one, node, folder / f"fresh-{at}.db")  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(steps)
def test_follow__any_chain_with_any_reorgs__equals_a_fresh_index_after_every_step(script: list[tuple]) -> None:  # type: ignore[type-arg]
    """Quotes: "The stored logs equal the canonical chain's logs of the contract at every block the follower reports.",
    "A restart resumes.", "A reorg of any depth above the finalized block retracts exactly what it took away".
    """
    asyncio.run(followed(script))


def test_follow__restart_at_a_node_that_lags__waits_for_it_and_goes_on() -> None:
    script: list[tuple] = [("quiet", 3), ("lag", 1), ("restart",), ("start", 0, 0), ("fork", 1, 2)]  # type: ignore[type-arg]
    asyncio.run(followed(script))


def test_follow__back_and_forth_between_two_branches__equals_a_fresh_index_each_time() -> None:
    script: list[tuple] = [("quiet", 80), ("start", 0, 0), ("start", 1, 1), ("fork", 2, 5), *[("back",)] * 5]  # type: ignore[type-arg]
    asyncio.run(followed(script))


@pytest.mark.parametrize("depth", range(1, DEPTH + 1, 6))
def test_follow__depth_across_a_restart__equals_a_fresh_index(depth: int) -> None:
    ends = [("quiet", 70), ("start", 0, 0), ("quiet", depth), ("end", 0)]
    asyncio.run(followed([*ends, ("fork", depth, depth + 1), ("restart",), ("back",), ("restart",), ("quiet", 1)]))


@pytest.mark.parametrize("seed", [1, 2])
async def test_follow__anvil_reorgs_of_random_depth__equals_a_fresh_index_after_every_step(
    seed: int, tmp_path: Path
) -> None:
    """On a real node, by `anvil_reorg`, also across the keeper's restart."""
    dice = random.Random(seed)
    with langdao() as world:
        world.node.mine(70)
        async with AsyncExitStack() as stack:
            one: Index = await stack.enter_async_context(index(world, tmp_path / "a.db"))
            for step in range(12):
                for _ in range(dice.randint(1, 4)):
                    who, where = dice.randrange(3), dice.randrange(3)
                    if dice.random() < 0.3:
                        world.node.mine(dice.randint(1, 20))
                    elif world.is_active(where):
                        world.end(where)
                    else:
                        world.start(who, where)
                if dice.random() < 0.6:
                    world.node.rpc("anvil_reorg", dice.randint(1, DEPTH), [])
                if dice.random() < 0.3:
                    await stack.aclose()
                    one = await stack.enter_async_context(index(world, tmp_path / "a.db"))
                await one.follower.catch_up()
                await assert_equals_a_fresh_index(one, world, tmp_path / f"fresh-{step}.db")
