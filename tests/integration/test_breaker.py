"""Many lessons that seem to end at once, on a real database: held, told, shown, released, and remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from bot.domain.facts import Kind, SessionKey, Source
from bot.ops.inbox import Inbox
from bot.store import breaker
from bot.store.tables import AlertRow, DecisionRow, FactRow, InboxRow
from tests.support.keeper import RATE, Keeper
from tests.support.sessions import T0, address

COUNT = 24
KEYS = [SessionKey(number, address(0x1000 + number), address(0x2000 + number)) for number in range(1, COUNT + 1)]


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    """Two dozen lessons, each with its room and heartbeats until 100 s."""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    for key in KEYS:
        await keeper.start(key)
        await keeper.say(keeper.hint(Kind.READY, room=room(key), student=key.student, tutor=key.tutor))
    yield keeper
    keeper.writer.close()
    keeper.database.dispose()


def room(key: SessionKey) -> str:
    return f"req_{key.session_id}"


async def reported(keeper: Keeper, keys: list[SessionKey], at_s: float = 100, n: int = 0) -> None:
    """The backend says that all of these are over."""
    await keeper.at(at_s)
    await keeper.say(*[keeper.hint(Kind.ENDED, room=room(key), payload={"n": n}) for key in keys])


def settled(keeper: Keeper) -> set[SessionKey]:
    return {key for _, key in keeper.effects.settles}


def alerts(keeper: Keeper) -> list[str]:
    return [row.text for row in keeper.rows(AlertRow) if row.name == breaker.ALERT]


@pytest.mark.provokes("alert.mass-end")
async def test_backend_says_that_all_are_over__nothing_is_ended_and_an_operator_is_told_once(keeper: Keeper) -> None:
    """the mass-end breaker trips only when both MASS_END_COUNT and MASS_END_SHARE are exceeded within 30 s"""
    await reported(keeper, KEYS)
    await keeper.at(200)
    assert settled(keeper) == set()
    [text] = alerts(keeper)
    assert "24 of 24 active sessions" in text
    assert [name for name, _ in keeper.effects.alerts] == [breaker.ALERT]
    held = {row.session_key: row for row in keeper.rows(DecisionRow) if row.action == "hold"}
    assert len(held) == COUNT
    assert {row.inputs["hold"] for row in held.values()} == {"mass-end"}
    assert keeper.reconciler.mass_end.about(keeper.now)["held"] == COUNT


@pytest.mark.parametrize("count", [10, 12])
async def test_half_of_them_or_few_are_over__all_are_ended(keeper: Keeper, count: int) -> None:
    await reported(keeper, KEYS[:count])
    await keeper.at(200)
    assert settled(keeper) == set(KEYS[:count])
    assert alerts(keeper) == []


async def test_spread_over_minutes__all_are_ended(keeper: Keeper) -> None:
    for number, key in enumerate(KEYS):
        await reported(keeper, [key], 100 + 5 * number)
    await keeper.at(400)
    assert settled(keeper) == set(KEYS)


async def test_operator_settles_all_of_them__none_is_held(keeper: Keeper) -> None:
    """without … an operator's `settle`"""
    await keeper.at(100)
    for key in KEYS:
        await keeper.reconciler.settle(key.session_id, {"by": "operator"})
    assert settled(keeper) == set(KEYS)


async def test_held__something_new_is_heard_of_one__that_one_is_ended(keeper: Keeper) -> None:
    """released session by session by its own later evidence"""
    await reported(keeper, KEYS)
    await reported(keeper, KEYS[:1], 170, n=1)
    assert settled(keeper) == {KEYS[0]}
    await keeper.reconciler.settle(KEYS[1].session_id, {"by": "operator"})
    assert settled(keeper) == {KEYS[0], KEYS[1]}


async def test_held__resumed__all_are_ended(keeper: Keeper) -> None:
    """all by `resume`"""
    await reported(keeper, KEYS)
    await keeper.at(200)
    inbox = Inbox(keeper.writer, keeper.reconciler, signs=lambda: True, clock_ms=lambda: keeper.now)
    await keeper.writer(lambda tx: tx.add(InboxRow(kind="resume", asked_ms=keeper.now)))
    await inbox.read()
    assert settled(keeper) == set(KEYS)
    assert [row.payload["state"] for row in keeper.rows(FactRow) if row.kind == "breaker"] == ["tripped", "released"]
    await keeper.at(300)
    assert len(alerts(keeper)) == 1, "what was released doesn't trip it again"


