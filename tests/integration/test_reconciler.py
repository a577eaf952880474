"""The reconciler on a real database: facts first, late links, pauses, silence, memory, deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import Kind, Role, SessionKey, Source
from bot.ops.timer import keep_deadlines
from bot.store.tables import DecisionRow, FactRow, Room
from tests.support.keeper import KEY, OTHER, Keeper, keeper
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
