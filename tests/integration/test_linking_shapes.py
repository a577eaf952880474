"""Every shape in which a room may name its session (docs/PROTOCOL.md), as it comes over the wire, to what it joins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import Kind, SessionKey, Source
from bot.feeds import wire
from bot.store.tables import FactRow, Room
from tests.support.keeper import KEY, OTHER, Keeper
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, STUDENT, TUTOR, address

BOTH = {"studentAddress": STUDENT, "tutorAddress": TUTOR}


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    """Two sessions that have run for 100 s, and no room was heard of."""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)
    await keeper.start(KEY)
    await keeper.start(OTHER)
    await keeper.at(100)
    yield keeper
    keeper.writer.close()
    keeper.database.dispose()


async def socket(keeper: Keeper, event: str, **payload: Any) -> None:
    await keeper.say(wire.from_socket(event, payload, keeper.now, can_return=True))


async def post(keeper: Keeper, named: str, **payload: Any) -> None:
    await keeper.say(wire.from_post({"type": named, **payload}, keeper.now, Source.WEBHOOK))


def ended(keeper: Keeper) -> list[int]:
    """Of which sessions an end is believed."""
    return [one.session.key.session_id for one in keeper.reconciler.active() if one.session.ended_hint is not None]


def joined(keeper: Keeper) -> dict[str, str | None]:
    return {row.room: row.rule for row in keeper.rows(Room)}


@pytest.mark.parametrize(
    ("event", "payload", "rule"),
    [
        (wire.ENDED, {"sessionId": 1}, "chain-id"),
        (wire.ENDED, {"sessionId": 1.0}, "chain-id"),
        (wire.ENDED, {"sessionId": "1"}, "chain-id"),
        (wire.ENDED, {"sessionId": 1, **BOTH}, "chain-id"),
        (wire.SESSION_ENDED, {"sessionId": "1", "tutorAddress": TUTOR}, "chain-id"),
        (wire.ENDED, {"sessionId": "req_1", **BOTH}, "addresses"),
        (wire.ENDED, {"requestId": "req_1", **BOTH}, "addresses"),
        (wire.SESSION_ENDED, {"sessionId": "req_1", **BOTH}, "addresses"),
        (wire.SESSION_ENDED, {"sessionId": "req_1", **{k: v.lower() for k, v in BOTH.items()}}, "addresses"),
        (wire.SESSION_ENDED, {"sessionId": "req_1", **{k: v.upper() for k, v in BOTH.items()}}, "addresses"),
        (wire.SESSION_ENDED, {"sessionId": "req_1", "tutorAddress": TUTOR.lower()}, "tutor"),
        (wire.SESSION_ENDED, {"sessionId": "req_1", "studentAddress": "alice", "tutorAddress": TUTOR}, "tutor"),
        (wire.SESSION_ENDED, {"sessionId": "1", "studentAddress": "alice", "tutorAddress": "0x12"}, "chain-id"),
    ],
    ids=str,
)
async def test_end__in_each_shape_that_tells__is_believed_of_that_session(
    keeper: Keeper, event: str, payload: dict[str, Any], rule: str
) -> None:
    await socket(keeper, event, **payload)
    assert ended(keeper) == [1]
    assert list(joined(keeper).values()) == [rule]


@pytest.mark.parametrize(
    "payload",
    [
        {"sessionId": "req_1"},
        {"sessionId": "req_1", "studentAddress": STUDENT},
        {"sessionId": "req_1", "studentAddress": "alice", "tutorAddress": "not an address at all"},
        {"sessionId": "req_1", "studentAddress": OTHER_STUDENT, "tutorAddress": TUTOR},
        {"sessionId": 1, "studentAddress": OTHER_STUDENT, "tutorAddress": OTHER_TUTOR},
        {"sessionId": 1, "studentAddress": OTHER_STUDENT, "tutorAddress": TUTOR},
        {"sessionId": "001"},
        {"sessionId": 99},
    ],
    ids=str,
)
async def test_end__in_each_shape_that_doesnt_tell__is_kept_and_moves_nothing(
    keeper: Keeper, payload: dict[str, Any]
) -> None:
    await socket(keeper, wire.SESSION_ENDED, **payload)
    assert 1 not in ended(keeper)
    [row] = keeper.rows(FactRow)
    assert row.kind == "ended"
    assert row.session_key != str(KEY)


async def test_end__by_the_room_of_an_earlier_announcement__no_addresses_needed(keeper: Keeper) -> None:
    await socket(keeper, wire.READY, requestId="req_1", sessionId="req_1", **BOTH)
    await post(keeper, "session-ended", sessionId="req_1", endedBy="student")
    assert ended(keeper) == [1]


async def test_end__addresses_inside_the_session_of_a_post__tell(keeper: Keeper) -> None:
    await post(keeper, "session-ended", sessionId="req_1", session=BOTH)
    assert ended(keeper) == [1]


async def test_room__announced_long_after_its_start__joins_it(keeper: Keeper) -> None:
    """session announced before or long after its `SessionStarted`"""
    await keeper.at(5_000)
    await socket(keeper, wire.READY, requestId="req_1", **BOTH)
    await socket(keeper, wire.SESSION_ENDED, sessionId="req_1")
    assert ended(keeper) == [1]


async def test_room__announced_before_its_start__what_it_said_is_retried_then(keeper: Keeper) -> None:
    """What can't be linked is kept, retried"""
    third = SessionKey(3, STUDENT, STUDENT)
    who = {"studentAddress": STUDENT, "tutorAddress": STUDENT}
    await socket(keeper, wire.READY, requestId="req_3", **who)
    await post(keeper, "user-connected", sessionId="req_3", userRole="student")
    await keeper.at(110)
    await keeper.start(third, 110)
    assert keeper.session(third).heard
    assert joined(keeper)["req_3"] == "addresses"


