"""The reconciler on a real database: facts stored first, decisions stored before effects, and equal after restarts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import Kind, Role, SessionKey, Source
from bot.domain.urgency import Urgency
from bot.ops.timer import keep_deadlines
from bot.store.tables import ActionRow, AlertRow, DecisionRow, FactRow, Room, TxRow
from tests.support.keeper import KEY, OTHER, RATE, T0_S, Keeper, keeper
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, STUDENT, T0, TUTOR

__all__ = ["keeper"]

# Facts first ---------------------------------------------------------------------------------------------------------


async def test_store__hint__is_stored_before_anything_acts_on_it(keeper: Keeper) -> None:
    """Whatever arrives becomes an immutable fact, stored before anything acts on it."""
    running = asyncio.create_task(keeper.reconciler.run())
    seen: list[int] = []
    nudge = keeper.effects.nudge

    def look(*args: Any) -> None:
        seen.append(len([row for row in keeper.rows(FactRow) if row.kind == "ended"]))
        nudge(*args)

    keeper.effects.nudge = look  # type: ignore[method-assign]
    await keeper.reconciler.store(keeper.hint(Kind.ENDED))
    assert len([row for row in keeper.rows(FactRow) if row.kind == "ended"]) == 1
    assert seen == [1]
    running.cancel()


async def test_store__database_fails__the_caller_hears_it(keeper: Keeper) -> None:
    running = asyncio.create_task(keeper.reconciler.run())
    keeper.database.dispose()
    await keeper.writer(lambda tx: tx.connection().exec_driver_sql("DROP TABLE facts"))
    with pytest.raises(ConnectionError):
        await keeper.reconciler.store(keeper.hint(Kind.ENDED))
    with contextlib.suppress(Exception):
        await running


async def test_take__equal_content_within_five_seconds__one_hint(keeper: Keeper) -> None:
    """equal content within five seconds is one hint, later it is a new one"""
    before = len(keeper.rows(FactRow))
    lost = lambda: keeper.hint(Kind.DISCONNECTED, role=Role.STUDENT, payload={"n": 1})  # noqa: E731
    await keeper.say(lost(), lost())
    await keeper.at(4.999)
    await keeper.say(lost())
    assert len(keeper.rows(FactRow)) == before + 1
    await keeper.at(5)
    await keeper.say(lost())
    assert len(keeper.rows(FactRow)) == before + 2


async def test_outcome__two_sessions_say_the_same_in_one_millisecond__both_are_stored(keeper: Keeper) -> None:
    await keeper.start(OTHER)
    said = {"outcome": "withdrawn", "reason": "no longer due", "tx_hash": None}
    for key in (KEY, OTHER):
        await keeper.reconciler.outcome(key, Kind.SETTLEMENT, dict(said), None)
    for _ in range(2):
        assert await keeper.reconciler.settle(1, {"by": "operator"}) == KEY
    assert len([row for row in keeper.rows(FactRow) if row.kind == "settlement"]) == 2


async def test_take__before_load__stored_and_linked_afterwards(tmp_path: Path) -> None:
    """Hints that come earlier are stored and wait."""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.start(KEY, tell=False)
    await keeper.say(keeper.hint(Kind.ENDED, student=STUDENT, tutor=TUTOR))
    assert keeper.effects.nudges == []
    await keeper.reconciler.load(0)
    assert [key for _, key, _ in keeper.effects.nudges] == [KEY]
    assert keeper.rows(FactRow)[0].session_key == str(KEY)
    keeper.writer.close()


# Linking late --------------------------------------------------------------------------------------------------------


async def test_chain_changed__room_announced_before_the_start__its_words_count(keeper: Keeper) -> None:
    await keeper.say(keeper.hint(Kind.READY, room="req_2", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    await keeper.say(keeper.hint(Kind.CONNECTED, room="req_2", role=Role.STUDENT))
    await keeper.at(3)
    await keeper.start(OTHER, 3)
    session = keeper.session(OTHER)
    assert (session.heard, session.life_ms) == (True, T0)
    assert keeper.reconciler.room_of(OTHER) == "req_2"
    assert {row.session_key for row in keeper.rows(FactRow) if row.room == "req_2"} == {str(OTHER)}


async def test_take__late_end_of_the_last_lesson__the_next_one_is_untouched(keeper: Keeper) -> None:
    """A late end of an old room carries the new chain id with the old student's address."""
    await keeper.end(KEY, 10)
    following = SessionKey(3, OTHER_STUDENT, TUTOR)
    await keeper.start(following, 11)
    late = {"session_id": 3, "student": STUDENT, "tutor": TUTOR}
    await keeper.say(keeper.hint(Kind.ENDED, room="3", **late), keeper.hint(Kind.ENDED, room="req_1"))
    assert keeper.session(following).ended_hint is None
    await keeper.say(keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room="3"))
    assert keeper.session(following).beats.count == 1


