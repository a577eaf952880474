"""A first start, on a chain with a past: what was before is recorded and moves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import Hint, Kind, SessionKey, Source
from bot.reconciler.start import FIRST
from bot.store.tables import ActionRow, AlertRow, DecisionRow, FactRow
from tests.integration.test_reconciler import KEY, OTHER, Keeper
from tests.support.sessions import OTHER_STUDENT, STUDENT, TUTOR

AGE_S = 10_800  # of the sessions that are open at the first start


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    """Two sessions have run for three hours, a third has ended, and no keeper was ever there."""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.start(KEY, tell=False)
    await keeper.start(OTHER, tell=False)
    over = SessionKey(3, OTHER_STUDENT, TUTOR)
    await keeper.start(over, tell=False)
    await keeper.end(over, 5, tell=False)
    keeper.now += AGE_S * 1_000
    keeper.boot()
    yield keeper
    keeper.writer.close()
    keeper.database.dispose()


async def first_start(keeper: Keeper) -> None:
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)


def recorded(keeper: Keeper, kind: Kind, seconds_ago: float, **more: Any) -> Hint:
    said_ms = keeper.now - round(seconds_ago * 1000)
    return keeper.hint(kind, Source.RECORD, student=STUDENT, tutor=TUTOR, said_ms=said_ms, can_return=True, **more)


async def test_first_start__sessions_are_open__one_digest_to_the_operator_and_nothing_else(keeper: Keeper) -> None:
    """sessions then open are one digest to the operator"""
    await first_start(keeper)
    await keeper.at(AGE_S + 7_300)
    [alert] = keeper.rows(AlertRow)
    assert alert.name == FIRST
    assert "2 sessions are open on chain (1, 2)" in alert.text
    assert [name for name, _ in keeper.effects.alerts] == [FIRST]
    assert keeper.rows(ActionRow) == []


async def test_first_start__nothing_is_open__nobody_is_told(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "keeper.db")
    await first_start(keeper)
    assert keeper.rows(AlertRow) == []
    keeper.writer.close()


@pytest.mark.parametrize("ago_s", [1, 700])
async def test_first_start__the_backend_recorded_an_end_before_it__recorded_only(keeper: Keeper, ago_s: float) -> None:
    """What happened before the first start is recorded only"""
    await first_start(keeper)
    await keeper.say(recorded(keeper, Kind.ENDED, ago_s))
    await keeper.at(AGE_S + 1_000)
    [fact] = keeper.rows(FactRow)
    assert (fact.kind, fact.session_key) == ("ended", str(KEY))
    assert keeper.rows(ActionRow) == []
    await keeper.restart()
    await keeper.reconciler.socket_feed(True)
    await keeper.say(recorded(keeper, Kind.ENDED, ago_s + 1_000))
    await keeper.at(AGE_S + 2_000)
    assert keeper.rows(ActionRow) == [], "nor after a restart"


async def test_first_start__something_is_heard_from_then_on__counts_as_for_any_other(keeper: Keeper) -> None:
    """signals received from then on count for them as for any other"""
    await first_start(keeper)
    await keeper.at(AGE_S + 10)
    await keeper.say(keeper.hint(Kind.ENDED, student=STUDENT, tutor=TUTOR))
    await keeper.at(AGE_S + 100)
    assert [row.kind for row in keeper.rows(ActionRow)] == ["nudge", "nudge", "settle"]
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_later_start__an_end_recorded_while_it_was_down__ends_it_and_old_ones_message_nobody(
    keeper: Keeper,
) -> None:
    """age never excuses a settlement: a session still active on chain is decided by the table, however old its hint"""
    await first_start(keeper)
    later = SessionKey(4, OTHER_STUDENT, TUTOR)
    await keeper.end(KEY, AGE_S + 5)
    await keeper.start(later, AGE_S + 10)
    keeper.now += 2_000_000
    await keeper.restart()
    await keeper.reconciler.socket_feed(True)
    said_ms = keeper.now - 900_000
    await keeper.say(keeper.hint(Kind.ENDED, Source.RECORD, student=OTHER_STUDENT, tutor=TUTOR, said_ms=said_ms))
    await keeper.at(AGE_S + 2_100)
    assert [(row.kind, row.session_key) for row in keeper.rows(ActionRow)] == [("settle", str(later))]


async def test_second_start__no_other_digest(keeper: Keeper) -> None:
    await first_start(keeper)
    await keeper.restart()
    assert len(keeper.rows(AlertRow)) == 1


async def test_one_command_alone__is_no_first_start(keeper: Keeper) -> None:
    await keeper.reconciler.load(0, watches=False)
    assert keeper.rows(AlertRow) == []
    assert keeper.reconciler.memory.first_start.at_ms == 0
    assert keeper.rows(DecisionRow) == [], "other sessions are none of its business"
    await keeper.reconciler.settle(2, {"by": "operator"})
    assert [key for _, key in keeper.effects.settles] == [OTHER]