async def test_end__tutor_only_and_a_newer_session_began_since__isnt_the_new_ones(keeper: Keeper) -> None:
    """a tutor with a newer session"""
    await socket(keeper, wire.READY, requestId="req_1", **BOTH)
    await keeper.end(KEY, 110)
    newer = SessionKey(3, OTHER_STUDENT, TUTOR)
    await keeper.at(120)
    await keeper.start(newer, 120)
    await socket(keeper, wire.READY, requestId="req_3", studentAddress=OTHER_STUDENT, tutorAddress=TUTOR)
    await keeper.at(130)
    await post(keeper, "session-ended", sessionId="req_1", session={"tutorAddress": TUTOR})
    await post(keeper, "session-ended", sessionId="req_other", session={"tutorAddress": TUTOR})
    assert ended(keeper) == []


async def test_room__ghost__waits_expires_and_stays_in_the_record(keeper: Keeper) -> None:
    """ghost sessions … expired"""
    ghost = {"studentAddress": OTHER_STUDENT, "tutorAddress": TUTOR}
    await socket(keeper, wire.READY, requestId="req_ghost", **ghost)
    await keeper.reconciler.forget_final()
    assert {row.state for row in keeper.rows(Room)} == {"waiting"}
    keeper.now += 7_200_001
    await keeper.reconciler.forget_final()
    assert {row.state for row in keeper.rows(Room)} == {"expired"}
    late = SessionKey(3, OTHER_STUDENT, STUDENT)
    await keeper.start(late, 7_310)
    assert not keeper.session(late).heard
    assert [row.kind for row in keeper.rows(FactRow)] == [Kind.READY]


async def test_reorg__room_named_by_the_id_of_which_strangers_spoke__their_words_are_not_its_own(
    keeper: Keeper,
) -> None:
    """each word is asked by itself"""
    await keeper.say(keeper.hint(Kind.ENDED, room="2", session_id=2, student=address(0xEE), tutor=address(0xEF)))
    await keeper.reconciler.chain_changed(started=[], ended=[], retracted=[OTHER])  # and it is there again
    assert keeper.reconciler.joined("2") == OTHER
    assert keeper.session(OTHER).ended_hint is None
    await keeper.restart()
    assert keeper.session(OTHER).ended_hint is None


async def test_link__earlier_word_that_was_withdrawn_since__stays_withdrawn(keeper: Keeper) -> None:
    """makes a session anew, of all its facts in order"""
    await keeper.say(keeper.hint(Kind.DISCONNECTED, room="elsewhere", can_return=True))
    await keeper.at(10)
    await keeper.reconciler.still_here(KEY, KEY.student, {})
    await keeper.say(keeper.hint(Kind.READY, room="elsewhere", student=KEY.student, tutor=KEY.tutor))
    assert keeper.reconciler.joined("elsewhere") == KEY
    assert not keeper.session().away
    await keeper.restart()
    assert not keeper.session().away
