"""After the socket was lost: what was said meanwhile is read, and read again until it could be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from bot import hooks
from bot.domain.facts import Hint, Kind, Source, Trust
from bot.errors import TryAgain
from bot.hooks import FeedHooks
from tests.support.servers import until

HINT = Hint(Kind.ENDED, Source.RECORD, Trust.CONFIGURED, 1, room="req_1")


class World:
    """A reconciler that only hears, and a record that answers what the test says."""

    def __init__(self, *answers: list[Hint] | TryAgain) -> None:
        self.answers = list(answers)
        self.states: list[bool] = []
        self.taken: list[Hint] = []
        self.reads = 0

    async def socket_feed(self, up: bool) -> None:
        self.states.append(up)

    async def record(self) -> Iterable[Hint]:
        self.reads += 1
        one = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(one, TryAgain):
            raise one
        return one


@contextlib.asynccontextmanager
async def hearing(world: World) -> AsyncIterator[FeedHooks]:
    made: Any = FeedHooks(world, world.record, world.taken.append)  # type: ignore[arg-type]
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "RECORD_AGAIN_S", 0.02)


async def test_socket_up__record_can_not_be_read_at_first__read_again_until_it_could(quick: None) -> None:
    """after a reconnect the state is reconciled from … the gateway's own record, because there is no replay"""
    world = World(TryAgain("503"), TryAgain("503"), [HINT])
    async with hearing(world) as feed:
        feed.socket_state(True)
        await until(lambda: world.taken)
        await asyncio.sleep(0.1)
    assert (world.taken, world.reads) == ([HINT], 3)


async def test_socket_up__backend_asks_for_patience__has_it(quick: None) -> None:
    """`Retry-After` respected"""
    world = World(TryAgain("429", after_s=0.4), [HINT])
    async with hearing(world) as feed:
        began = asyncio.get_running_loop().time()
        feed.socket_state(True)
        await until(lambda: world.taken)
        assert asyncio.get_running_loop().time() - began >= 0.4


async def test_socket_lost_again__the_old_reading_is_given_up(quick: None) -> None:
    world = World(TryAgain("503"), [HINT])
    async with hearing(world) as feed:
        feed.socket_state(True)
        feed.socket_state(False)
        await until(lambda: world.states == [True, False])
        await asyncio.sleep(0.1)
        assert world.taken == []
        feed.socket_state(True)
        await until(lambda: world.taken)
    assert world.reads == 2


async def test_socket_up__whoever_wants_to_know__is_told_before_the_record_is_read(quick: None) -> None:
    world = World([HINT])
    told: list[int] = []
    async with hearing(world) as feed:
        feed.when_socket_up += [lambda: told.append(world.reads), lambda: told.append(-1)]
        feed.socket_state(True)
        await until(lambda: world.taken)
    assert told == [0, -1]
