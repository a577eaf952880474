"""The reconciler on a real database, from a hint to a settlement: decisions stored before effects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import Kind, SessionKey, Source
from bot.domain.urgency import Urgency
from bot.store.tables import ActionRow, AlertRow, DecisionRow, FactRow, TxRow
from tests.support.keeper import KEY, RATE, T0_S, Keeper, deliver, keeper, report
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, STUDENT, T0

__all__ = ["keeper"]


async def test_hang_up__nobody_pays__nudged_at_once_and_settled_after_the_window(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    assert len(keeper.effects.nudges) == 1
    await deliver(keeper)
    await keeper.at(159.999)
    assert keeper.effects.settles == []
    await keeper.at(160)
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_hang_up__of_a_room_that_only_later_is_known__counts_from_when_it_was_said(keeper: Keeper) -> None:
    """Redis was down: its mapping comes with the scan after its return."""
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.DISCONNECTED, room="req_late", can_return=True))
    await keeper.say(keeper.hint(Kind.ENDED, room="req_late"))
    assert keeper.effects.nudges == []
    await keeper.at(110)
    await keeper.say(keeper.hint(Kind.MAPPING, Source.REDIS, room="req_late", student=KEY.student, tutor=KEY.tutor))
    assert [key for _, key, _ in keeper.effects.nudges] == [KEY]
    session = keeper.reconciler.memory.live[KEY].session
    assert session.ended_hint is not None
    assert session.ended_hint.at_ms == T0 + 100_000
    before = replace(session, nudged={})
    await keeper.restart()
    assert replace(keeper.reconciler.memory.live[KEY].session, nudged={}) == before


async def test_hang_up__decided_again_and_again__one_row_a_decision(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await deliver(keeper)
    for second in range(101, 160, 5):
        await keeper.at(second)
        await keeper.reconciler.set_paused(False)
    actions = [(row.action, row.reason) for row in keeper.rows(DecisionRow) if row.at_ms >= T0 + 100_000]
    assert actions == [("nudge", "ended"), ("wait", "ended"), ("nudge", "ended")]  # and again after NUDGE_AGAIN_S


async def test_settled__end_on_chain__settlement_is_completed(keeper: Keeper) -> None:
    """overbilled_amount = paid − min(paid, rate × max(0, call_ended_at − started_at))"""
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    await report(keeper, "settled")
    await keeper.end(KEY, 165)
    row = keeper.settlement()
    assert (row.room_id, row.call_ended_at, row.student) == ("req_1", T0_S + 100, STUDENT)
    assert (row.overbilled_s, row.overbilled_amount) == (65, str(65 * RATE))
    assert (row.reason, row.ended_by) == (None, None)  # no transaction of ours has this hash
    await keeper.ender_read(KEY, "student")
    assert keeper.settlement().reason == "on-their-own"


async def test_settled__by_our_transaction__reason_and_ender_are_stored_together(keeper: Keeper) -> None:
    """a reader never sees a reason before whom it is about"""
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    with keeper.database.write() as session:
        values = {"nonce": 0, "sender": OTHER_TUTOR, "kind": "settle", "raw": "0x", "gas": 300_000}
        session.add(TxRow(hash="0xe2", max_fee="1", tip="1", stored_ms=0, stored_block=0, **values))
    await keeper.end(KEY, 165)
    row = keeper.settlement()
    assert (row.tx_hash, row.reason) == ("0xe2", "ended")
    assert (row.ended_by, row.by_keeper, row.sender) == ("keeper", True, OTHER_TUTOR)


async def test_settled__clock_apart_from_the_chains__call_ended_at_is_chain_time(keeper: Keeper) -> None:
    """it is our receive time corrected by the measured skew to chain time"""
    keeper.reconciler.conditions.skew_ms = -7_000
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.end(KEY, 120)
    assert keeper.settlement().call_ended_at == T0_S + 93


async def test_settled__alive_until_paid__nothing_was_too_much(keeper: Keeper) -> None:
    """both null where `call_ended_at` is unknown"""
    await keeper.beats(100)
    await keeper.end(KEY, 102)
    await keeper.ender_read(KEY, "student")
    row = keeper.settlement()
    assert (row.call_ended_at, row.overbilled_s, row.overbilled_amount) == (None, None, None)
    assert row.reason == "on-their-own"


async def test_paid_after_a_delivered_nudge__reason_says_so(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await deliver(keeper)
    await keeper.end(KEY, 110)
    await keeper.ender_read(KEY, "student")
    assert keeper.settlement().reason == "paid-after-nudge"


async def test_settle__operators_word__ends_at_once(keeper: Keeper) -> None:
    assert await keeper.reconciler.settle(1, {"by": "operator"}) == KEY
    assert [key for _, key in keeper.effects.settles] == [KEY]
    assert await keeper.reconciler.settle(99, {}) is None


async def test_settle__ended_session__none(keeper: Keeper) -> None:
    await keeper.end(KEY, 5)
    assert await keeper.reconciler.settle(1, {}) is None


async def test_outcome__failed_max_attempts_times__set_aside_until_told_again(keeper: Keeper) -> None:
    """a session that reverts … is tried at most `MAX_ATTEMPTS`, then quarantined with its reason"""
    await keeper.reconciler.settle(1, {})
    for attempt in (1, 2, 3):
        assert len(keeper.effects.settles) == attempt
        await report(keeper, "failed", "the token is paused")
        await keeper.at((keeper.now - T0) / 1000 + 10)
    assert len(keeper.effects.settles) == 3
    assert keeper.session().set_aside == "the token is paused"
    assert keeper.rows(DecisionRow)[-1].action == "hold"
    await keeper.restart()
    assert (keeper.session().set_aside, keeper.effects.settles) == ("the token is paused", [])
    await keeper.reconciler.settle(1, {})
    assert len(keeper.effects.settles) == 1


async def test_cured__set_aside_and_its_cause_gone__settled_at_once_and_a_fact(keeper: Keeper) -> None:
    """settled at once when the cause is gone"""
    await keeper.reconciler.settle(1, {})
    for _ in range(3):
        await report(keeper, "failed", "the token is paused")
        await keeper.at((keeper.now - T0) / 1000 + 10)
    assert keeper.reconciler.set_aside() == [(KEY, "the token is paused")]
    await keeper.reconciler.cured(KEY)
    assert len(keeper.effects.settles) == 4
    assert keeper.reconciler.set_aside() == []
    assert keeper.rows(FactRow)[-1].payload == {"outcome": "cured"}
    await keeper.restart()
    assert keeper.session().set_aside is None


async def test_cured__its_end_reverts_for_another_reason__tried_again_and_set_aside_with_that(keeper: Keeper) -> None:
    """quarantine with reason, re-tried only when the reason changes"""
    await keeper.reconciler.settle(1, {})
    for _ in range(3):
        await report(keeper, "failed", "the token is paused")
        await keeper.at((keeper.now - T0) / 1000 + 10)
    await keeper.at((keeper.now - T0) / 1000 + 600)
    assert len(keeper.effects.settles) == 3
    await keeper.reconciler.cured(KEY, "the student is frozen")
    assert keeper.rows(FactRow)[-1].payload == {"outcome": "reason-changed", "reason": "the student is frozen"}
    for attempt in (4, 5, 6):
        assert len(keeper.effects.settles) == attempt
        await report(keeper, "failed", "the student is frozen")
        await keeper.at((keeper.now - T0) / 1000 + 10)
    assert len(keeper.effects.settles) == 6
    await keeper.restart()
    assert keeper.reconciler.set_aside() == [(KEY, "the student is frozen")]


async def test_withdrawn__sign_of_life_or_pause__only_the_first_withdraws(keeper: Keeper) -> None:
    """A hold, e.g. a pause, withdraws nothing."""
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(100)
    assert (keeper.reconciler.still_due(KEY), keeper.reconciler.withdrawn(KEY)) == (True, False)
    await keeper.reconciler.set_paused(True)
    assert (keeper.reconciler.still_due(KEY), keeper.reconciler.withdrawn(KEY)) == (False, False)
    await keeper.reconciler.set_paused(False)
    await keeper.say(keeper.hint(Kind.STILL_HERE, Source.PARTICIPANT))
    assert (keeper.reconciler.still_due(KEY), keeper.reconciler.withdrawn(KEY)) == (False, True)


async def test_urgency__what_somebody_loses_by_waiting(keeper: Keeper) -> None:
    """Urgency follows what somebody loses by waiting"""
    assert keeper.reconciler.urgency(KEY) is Urgency.BILLED
    await keeper.reconciler.session_known(KEY)
    await keeper.reconciler.set_balance(STUDENT, 100 * RATE)
    await keeper.at(99)
    assert keeper.reconciler.urgency(KEY) is Urgency.BILLED
    await keeper.at(100)
    assert keeper.reconciler.urgency(KEY) is Urgency.UNPAID
    await keeper.start(SessionKey(2, STUDENT, OTHER_TUTOR), 100)
    assert keeper.reconciler.urgency(KEY) is Urgency.CLAIM


async def test_urgency__another_of_the_students_sessions_ended__the_whole_claim_until_a_new_start(
    keeper: Keeper,
) -> None:
    """the whole claim where the student has another session or can withdraw"""
    other = SessionKey(2, STUDENT, OTHER_TUTOR)
    await keeper.start(other, 10)
    await keeper.end(other, 20, final=True)
    await keeper.reconciler.forget_final()
    assert keeper.reconciler.about(other) is None
    assert keeper.reconciler.urgency(KEY) is Urgency.CLAIM
    await keeper.restart()
    assert keeper.reconciler.urgency(KEY) is Urgency.CLAIM


async def test_settle_all__several_and_one_that_is_over__expected_together_then_settled_each(keeper: Keeper) -> None:
    """ "stored together, then decided together"."""
    other = SessionKey(2, OTHER_STUDENT, OTHER_TUTOR)
    await keeper.start(other, 10)
    assert await keeper.reconciler.settle_all([(1, {}), (2, {}), (7, {})]) == [KEY, other, None]
    assert keeper.effects.expected == [[KEY, other]]
    assert [key for _, key in keeper.effects.settles] == [KEY, other]


async def test_settle__about_to_be_stored__looked_at_before_and_asked_for_after(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns at once, or as soon as the chain was asked: it works on its answer while the decision is stored."""
    stored: list[int] = []

    async def expect(_: Any) -> None:
        stored.append(len(keeper.rows(ActionRow)))

    monkeypatch.setattr(keeper.effects, "expect", expect)
    await keeper.reconciler.settle(1, {})
    assert stored == [0]
    assert [key for _, key in keeper.effects.settles] == [KEY]