async def test_held__silent_since__ended_after_the_longest_hold_and_told_at_half(keeper: Keeper) -> None:
    """for those silent since after MASS_HOLD_MAX_S; the alert repeats at half that time with the cost so far"""
    await reported(keeper, KEYS)
    await keeper.at(160 + 449)
    assert len(alerts(keeper)) == 1
    await keeper.at(160 + 451)
    [_, again] = alerts(keeper)
    cost = COUNT * RATE * 450
    assert f"holds the ends of {COUNT} sessions after 7 min" in again
    assert f"has cost {cost / 1e6:.3f}".rstrip("0") in again
    await keeper.at(160 + 899)
    assert settled(keeper) == set()
    await keeper.at(160 + 901)
    assert settled(keeper) == set(KEYS)
    await keeper.at(160 + 1_000)
    assert keeper.reconciler.memory.breaker.tripped_ms is None


async def test_held__one_gives_signs_of_life__it_isnt_ended_when_the_others_are(keeper: Keeper) -> None:
    """is never ended by a hint or by silence"""
    await reported(keeper, KEYS)
    await keeper.at(200)
    for second in range(210, 1_200, 10):
        await keeper.at(second)
        await keeper.say(keeper.hint(Kind.HEARTBEAT, room=room(KEYS[0])))
    assert settled(keeper) == set(KEYS[1:])


async def test_held__restarted__still_held_until_the_same_time(keeper: Keeper) -> None:
    """survives a restart, as does what it counted"""
    await reported(keeper, KEYS)
    await keeper.at(200)
    await keeper.restart()
    await keeper.at(160 + 899)
    assert settled(keeper) == set()
    assert len(alerts(keeper)) == 2, "the alert at half time comes all the same"
    await keeper.at(160 + 901)
    assert settled(keeper) == set(KEYS)


async def test_wave__restarted_in_its_middle__what_was_counted_still_counts(keeper: Keeper) -> None:
    await reported(keeper, KEYS[:8], 100)
    await reported(keeper, KEYS[8:], 110)
    await keeper.at(165)
    assert settled(keeper) == set(KEYS[:8])
    await keeper.restart()
    await keeper.at(200)
    assert settled(keeper) == set(KEYS[:8]), "those whose end was under way go on, no other is added"
    assert len(alerts(keeper)) == 1


async def test_wave__some_were_decided_before_it_tripped__they_are_no_longer_due(keeper: Keeper) -> None:
    await reported(keeper, KEYS[:8], 100)
    await reported(keeper, KEYS[8:], 110)
    await keeper.at(165)
    assert all(keeper.reconciler.still_due(key) for key in KEYS[:8])
    await keeper.at(171)
    assert not any(keeper.reconciler.still_due(key) for key in KEYS)
    assert not any(keeper.reconciler.withdrawn(key) for key in KEYS), "but what was sent isn't retracted"


async def test_held__released_while_paused__is_held_by_the_pause_alone(keeper: Keeper) -> None:
    await reported(keeper, KEYS)
    await keeper.at(200)
    await keeper.reconciler.set_paused(True)
    assert await keeper.reconciler.release()
    assert keeper.reconciler.mass_end.about(keeper.now)["held"] == 0
    assert settled(keeper) == set()
    assert not await keeper.reconciler.release(), "there is nothing left to release"


async def test_held__released__all_are_ended(keeper: Keeper) -> None:
    await reported(keeper, KEYS)
    await keeper.at(200)
    assert await keeper.reconciler.release()
    assert settled(keeper) == set(KEYS)


async def test_held__paused_and_resumed__both_are_lifted(keeper: Keeper) -> None:
    await reported(keeper, KEYS)
    await keeper.at(200)
    await keeper.reconciler.set_paused(True)
    assert settled(keeper) == set()
    await keeper.reconciler.set_paused(False)
    assert settled(keeper) == set(KEYS)
    assert keeper.now == T0 + 200_000


async def test_many_fell_due_in_a_long_pause__resumed__all_are_ended_at_once(keeper: Keeper) -> None:
    """an operator has seen to that, and it trips no breaker"""
    await keeper.reconciler.set_paused(True)
    for number, key in enumerate(KEYS):
        await reported(keeper, [key], 100 + 60 * number)
    await keeper.at(1_800)
    assert settled(keeper) == set()
    await keeper.reconciler.set_paused(False)
    assert settled(keeper) == set(KEYS)
    assert alerts(keeper) == []


