"""The keeper's side of the pages: what is told to the bundled backend of each session, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.domain.facts import Kind
from bot.domain.identity import Identity
from bot.errors import TryAgain
from bot.plans import Plans
from tests.support.keeper import KEY, OTHER, RATE, T0_S, Keeper, keeper
from tests.support.servers import until
from tests.support.sessions import STUDENT, T0, TUTOR

__all__ = ["keeper"]
IDENTITY = Identity(31337, "0x00", TUTOR, 1, "0x01")


class Told:
    """The backend: what it was told, while it can be reached."""

    def __init__(self, one: Keeper) -> None:
        self.up = True
        self.said: list[dict[str, Any]] = []
        self.plans = Plans(one.reconciler, one.writer, IDENTITY, self._tell, lambda: one.now)
        one.reconciler.when_decided(self.plans.touched)

    async def _tell(self, message: dict[str, Any]) -> None:
        if not self.up:
            raise TryAgain("the backend's socket is down")
        self.said.append(message)

    def states(self, session_id: int = 1) -> list[str]:
        return [one["state"] for one in self.said if one["sessionId"] == session_id]

    async def settled(self) -> None:
        """Returns when all that was marked has been told."""
        count = -1
        while count != len(self.said):
            count = len(self.said)
            await asyncio.sleep(0.05)


@pytest.fixture
async def told(keeper: Keeper) -> AsyncIterator[Told]:
    one = Told(keeper)
    task = asyncio.create_task(one.plans.run())
    yield one
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_connected__active_session__is_told_with_what_a_page_needs(keeper: Keeper, told: Told) -> None:
    """after the backend's socket connected all that are active are told"""
    await keeper.reconciler.set_balance(STUDENT, 50_000)
    await told.settled()
    told.said.clear()
    told.plans.connected()
    [said] = await until(lambda: told.said)
    assert said["state"] == "running"
    assert said["rooms"] == ["req_1"]
    assert (said["student"], said["tutor"], said["contract"], said["chainId"]) == (STUDENT, TUTOR, TUTOR, 31337)
    assert (said["startedAt"], said["rate"], said["balance"]) == (T0_S, str(RATE), "50000")
    assert (said["nowMs"], said["dueMs"], said["bill"]) == (keeper.now, None, None)


async def test_decision__changes__told_once_and_not_again_while_nothing_has(keeper: Keeper, told: Told) -> None:
    """told when a decision about its session … has changed, and not again while nothing has"""
    told.plans.connected()
    await until(lambda: told.said)
    await keeper.say(keeper.hint(Kind.ENDED))
    await until(lambda: told.states()[-1] == "due")
    said = told.said[-1]
    assert said["dueMs"] == T0 + 60_000
    assert said["why"] == "The lesson was reported as ended."
    count = len(told.said)
    await keeper.at(5)
    await keeper.say(keeper.hint(Kind.ENDED))
    told.plans.touched([KEY])
    await told.settled()
    assert len(told.said) == count
    await keeper.at(61)
    await until(lambda: told.states()[-1] == "ending")


async def test_end__on_chain__is_told_with_its_bill_and_what_was_too_much(keeper: Keeper, told: Told) -> None:
    await keeper.reconciler.session_known(KEY)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(40)
    await keeper.end(KEY, 40)
    await until(lambda: told.said and told.said[-1]["bill"] is not None)
    said = told.said[-1]
    assert said["state"] == "ended"
    bill = said["bill"]
    assert (bill["paid"], bill["seconds"], bill["txHash"], bill["endedAt"]) == (str(40 * RATE), 40, "0xe2", T0_S + 40)
    await keeper.reconciler.settlement_known(KEY)
    await told.settled()
    assert told.said[-1]["bill"]["callEndedAt"] == T0_S


async def test_backend_away__what_couldnt_be_told__is_told_after_the_next_connection(
    keeper: Keeper, told: Told
) -> None:
    """What couldn't be told is told after the next connection."""
    told.up = False
    await keeper.say(keeper.hint(Kind.ENDED))
    await told.settled()
    assert told.said == []
    told.up = True
    told.plans.connected()
    await until(lambda: told.states() == ["due"])


async def test_connected__ended_lately_or_long_ago__only_the_first_is_told(keeper: Keeper, told: Told) -> None:
    """and those that ended within TOLD_AFTER_END_S"""
    await keeper.start(OTHER, 1)
    await keeper.end(KEY, 2, final=True)
    await keeper.reconciler.forget_final()
    assert keeper.reconciler.about(KEY) is None
    await told.settled()
    told.said.clear()
    told.plans.connected()
    await until(lambda: len(told.said) == 2)
    assert (told.states(1), told.states(2)) == (["ended"], ["running"])
    keeper.now += 3 * 3600 * 1000
    told.said.clear()
    told.plans.connected()
    await told.settled()
    assert (told.states(1), told.states(2)) == ([], ["running"])


async def test_reorg__takes_the_session__told_that_it_is_gone(keeper: Keeper, told: Told) -> None:
    told.plans.connected()
    await until(lambda: told.said)
    taken = await keeper.reorg(0)
    await keeper.reconciler.chain_changed(started=[], ended=[], retracted=list(taken))
    await until(lambda: told.states()[-1] == "gone")


async def test_connected__many_sessions__the_newest_are_told(
    keeper: Keeper, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """the newest MAX_TOLD at most"""
    monkeypatch.setattr("bot.plans.MAX_TOLD", 1)
    await keeper.start(OTHER, 1)
    await told.settled()
    told.said.clear()
    told.plans.connected()
    await told.settled()
    assert [one["sessionId"] for one in told.said] == [OTHER.session_id]
