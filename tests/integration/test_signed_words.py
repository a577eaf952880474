"""What a participant's verified word does to a session: at once, and once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.domain.facts import Hint, Kind, Source, Trust
from tests.support.keeper import KEY, OTHER, Keeper


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    one = Keeper(tmp_path / "keeper.db")
    await one.reconciler.load(0)
    await one.start(KEY)
    yield one
    one.writer.close()
    one.database.dispose()


def word(keeper: Keeper, kind: Kind, session_id: int = 1) -> Hint:
    key = {1: KEY, 2: OTHER}[session_id]
    names = {"room": str(session_id), "session_id": session_id, "student": key.student, "tutor": key.tutor}
    return Hint(kind, Source.PARTICIPANT, Trust.PROVEN, keeper.now, **names)  # type: ignore[arg-type]


async def test_signed__end__settles_at_once(keeper: Keeper) -> None:
    assert await keeper.reconciler.signed(word(keeper, Kind.SETTLE), "statement:a")
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_signed__twice_and_after_a_restart__is_taken_once_for_good(keeper: Keeper) -> None:
    """Only once, for good."""
    assert await keeper.reconciler.signed(word(keeper, Kind.STILL_HERE), "statement:a")
    assert not await keeper.reconciler.signed(word(keeper, Kind.STILL_HERE), "statement:a")
    await keeper.restart()
    assert not await keeper.reconciler.signed(word(keeper, Kind.SETTLE), "statement:a")
    assert keeper.effects.settles == []
    assert await keeper.reconciler.signed(word(keeper, Kind.SETTLE), "statement:b")
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_signed__still_here_after_an_end_hint__withdraws_it(keeper: Keeper) -> None:
    await keeper.say(keeper.hint(Kind.ENDED, student=KEY.student, tutor=KEY.tutor))
    await keeper.at(20)
    await keeper.reconciler.signed(word(keeper, Kind.STILL_HERE), "statement:a")
    await keeper.at(400)
    assert keeper.effects.settles == []


async def test_signed__before_the_keeper_saw_the_start__counts_when_it_does(keeper: Keeper) -> None:
    await keeper.reconciler.signed(word(keeper, Kind.SETTLE, session_id=2), "statement:a")
    assert keeper.effects.settles == []
    await keeper.start(OTHER)
    assert [key for _, key in keeper.effects.settles] == [OTHER]


async def test_signed__session_set_aside__a_participants_word_tries_no_poison_again(keeper: Keeper) -> None:
    await keeper.reconciler.signed(word(keeper, Kind.SETTLE), "statement:0")
    for number in range(3):
        await keeper.reconciler.outcome(KEY, Kind.SETTLEMENT, {"outcome": "failed", "reason": "reverts"}, None)
        await keeper.at(10 * (number + 1))
    tried = len(keeper.effects.settles)
    for number in range(5):
        await keeper.reconciler.signed(word(keeper, Kind.SETTLE), f"statement:again{number}")
        await keeper.at(100 + number)
    assert len(keeper.effects.settles) == tried
    await keeper.reconciler.settle(1, {"by": "operator"})
    assert len(keeper.effects.settles) == tried + 1