async def test_resumed_after_a_pause__all_are_reported_later__trips_all_the_same(keeper: Keeper) -> None:
    await keeper.reconciler.set_paused(True)
    await keeper.at(90)
    await keeper.reconciler.set_paused(False)
    await keeper.restart()
    await reported(keeper, KEYS)
    await keeper.at(200)
    assert settled(keeper) == set()
    assert len(alerts(keeper)) == 1


async def test_wave__after_ends_of_long_ago__those_arent_counted_as_active(keeper: Keeper) -> None:
    """more than MASS_END_SHARE of the active sessions"""
    await reported(keeper, KEYS[:8], 100)
    await keeper.at(170)
    assert settled(keeper) == set(KEYS[:8])
    for key in KEYS[:8]:
        await keeper.end(key, 170)
    await reported(keeper, KEYS[8:19], 1_000)
    await keeper.at(1_100)
    assert settled(keeper) == set(KEYS[:8]), "11 of 16"
    [text] = alerts(keeper)
    assert "11 of 16 active sessions" in text


# What else holds ends: a pause, and a session's own failures --------------------------------------------------------


async def failed(keeper: Keeper, reason: str) -> None:
    action, key = keeper.effects.settles[-1]
    said = {"outcome": "failed", "reason": reason, "tx_hash": None}
    await keeper.reconciler.outcome(key, Kind.SETTLEMENT, said, action)


async def test_paused__restarted__stays_paused_until_resumed(keeper: Keeper) -> None:
    """`pause`/`resume` survive restarts"""

    async def ask(kind: str) -> None:
        await keeper.writer(lambda tx: tx.add(InboxRow(kind=kind, asked_ms=keeper.now)))
        await inbox().read()

    def inbox() -> Inbox:
        return Inbox(keeper.writer, keeper.reconciler, signs=lambda: True, clock_ms=lambda: keeper.now)

    await ask("pause")
    keeper.boot()
    await inbox().load_paused()
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    await reported(keeper, KEYS[:1])
    await keeper.at(200)
    assert settled(keeper) == set()
    await ask("resume")
    assert settled(keeper) == {KEYS[0]}
    keeper.boot()
    await inbox().load_paused()
    assert not keeper.reconciler.conditions.paused


async def test_set_aside__restarted__still_set_aside_with_its_reason_until_that_is_gone(keeper: Keeper) -> None:
    """quarantine with reason, re-tried only when the reason changes; per-session attempts"""
    await reported(keeper, KEYS[:2])
    await keeper.at(160)
    first = [one for one in keeper.effects.settles if one[1] == KEYS[0]]
    keeper.effects.settles[:] = first
    for _ in range(3):
        await failed(keeper, "its token is paused")
        await keeper.at((keeper.now - T0) / 1000 + 4)
    assert (keeper.session(KEYS[0]).attempts, keeper.session(KEYS[1]).attempts) == (3, 0)
    await keeper.restart()
    assert keeper.session(KEYS[0]).set_aside == "its token is paused"
    tried = len([one for one in keeper.effects.settles if one[1] == KEYS[0]])
    await keeper.at(5_000)
    assert len([one for one in keeper.effects.settles if one[1] == KEYS[0]]) == tried
    assert (KEYS[0], "its token is paused") in keeper.reconciler.set_aside()
    await keeper.reconciler.cured(KEYS[0])
    assert keeper.effects.settles[-1][1] == KEYS[0]


async def test_note__twice_in_one_millisecond__both_are_recorded_and_the_newer_counts(keeper: Keeper) -> None:
    """resumed twice in a millisecond, or the clock was set back"""
    for state in (breaker.TRIPPED, breaker.RELEASED, breaker.RELEASED, breaker.TRIPPED):
        await keeper.writer(partial(breaker.note, state=state, source=Source.OPERATOR, at_ms=keeper.now))
    assert [row.payload["state"] for row in keeper.rows(FactRow) if row.kind == Kind.BREAKER] == [
        breaker.TRIPPED,
        breaker.RELEASED,
        breaker.RELEASED,
        breaker.TRIPPED,
    ]
    with keeper.database.read() as session:
        assert breaker.newest(session) == (True, keeper.now)


async def test_take__two_starts_in_one_millisecond__what_each_hears_is_a_fact(keeper: Keeper) -> None:
    """two starts may fall into one millisecond"""
    hint = keeper.hint(Kind.ENDED, room=room(KEYS[0]))
    for _ in range(2):
        await keeper.restart()
        await keeper.say(hint)
    assert [row.kind for row in keeper.rows(FactRow)].count(Kind.ENDED) == 2
