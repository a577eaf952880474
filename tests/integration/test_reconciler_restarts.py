"""The reconciler on a real database after restarts and reorgs: equal to what it was, nothing carried over to others."""

from __future__ import annotations

import pytest

from bot.domain.facts import Kind, Role, SessionKey, Source
from bot.store.tables import ActionRow, FactRow
from tests.support.keeper import KEY, T0_S, Keeper, deliver, keeper, report
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, T0

__all__ = ["keeper"]

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
