"""Balances, two sessions of one student, and people who are both: the table's further cases, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.domain.facts import Kind, SessionKey
from bot.domain.urgency import Urgency
from bot.store.tables import DecisionRow
from tests.support.keeper import KEY, RATE, Keeper
from tests.support.sessions import OTHER_TUTOR, STUDENT, T0, TUTOR

SECOND = SessionKey(2, STUDENT, OTHER_TUTOR)  # the same student's, with another tutor
GRACE_S = 300  # DRAIN_GRACE_S


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    yield keeper
    keeper.writer.close()
    keeper.database.dispose()


async def lesson(keeper: Keeper, key: SessionKey, at_s: float = 0) -> None:
    await keeper.start(key, at_s)
    room = f"req_{key.session_id}"
    await keeper.say(keeper.hint(Kind.READY, room=room, student=key.student, tutor=key.tutor))


def drained_s(keeper: Keeper, key: SessionKey) -> float | None:
    at_ms = keeper.session(key).drained_ms
    return None if at_ms is None else (at_ms - T0) / 1000


def settled(keeper: Keeper) -> list[tuple[SessionKey, float]]:
    """Whose end was decided, and when, in seconds."""
    return [
        (SessionKey.parse(row.session_key), (row.at_ms - T0) / 1000)
        for row in keeper.rows(DecisionRow)
        if row.action == "end"
    ]


# The balance ---------------------------------------------------------------------------------------------------------


async def test_balance__all_their_sessions_together__is_used_up_for_all_at_once(keeper: Keeper) -> None:
    """balance used up (predicted to the second per student, over all their active sessions together"""
    await lesson(keeper, KEY)
    await keeper.reconciler.set_balance(STUDENT, 60 * RATE)
    assert drained_s(keeper, KEY) == 60
    await keeper.at(20)
    await lesson(keeper, SECOND, 20)
    assert drained_s(keeper, KEY) == 60, "until the balance is read, or the second's rate"
    await keeper.reconciler.session_known(SECOND)
    assert (drained_s(keeper, KEY), drained_s(keeper, SECOND)) == (40, 40)
    await keeper.at(40 + GRACE_S)
    assert sorted(settled(keeper)) == [(KEY, 40 + GRACE_S), (SECOND, 40 + GRACE_S)]


async def test_balance__deposit_and_withdrawal__move_it(keeper: Keeper) -> None:
    """deposits and withdrawals move it"""
    await lesson(keeper, KEY)
    await keeper.reconciler.set_balance(STUDENT, 60 * RATE)
    await keeper.at(50)
    await keeper.reconciler.set_balance(STUDENT, 600 * RATE)
    assert drained_s(keeper, KEY) == 600
    await keeper.at(500)
    assert settled(keeper) == []
    await keeper.reconciler.set_balance(STUDENT, 520 * RATE)
    assert drained_s(keeper, KEY) == 520
    await keeper.at(520 + GRACE_S)
    assert settled(keeper) == [(KEY, 520 + GRACE_S)]


async def test_balance__zero_from_the_start__is_used_up_at_the_start(keeper: Keeper) -> None:
    """zero balance"""
    await lesson(keeper, KEY)
    await keeper.reconciler.set_balance(STUDENT, 0)
    assert drained_s(keeper, KEY) == 0
    await keeper.at(GRACE_S)
    assert settled(keeper) == [(KEY, GRACE_S)]


async def test_balance__zero_rate__is_never_used_up(keeper: Keeper) -> None:
    """zero rate"""
    await lesson(keeper, KEY)
    keeper.reconciler.memory.live[KEY].session.rate = 0
    await keeper.reconciler.set_balance(STUDENT, 0)
    assert drained_s(keeper, KEY) is None
    await keeper.at(3_600)
    assert settled(keeper) == []
    await keeper.say(keeper.hint(Kind.ENDED, room="req_1"))
    await keeper.at(3_660)
    assert settled(keeper) == [(KEY, 3_660)], "but an end that is reported ends it"


# Two sessions of one student -----------------------------------------------------------------------------------------


async def both(keeper: Keeper, first_s: float, second_s: float) -> None:
    """Both sessions, reported as over at these times."""
    await lesson(keeper, KEY)
    await lesson(keeper, SECOND)
    for at_s, key in sorted(((first_s, KEY), (second_s, SECOND))):
        await keeper.at(at_s)
        await keeper.say(keeper.hint(Kind.ENDED, room=f"req_{key.session_id}"))


async def test_two_sessions__both_over_within_a_window__ended_in_one_go_and_before_all_others(keeper: Keeper) -> None:
    """the first end must not let the other tutor go unpaid, as far as order and timing allow"""
    await both(keeper, 100, 140)
    await keeper.at(199)
    assert settled(keeper) == []
    await keeper.at(200)
    assert sorted(settled(keeper)) == [(KEY, 200), (SECOND, 200)]
    assert [keeper.reconciler.urgency(key) for key in (KEY, SECOND)] == [Urgency.CLAIM] * 2
    assert all(keeper.reconciler.still_due(key) for key in (KEY, SECOND))


async def test_two_sessions__the_other_goes_on__the_end_doesnt_wait(keeper: Keeper) -> None:
    await both(keeper, 100, 900)
    await keeper.at(300)
    assert settled(keeper) == [(KEY, 160)]


async def test_two_sessions__the_other_is_due_long_after__the_end_doesnt_wait(keeper: Keeper) -> None:
    await lesson(keeper, KEY)
    await lesson(keeper, SECOND)
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED, room="req_1"))
    await keeper.at(159)
    await keeper.reconciler.settle(1, {"by": "operator"})
    assert settled(keeper) == [(KEY, 159)], "and an operator's word waits for nothing"


async def test_two_sessions__the_other_is_alive_after_all__the_end_waits_a_window_at_most(keeper: Keeper) -> None:
    """by NUDGE_WINDOW_S at most"""
    await both(keeper, 100, 155)
    for second in range(160, 400, 10):
        await keeper.at(second)
        await keeper.say(keeper.hint(Kind.HEARTBEAT, room="req_2"))
    [(ended, at_s)] = settled(keeper)
    assert ended == KEY
    assert 160 < at_s <= 220


async def test_two_sessions__the_second_is_reported_while_the_first_is_being_ended__it_isnt_taken_back(
    keeper: Keeper,
) -> None:
    await both(keeper, 100, 161)
    assert settled(keeper) == [(KEY, 160)]
    assert keeper.reconciler.still_due(KEY)
    assert not keeper.reconciler.withdrawn(KEY)


# One person who is both ----------------------------------------------------------------------------------------------


async def test_student_is_tutor__reported_as_over__nudged_and_ended_as_any_other(keeper: Keeper) -> None:
    """`student == tutor`"""
    alone = SessionKey(3, TUTOR, TUTOR)
    await lesson(keeper, alone)
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED, room="req_3", student=TUTOR, tutor=TUTOR))
    assert [key for _, key, _ in keeper.effects.nudges] == [alone]
    await keeper.at(160)
    assert settled(keeper) == [(alone, 160)]
