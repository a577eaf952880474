"""Work per event and per tick: the same with ten times the sessions; and a feed's return, a few sessions at a time.

Work is counted, not timed: the steps of bytecode that the keeper's own modules run in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import bot
from bot import plans
from bot.domain.facts import Kind, SessionKey, Source
from bot.domain.identity import Identity
from bot.ops.self_report import SelfReport
from bot.reconciler import decisions, intake, sweep
from bot.store import chain_details, chain_rows
from bot.store.chain_rows import Rows, Start
from bot.store.tables import DecisionRow
from tests.support.keeper import NOT_FINAL, RATE, T0_S, TOKEN, Keeper

OURS = str(Path(bot.__file__).parent)
FEW, MANY = 30, 300


def key_of(number: int) -> SessionKey:
    return SessionKey(number, f"0x{10**9 + number:040d}", f"0x{2 * 10**9 + number:040d}")


async def crowd(path: Path, sessions: int) -> Keeper:
    """A keeper with so many live sessions, each with a room, some heartbeats, a rate and a balance."""
    keeper = Keeper(path)
    keys = [key_of(number) for number in range(1, sessions + 1)]
    starts = [Start(*key, 0, 1, T0_S) for key in keys]
    await keeper.writer(lambda tx: chain_rows.append(tx, Rows(starts=starts), NOT_FINAL))
    known = [chain_details.Details(*key, 0, T0_S, RATE, TOKEN) for key in keys]
    await keeper.writer(lambda tx: chain_details.fill_details(tx, known))
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    for key in keys:
        room = {"room": f"req_{key.session_id}", "student": key.student, "tutor": key.tutor}
        await keeper.say(keeper.hint(Kind.READY, **room))
        await keeper.reconciler.set_balance(key.student, 10**9)
    for seconds in (10, 25, 41):
        await keeper.at(seconds)
        beats = [keeper.hint(Kind.HEARTBEAT, room=f"req_{key.session_id}") for key in keys]
        await keeper.reconciler.take_all(beats)
    await keeper.reconciler.forget_final()  # each hint's fingerprint is dropped once
    return keeper


@pytest.fixture
async def crowds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Keeper, Keeper]]:
    """The same with few and with many sessions; few, too, are more than what is done in one go."""
    monkeypatch.setattr(sweep, "SLICE", 20)
    monkeypatch.setattr(intake, "EXPIRE_AT_A_TIME", 20)
    monkeypatch.setattr(plans, "MAX_TOLD", 5)
    few, many = await crowd(tmp_path / "few.db", FEW), await crowd(tmp_path / "many.db", MANY)
    yield few, many
    for keeper in (few, many):
        keeper.writer.close()
        keeper.database.dispose()


async def steps(work: Awaitable[Any]) -> int:
    """How many steps of bytecode in our own modules this takes, in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await asyncio.ensure_future(work)
    finally:
        sys.settrace(before)
    return count


class Head:
    """A follower that is at the head."""

    head, lag_blocks = None, 0

    def __init__(self) -> None:
        self.at_head = asyncio.Event()


def report(keeper: Keeper) -> Awaitable[Any]:
    return SelfReport(keeper.writer, Head(), keeper.reconciler, dict, lambda: keeper.now).write()  # type: ignore[arg-type]


async def one_deadline(keeper: Keeper) -> None:
    """The tick of one session whose silence is due to be looked at."""
    memory = keeper.reconciler.memory
    memory.deadlines.set(key_of(7), keeper.now)
    await keeper.reconciler.tick()


async def plans_after_a_connection(keeper: Keeper) -> None:
    """Telling the pages of the newest few."""
    said: list[int] = []
    enough = asyncio.Event()

    async def tell(message: dict[str, Any]) -> None:
        said.append(message["sessionId"])
        if len(said) == plans.MAX_TOLD:
            enough.set()

    identity = Identity(1, "0x00", TOKEN, 1, "0x01")
    telling = plans.Plans(keeper.reconciler, keeper.writer, identity, tell, lambda: keeper.now)
    telling.connected()
    running = asyncio.ensure_future(telling.run())
    await enough.wait()
    running.cancel()
    count = len(keeper.reconciler.memory.live)
    assert said == list(range(count, count - plans.MAX_TOLD, -1))