async def test_take__late_end_of_the_same_pairs_final_lesson__the_next_one_is_untouched_after_a_restart(
    keeper: Keeper,
) -> None:
    await keeper.end(KEY, 10, final=True)
    following = SessionKey(3, STUDENT, TUTOR)
    await keeper.start(following, 11)
    for again in (False, True):
        if again:
            await keeper.restart()
        await keeper.reconciler.forget_final()
        assert keeper.reconciler.about(KEY) is None
        await keeper.at(20 + 10 * again)
        await keeper.say(keeper.hint(Kind.ENDED, room="req_1", student=STUDENT, tutor=TUTOR))
        assert keeper.session(following).ended_hint is None


async def test_take__room_linked_by_anybodys_word__trusted_words_do_not_follow(keeper: Keeper) -> None:
    """what anybody could have sent makes the keeper look and nudge, never sign"""
    forged = {"student": STUDENT, "tutor": TUTOR}
    await keeper.say(keeper.hint(Kind.READY, Source.OPEN_WEBHOOK, room="req_9", **forged))
    assert "req_9" in keeper.reconciler.memory.book.rooms_of(KEY)
    await keeper.say(keeper.hint(Kind.ENDED, Source.WEBHOOK, room="req_9"))
    assert keeper.session().ended_hint is None
    # The backend says whose room it really is: it leaves, and waits for that session.
    await keeper.say(keeper.hint(Kind.READY, room="req_9", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    await keeper.start(OTHER, 0)
    assert keeper.reconciler.room_of(OTHER) == "req_9"


async def test_forget_final__room_that_nobody_began__expires_visibly(keeper: Keeper) -> None:
    """What cannot be linked waits for its `SessionStarted` and expires, visibly."""
    await keeper.say(keeper.hint(Kind.READY, room="ghost", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    keeper.now += 7_200_001
    await keeper.reconciler.forget_final()
    states = {row.room: row.state for row in keeper.rows(Room)}
    assert states == {"req_1": "linked", "ghost": "expired"}
    assert "ghost" not in keeper.reconciler.memory.book.rooms
    assert keeper.reconciler.memory.book.waiting == {}


# From hint to settlement ---------------------------------------------------------------------------------------------


async def deliver(keeper: Keeper, *, delivered: bool = True) -> None:
    action, key, payload = keeper.effects.nudges[-1]
    outcome = "delivered" if delivered else "undelivered"
    said = {"mark": payload["mark"], "ask": payload["ask"], "outcome": outcome, "delivered": delivered}
    await keeper.reconciler.outcome(key, Kind.NUDGE, said, action)


async def report(keeper: Keeper, outcome: str, reason: str | None = None) -> None:
    action, key = keeper.effects.settles[-1]
    said = {"outcome": outcome, "reason": reason, "tx_hash": None}
    await keeper.reconciler.outcome(key, Kind.SETTLEMENT, said, action)


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


# Pause, hold ---------------------------------------------------------------------------------------------------------


async def test_set_paused__due_meanwhile__held_and_settled_on_resume(keeper: Keeper) -> None:
    await keeper.reconciler.set_paused(True)
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(500)
    assert keeper.effects.settles == []
    assert keeper.rows(DecisionRow)[-1].inputs["hold"] == "paused"
    await keeper.reconciler.set_paused(False)
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_watching__everything_due__nothing_is_settled(keeper: Keeper) -> None:
    keeper.reconciler.conditions.watching = True
    await keeper.reconciler.settle(1, {})
    assert keeper.effects.settles == []


# Restarting ----------------------------------------------------------------------------------------------------------


async def lived(keeper: Keeper, name: str) -> None:
    beat = lambda: keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK)  # noqa: E731
    if name == "hang-up":
        await keeper.beats(100)
        await keeper.say(keeper.hint(Kind.ENDED))
        await deliver(keeper)
    if name == "lost, then beats":
        await keeper.beats(50)
        await keeper.say(keeper.hint(Kind.DISCONNECTED, Source.WEBHOOK, can_return=True))
        await keeper.at(52)
        await keeper.say(beat())
    if name == "timeout, then beats":
        await keeper.beats(50)
        await keeper.say(keeper.hint(Kind.TIMEOUT))
        await keeper.at(52)
        await keeper.say(beat())
    if name == "lost for good":
        await keeper.beats(50)
        await keeper.say(keeper.hint(Kind.DISCONNECTED, Source.WEBHOOK, role=Role.TUTOR, can_return=True))
        await keeper.at(60)
    if name == "contradiction":
        await keeper.say(keeper.hint(Kind.ENDED))
        await deliver(keeper)
        await keeper.beats(100)
        await deliver(keeper)
    if name == "failed":
        await keeper.reconciler.settle(1, {})
        await report(keeper, "failed", "x")
    if name == "two rooms":
        await keeper.beats(40)
        await keeper.say(keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room="1"), keeper.hint(Kind.ENDED, room="1"))
        await deliver(keeper)


@pytest.mark.parametrize(
    "name",
    ["hang-up", "lost, then beats", "timeout, then beats", "lost for good", "contradiction", "failed", "two rooms"],
)
async def test_load__new_process_on_the_same_database__equal_session(keeper: Keeper, name: str) -> None:
    """A crash at any point resumes by reading."""
    await lived(keeper, name)
    before = keeper.session()
    await keeper.restart()
    assert keeper.session() == before


async def test_load__timeout_withdrawn_by_a_heartbeat_before_the_restart__not_ended(keeper: Keeper) -> None:
    await lived(keeper, "timeout, then beats")
    await keeper.restart()
    await keeper.at(100)
    assert keeper.effects.settles == []


async def test_load__nudge_and_settlement_open__carried_on_with_the_same_actions(keeper: Keeper) -> None:
    """A crash at any point resumes by reading."""
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    nudges, settles = keeper.effects.nudges, keeper.effects.settles
    await keeper.restart()
    assert (keeper.effects.nudges, keeper.effects.settles) == (nudges, settles)
    assert [row.kind for row in keeper.rows(ActionRow)] == ["nudge", "nudge", "settle"]


async def test_load__ended_while_the_keeper_was_down__action_closed_and_settlement_completed(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    await keeper.end(KEY, 161, tell=False)
    await keeper.restart()
    assert keeper.effects.settles == []
    assert {row.state for row in keeper.rows(ActionRow)} == {"dropped"}
    assert keeper.settlement().call_ended_at == T0_S + 100


async def test_load__due_while_the_keeper_was_down__settled_at_once(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await deliver(keeper)
    keeper.now = T0 + 4_000_000
    await keeper.restart()
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_load__silent_while_the_keeper_was_down__silence_counts_from_the_restart(keeper: Keeper) -> None:
    """When a feed is down, or the keeper itself was, what didn't arrive proves nothing"""
    await keeper.beats(100)
    keeper.now = T0 + 400_000
    await keeper.restart()
    await keeper.at(699.999)
    assert keeper.effects.settles == []
    await keeper.at(700)  # SOLE_ROOM_TIMEOUT_S after the restart: its clock started afresh
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_load__heartbeats_before_the_crash__are_remembered_coalesced(keeper: Keeper) -> None:
    """Heartbeats are coalesced: the session remembers the newest, they are not a row each"""
    before = len(keeper.rows(FactRow))
    await keeper.beats(300)
    assert len(keeper.rows(FactRow)) == before
    await keeper.restart()
    beats = keeper.session().beats
    assert (beats.count, beats.first_ms, beats.last_ms) == (31, T0, T0 + 300_000)


# Stalls and feeds ----------------------------------------------------------------------------------------------------


async def test_pulse__stall_with_live_lessons__none_is_ended(keeper: Keeper) -> None:
    """a stall over 5 s is an outage of every feed. Shown by SIGSTOP for five minutes with live lessons: none ended."""
    await keeper.start(OTHER)
    await keeper.say(keeper.hint(Kind.READY, room="req_2", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    for second in range(0, 101, 10):
        await keeper.at(second)
        await keeper.say(*[keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room) for room in ("req_1", "req_2")])
    keeper.now += 300_000
    await keeper.reconciler.tick()
    assert not keeper.reconciler.still_due(KEY)
    for second in range(401, 700, 10):
        await keeper.at(second)
        await keeper.say(*[keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room) for room in ("req_1", "req_2")])
    assert keeper.effects.settles == []
    assert keeper.effects.nudges == []


async def test_silence__two_rooms_one_goes_silent__that_one_is_ended(keeper: Keeper) -> None:
    await keeper.start(OTHER)
    await keeper.say(keeper.hint(Kind.READY, room="req_2", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    for second in range(0, 201, 10):
        await keeper.at(second)
        rooms = ("req_1", "req_2") if second <= 100 else ("req_2",)
        await keeper.say(*[keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room) for room in rooms])
    assert [key for _, key in keeper.effects.settles] == [KEY]
    assert keeper.rows(DecisionRow)[-1].at_ms == T0 + 190_000


async def test_silence__another_room_begins_to_beat__the_silent_one_is_no_longer_the_only_one(keeper: Keeper) -> None:
    """with a single room and no canary, silence nudges, and ends only after SOLE_ROOM_TIMEOUT_S"""
    await keeper.beats(100)
    await keeper.start(OTHER, 100)
    await keeper.say(keeper.hint(Kind.READY, room="req_2", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    await keeper.at(130)
    await keeper.beats(200, "req_2")
    assert [key for _, key in keeper.effects.settles] == [KEY]
    assert [row.at_ms for row in keeper.rows(DecisionRow) if row.action == "end"] == [T0 + 190_000]


async def test_silence__the_other_room_has_been_silent_for_long__the_only_one_left_counts_as_the_only_one(
    keeper: Keeper,
) -> None:
    """with a single room and no canary, silence nudges, and ends only after SOLE_ROOM_TIMEOUT_S"""
    await keeper.reconciler.set_paused(True)
    await keeper.start(OTHER)
    await keeper.say(keeper.hint(Kind.READY, room="req_2", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    await keeper.say(keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, "req_2"))
    await keeper.beats(200)
    await keeper.reconciler.set_paused(False)
    assert keeper.effects.settles == []
    await keeper.at(499)
    assert keeper.effects.settles == []
    await keeper.at(500)
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_silence__both_rooms_fall_silent_together__the_feed_is_down_and_none_is_ended(keeper: Keeper) -> None:
    """When a feed is down … what didn't arrive proves nothing"""
    await keeper.start(OTHER)
    await keeper.say(keeper.hint(Kind.READY, room="req_2", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
    for second in range(0, 101, 10):
        await keeper.at(second)
        await keeper.say(*[keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room) for room in ("req_1", "req_2")])
    await keeper.at(2_000)
    assert keeper.effects.settles == []


async def test_socket_feed__lost_and_back__waiting_silence_counts_from_the_return(keeper: Keeper) -> None:
    for second in range(0, 61, 10):
        await keeper.at(second)
        await keeper.say(keeper.hint(Kind.HEARTBEAT))
    await keeper.reconciler.socket_feed(False)
    await keeper.at(500)
    assert keeper.effects.settles == []
    await keeper.reconciler.socket_feed(True)
    await keeper.at(589.999)
    assert keeper.effects.settles == []
    await keeper.at(590)
    assert [key for _, key in keeper.effects.settles] == [KEY]


# Reorgs --------------------------------------------------------------------------------------------------------------


async def test_reorg__start_taken_and_its_id_given_to_others__nothing_carries_over(keeper: Keeper) -> None:
    """a reorg can give the id to others. That is then a new session, to which no hint, link, intent or decision of the
    old one carries over."""
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    assert len(keeper.effects.settles) == 1
    taken = await keeper.reorg(0)
    assert taken == (KEY,)
    theirs = SessionKey(1, OTHER_STUDENT, OTHER_TUTOR)
    await keeper.start(theirs, 0, tell=False)
    await keeper.reconciler.chain_changed(started=[theirs], ended=[], retracted=list(taken))
    assert keeper.reconciler.about(KEY) is None
    session = keeper.session(theirs)
    assert (session.ended_hint, session.heard, session.nudged) == (None, False, {})
    await keeper.say(keeper.hint(Kind.ENDED, room="req_1"))
    assert session.ended_hint is None
    assert not keeper.reconciler.still_due(KEY)
    await report(keeper, "withdrawn")
    await keeper.restart()
    assert keeper.session(theirs).ended_hint is None
    assert keeper.effects.settles == []


async def test_reorg__start_mined_again_in_another_block__its_words_are_folded_anew(keeper: Keeper) -> None:
    """on a reorg retracting … exactly the logs taken away and folding their sessions anew"""
    await keeper.beats(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await deliver(keeper)
    before = keeper.session()
    taken = await keeper.reorg(0)
    await keeper.start(KEY, 0, tell=False)
    await keeper.reconciler.chain_changed(started=[KEY], ended=[], retracted=list(taken))
    assert keeper.session() == before
    assert keeper.reconciler.room_of(KEY) == "req_1"


async def test_reorg__start_mined_again_while_its_settlement_is_open__the_same_action_goes_on(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    first = keeper.effects.settles[-1]
    taken = await keeper.reorg(0)
    await keeper.start(KEY, 0, tell=False)
    await keeper.reconciler.chain_changed(started=[KEY], ended=[], retracted=list(taken))
    assert keeper.effects.settles[-1] == first
    await report(keeper, "settled")
    assert [row.state for row in keeper.rows(ActionRow) if row.kind == "settle"] == ["done"]


async def test_settled__by_the_backend__reason_says_so(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await deliver(keeper)
    await keeper.end(KEY, 110)
    await keeper.ender_read(KEY, "owner")
    assert keeper.settlement().reason == "by-backend"


async def test_reorg__end_taken__settled_again(keeper: Keeper) -> None:
    await keeper.at(100)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(160)
    await report(keeper, "settled")
    await keeper.end(KEY, 161)
    taken = await keeper.reorg(keeper.block - 1)
    await keeper.reconciler.chain_changed(started=[], ended=[], retracted=list(taken))
    assert len(keeper.effects.settles) == 2
    assert not keeper.session().ended


# Memory --------------------------------------------------------------------------------------------------------------


async def test_forget_final__many_lessons_over__memory_is_given_back(keeper: Keeper) -> None:
    for number in range(10, 60):
        key = SessionKey(number, OTHER_STUDENT, OTHER_TUTOR)
        await keeper.start(key)
        await keeper.say(keeper.hint(Kind.READY, room=f"req_{number}", student=OTHER_STUDENT, tutor=OTHER_TUTOR))
        await keeper.say(keeper.hint(Kind.HEARTBEAT, Source.WEBHOOK, room=f"req_{number}"))
        await keeper.end(key, 5, final=True)
    keeper.now += 7_300_000
    await keeper.reconciler.forget_final()
    reconciler, book = keeper.reconciler, keeper.reconciler.memory.book
    assert set(reconciler.memory.live) == {KEY}
    assert set(book.rooms) == {"req_1"}
    assert (set(book.by_id), set(book.by_tutor), book.waiting) == ({1}, {TUTOR}, {})
    assert (set(reconciler.memory.by_student), reconciler._intake._recent) == ({STUDENT}, {})
    assert len(reconciler.memory.witnesses) == 0
    assert len(reconciler.deadlines) == 0


# The earliest deadline -----------------------------------------------------------------------------------------------


async def test_keep_deadlines__nothing_else_happens_in_the_loop__ticks_when_due(keeper: Keeper) -> None:
    """APScheduler holds one job, the earliest deadline … no deadline is lost"""
    begin_s = time.monotonic()
    keeper.reconciler.memory.clock = lambda: T0 + round((time.monotonic() - begin_s) * 1000)
    ticks: list[float] = []
    tick = keeper.reconciler.tick

    async def noted() -> None:
        ticks.append(time.monotonic() - begin_s)
        await tick()

    keeper.reconciler.tick = noted  # type: ignore[method-assign]
    keeper.reconciler.deadlines.set(KEY, time.time_ns() // 1_000_000 + 300)
    running = asyncio.create_task(keep_deadlines(keeper.reconciler, lambda: time.time_ns() // 1_000_000))
    await asyncio.sleep(2)
    running.cancel()
    assert ticks
    assert 0.2 < ticks[0] < 1.5


async def test_keep_deadlines__moved_again_while_one_rings__none_is_left_out(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """however late, no deadline is lost"""
    now = time.time_ns() // 1_000_000
    running = asyncio.create_task(keep_deadlines(keeper.reconciler, lambda: time.time_ns() // 1_000_000))
    for turn in range(200):
        keeper.reconciler.deadlines.set(KEY, now - 1 - turn)
        keeper.reconciler._decisions.on_deadline()
        await asyncio.sleep(0)
    running.cancel()
    assert [line for line in caplog.messages if "skipped" in line] == []


async def test_reorg__gives_a_session_back_only_later__what_was_said_of_it_counts(keeper: Keeper) -> None:
    """a session touched by a reorg is read and folded anew"""
    await keeper.say(keeper.hint(Kind.ENDED))
    before = keeper.session()
    taken = await keeper.reorg(0)
    await keeper.reconciler.chain_changed(started=[], ended=[], retracted=taken)
    assert keeper.reconciler.about(KEY) is None
    await keeper.at(2)
    await keeper.start(KEY)
    assert keeper.session().ended_hint == before.ended_hint
    assert list(keeper.reconciler.rooms_of(KEY)) == ["req_1"]
    await keeper.at(100)
    assert [key for _, key in keeper.effects.settles] == [KEY]