@pytest.mark.parametrize(("outcome", "pause_s"), [("over", 3), ("lost", 3), ("refused", 30)])
async def test_outcome__nothing_changed__tried_again_after_a_pause(
    keeper: Keeper, outcome: str, pause_s: float
) -> None:
    await keeper.reconciler.settle(1, {})
    await report(keeper, outcome)
    await keeper.at(pause_s - 0.001)
    assert len(keeper.effects.settles) == 1
    await keeper.at(pause_s)
    assert len(keeper.effects.settles) == 2


async def test_paying__participants_own_end_is_in_the_pool__waited_for_once(keeper: Keeper) -> None:
    """a participant is paying: an `endSession` of theirs that the node knows | once, + PAY_WAIT_S"""
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    assert keeper.reconciler.may_pay_wait(KEY)
    await keeper.reconciler.paying(KEY, STUDENT)
    await report(keeper, "waiting", "paying")
    await keeper.at(204)
    assert len(keeper.effects.settles) == 1
    assert not keeper.reconciler.may_pay_wait(KEY)
    assert not keeper.reconciler.still_due(KEY)
    await keeper.at(205)
    assert len(keeper.effects.settles) == 2
    assert keeper.reconciler.still_due(KEY)


async def test_orphan__never_heard_of__one_alert_also_after_a_restart(tmp_path: Path) -> None:
    """orphan: never heard of off chain, older than `ORPHAN_AFTER_S` | alert"""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.start(KEY)
    keeper.now = T0 + 7_200_000
    await keeper.reconciler.tick()
    assert [name for name, _ in keeper.effects.alerts] == ["alert.orphan"]
    await keeper.restart()
    await keeper.reconciler.tick()
    assert keeper.effects.alerts == []
    assert len(keeper.rows(AlertRow)) == 1
    keeper.writer.close()


async def test_balance__used_up__warned_and_ended_when_predicted(keeper: Keeper) -> None:
    """predicted to the second per student, over all their active sessions together"""
    await keeper.reconciler.session_known(KEY)
    await keeper.reconciler.set_balance(STUDENT, 1_000 * RATE)
    assert keeper.session().drained_ms == T0 + 1_000_000
    second = SessionKey(2, STUDENT, OTHER_TUTOR)
    await keeper.start(second, 0)
    await keeper.reconciler.session_known(second)
    assert keeper.session(second).drained_ms == keeper.session().drained_ms == T0 + 500_000
    await keeper.at(799)
    assert keeper.effects.settles == []
    await keeper.at(800)
    assert {key for _, key in keeper.effects.settles} == {KEY, second}
    assert [row.reason for row in keeper.rows(DecisionRow) if row.action == "end"] == ["drained", "drained"]


async def test_settled__by_the_backend__reason_says_so(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await deliver(keeper)
    await keeper.end(KEY, 110)
    await keeper.ender_read(KEY, "owner")
    assert keeper.settlement().reason == "by-backend"