WORK: dict[str, Callable[[Keeper], Coroutine[Any, Any, Any]]] = {
    "heartbeat": lambda it: it.reconciler.take_all([it.hint(Kind.HEARTBEAT, room="req_7")]),
    "end hint": lambda it: it.reconciler.take_all([it.hint(Kind.ENDED, room="req_7")]),
    "post": lambda it: it.say(it.hint(Kind.CONNECTED, Source.WEBHOOK, room="req_7")),
    "unknown room": lambda it: it.reconciler.take_all([it.hint(Kind.READY, room="req_new")]),
    "deadline": one_deadline,
    "idle tick": lambda it: it.reconciler.tick(),
    "pulse": lambda it: it.reconciler.pulse(),
    "housekeeping": lambda it: it.reconciler.forget_final(),
    "status": report,
    "balance": lambda it: it.reconciler.set_balance(key_of(7).student, 10**8),
    "start": lambda it: it.start(key_of(1_000), 41),
    "end": lambda it: it.end(key_of(7), 41),
    "order": lambda it: it.reconciler.settle(7, {"by": "operator"}),
    "plans": plans_after_a_connection,
    "feed lost": lambda it: it.reconciler.socket_feed(False),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
async def test_work__ten_times_the_sessions__takes_as_many_steps(
    crowds: tuple[Keeper, Keeper], work: Callable[[Keeper], Coroutine[Any, Any, Any]]
) -> None:
    """Work per hint and per tick doesn't depend on how many sessions there are."""
    few, many = [await steps(work(keeper)) for keeper in crowds]
    assert 0 < many <= few * 1.05 + 50, (few, many)


async def test_steps__a_walk_over_all_sessions__is_seen(crowds: tuple[Keeper, Keeper]) -> None:
    """What the test above counts on."""

    async def walk(keeper: Keeper) -> None:
        list(keeper.reconciler.active())

    few, many = [await steps(walk(keeper)) for keeper in crowds]
    assert many > 5 * few


# A feed's return -----------------------------------------------------------------------------------------------------


class Decided:
    """Counts decisions."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        decide = decisions.decide

        def counted(*args: Any) -> Any:
            self.count += 1
            return decide(*args)

        patch.setattr(decisions, "decide", counted)

    def since(self) -> int:
        count, self.count = self.count, 0
        return count


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Decided:
    return Decided(monkeypatch)


async def test_feed_returns__many_sessions__a_turn_looks_at_few_and_all_get_theirs(
    crowds: tuple[Keeper, Keeper], decided: Decided
) -> None:
    """a turn looks at SLICE sessions at most, however many there are"""
    keeper = crowds[1]
    await keeper.reconciler.socket_feed(False)
    keeper.now += 1_000
    decided.since()
    await keeper.reconciler.socket_feed(True)
    turns = [decided.since()]
    while keeper.reconciler.next_tick_ms() == keeper.now:
        await keeper.reconciler.tick()
        turns.append(decided.since())
    assert max(turns) <= sweep.SLICE
    assert sum(turns) == MANY
    silent_ms = keeper.now + keeper.reconciler.policy.heartbeat_timeout_ms
    assert {keeper.reconciler.deadlines.get(key_of(number)) for number in range(1, MANY + 1)} == {silent_ms}


async def test_feed_returns__a_hint_comes_meanwhile__is_taken_between_two_turns(
    crowds: tuple[Keeper, Keeper], decided: Decided
) -> None:
    """between two turns hints, deadlines and the chain get theirs"""
    keeper = crowds[1]
    await keeper.reconciler.socket_feed(False)

    async def ticks() -> int:
        await keeper.reconciler.socket_feed(True)
        turns = 1
        while keeper.reconciler.next_tick_ms() == keeper.now:
            await asyncio.sleep(0)  # as the timer does
            await keeper.reconciler.tick()
            turns += 1
        return turns

    sweeping = asyncio.ensure_future(ticks())
    await asyncio.sleep(0)
    await keeper.reconciler.take_all([keeper.hint(Kind.ENDED, room=f"req_{MANY}")])
    assert not sweeping.done()
    assert [key for _, key, _ in keeper.effects.nudges] == [key_of(MANY)]
    assert await sweeping == -(-MANY // sweep.SLICE)


async def test_feed_returns__sessions_not_yet_looked_at_fall_due__nothing_is_done_on_what_the_feed_was(
    crowds: tuple[Keeper, Keeper], decided: Decided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is decided on in the world as it is at its turn, so nothing is ended on what a feed was before."""
    monkeypatch.setattr(sweep, "SLICE", 1)
    keeper, memory = crowds[1], crowds[1].reconciler.memory
    await keeper.reconciler.socket_feed(False)
    await keeper.at(90)
    await keeper.reconciler.socket_feed(True)
    stale_ms = keeper.now + 1
    for number in range(1, MANY + 1):
        memory.deadlines.set(key_of(number), stale_ms)  # as the feed was, silence since 41 s is long enough
    await keeper.at(149)
    assert (keeper.effects.nudges, keeper.effects.settles) == ([], [])
    assert {row.action for row in keeper.rows(DecisionRow)} <= {"wait"}
    await keeper.at(150.5)
    assert len(keeper.effects.nudges) == MANY


async def test_feed_returns__again_and_again__every_session_gets_its_turn(
    crowds: tuple[Keeper, Keeper], decided: Decided
) -> None:
    """A feed that comes back again and again doesn't keep any session from its turn."""
    keeper = crowds[1]
    for number in range(1, MANY + 1):
        keeper.reconciler.deadlines.set(key_of(number), None)
    for _ in range(MANY // sweep.SLICE + 1):
        await keeper.reconciler.socket_feed(False)
        await keeper.reconciler.socket_feed(True)
    assert all(keeper.reconciler.deadlines.get(key_of(number)) for number in range(1, MANY + 1))
