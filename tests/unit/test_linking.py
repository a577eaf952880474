"""Which session a room is: each rule, and each trap of the observed backends (docs/PROTOCOL.md)."""

from __future__ import annotations

from typing import Any

import pytest

from bot.domain.facts import Hint, Kind, SessionKey, Source, Trust
from bot.domain.linking import ROOM_WAIT_MS, Book, Link, Room, agrees, as_chain_id, contradicts, link, rooms_for
from tests.support.sessions import KEY, OTHER_STUDENT, OTHER_TUTOR, STUDENT, T0, TUTOR, hint

BOTH: dict[str, Any] = {"student": STUDENT, "tutor": TUTOR}
OTHERS_KEY = SessionKey(8, OTHER_STUDENT, OTHER_TUTOR)


@pytest.fixture
def book() -> Book:
    """One active session."""
    book = Book()
    book.add(KEY, T0)
    return book


def joined(book: Book, name: str, key: SessionKey = KEY, trust: Trust = Trust.CONFIGURED) -> Room:
    room = Room(name, T0, T0)
    book.rooms[name] = room
    book.join(room, Link(key, "addresses"), trust)
    return room


def said(kind: Kind = Kind.ENDED, room: str = "req_1", at_s: float = 10, **more: Any) -> Hint:
    return hint(kind, at_s, more.pop("source", Source.SOCKET), room=room, **more)


def rule(found: Link | None) -> tuple[SessionKey, str] | None:
    return (found.key, found.rule) if found else None


@pytest.mark.parametrize(
    ("more", "known", "expected"),
    [
        ({"room": "7", "tutor": TUTOR}, True, (KEY, "chain-id")),
        ({"tutor": OTHER_TUTOR}, False, (OTHERS_KEY, "tutor")),
        (
            {"student": OTHER_STUDENT, "tutor": OTHER_TUTOR},
            False,
            (OTHERS_KEY, "addresses"),
        ),
        ({}, True, (OTHERS_KEY, "by hand")),
    ],
    ids=["id before room", "tutor", "addresses before tutor", "room before addresses"],
)
def test_link__several_rules_fit__the_first_in_the_order(
    book: Book, more: dict[str, Any], known: bool, expected: object
) -> None:
    """joined by rules in a fixed order; the first that gives a session wins"""
    book.add(OTHERS_KEY, T0)
    room = Room("req_1", T0, T0, trust=Trust.CONFIGURED, student=STUDENT, tutor=TUTOR)
    book.join(room, Link(OTHERS_KEY, "by hand"), Trust.CONFIGURED)
    found = link(said(Kind.HEARTBEAT, **{"room": "req_1"} | more), room if known else None, book)
    assert rule(found) == expected


# The rules, in their order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, BOTH, {"student": STUDENT}, {"tutor": TUTOR}], ids=str)
@pytest.mark.parametrize("room", [{"room": "7"}, {"room": "req_x", "session_id": 7}], ids=["numeric", "named"])
def test_link__chain_id_and_addresses_agree_where_given__chain_id(
    book: Book, room: dict[str, Any], more: dict[str, Any]
) -> None:
    """a numeric room id that is a chain id and whose addresses, where given, agree"""
    assert rule(link(said(**room, **more), None, book)) == (KEY, "chain-id")


def test_link__old_student_with_the_new_chain_id__none(book: Book) -> None:
    """A late end of an old room carries the new chain id with the old student's address."""
    late = said(room="7", session_id=7, student=OTHER_STUDENT, tutor=TUTOR)
    assert link(late, None, book) is None
    assert contradicts(late, book)


def test_link__room_joined_before__that_session_without_addresses(book: Book) -> None:
    assert rule(link(said(), joined(book, "req_1"), book)) == (KEY, "addresses")


def test_link__room_joined_before_by_a_rule_that_isnt_known__by_the_room(book: Book) -> None:
    assert rule(link(said(), Room("req_1", T0, T0, key=KEY, trust=Trust.CONFIGURED), book)) == (KEY, "room")


def test_link__room_joined_before_by_less_trust__both_addresses_win(book: Book) -> None:
    other = SessionKey(8, STUDENT, OTHER_TUTOR)
    book.add(other, T0)
    room = joined(book, "req_1", other, Trust.MAPPING)
    assert rule(link(said(student=STUDENT), room, book)) == (other, "addresses")
    assert rule(link(said(**BOTH), room, book)) == (KEY, "addresses")


def test_link__both_addresses__the_tutors_active_session_with_that_student(book: Book) -> None:
    """both addresses → the active session of that tutor with that student"""
    assert rule(link(said(**BOTH), None, book)) == (KEY, "addresses")
    assert link(said(student=OTHER_STUDENT, tutor=TUTOR), None, book) is None


def test_link__both_addresses_known_of_the_room__used_for_a_hint_that_says_none(book: Book) -> None:
    room = Room("req_1", T0, T0, trust=Trust.MAPPING, student=STUDENT, tutor=TUTOR)
    assert rule(link(said(), room, book)) == (KEY, "addresses")


def test_link__tutor_only__active_session_if_it_began_before_the_hint(book: Book) -> None:
    """tutor only → the tutor's active session if it began before the hint"""
    assert rule(link(said(tutor=TUTOR, at_s=0), None, book)) == (KEY, "tutor")
    assert link(said(tutor=TUTOR, at_s=-0.001), None, book) is None
    assert link(said(tutor=OTHER_TUTOR), None, book) is None


@pytest.mark.parametrize("more", [{}, {"student": STUDENT}], ids=["no address", "student only"])
def test_link__nothing_that_tells__none(book: Book, more: dict[str, Any]) -> None:
    assert link(said(**more), None, book) is None


def test_link__session_ended__its_tutor_alone_tells_nothing_but_its_id_does(book: Book) -> None:
    book.ended(KEY)
    assert link(said(tutor=TUTOR), None, book) is None
    assert rule(link(said(room="7"), None, book)) == (KEY, "chain-id")


# The traps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT])
@pytest.mark.parametrize("who", [BOTH, {"tutor": TUTOR}], ids=["both", "tutor"])
def test_link__late_end_of_an_unknown_room_while_the_session_has_another__none(
    book: Book, kind: Kind, who: dict[str, Any]
) -> None:
    joined(book, "req_new")
    assert link(said(kind, "req_old", **who), None, book) is None


def test_link__late_end_of_the_same_pairs_old_room__stays_with_the_old_lesson() -> None:
    book = Book()
    old = SessionKey(6, STUDENT, TUTOR)
    book.add(old, T0 - 1000)
    room = joined(book, "req_old", old)
    book.ended(old)
    book.add(KEY, T0)
    assert rule(link(said(room="req_old", **BOTH), room, book)) == (old, "addresses")
    book.forget(old)  # final, and forgotten: the room is still known
    assert rule(link(said(room="req_old", **BOTH), book.rooms["req_old"], book)) == (old, "addresses")


def test_link__tutor_has_a_newer_session_with_somebody_else__none() -> None:
    book = Book()
    book.add(SessionKey(9, OTHER_STUDENT, TUTOR), T0)
    assert link(said(**BOTH), None, book) is None


@pytest.mark.parametrize(
    ("room", "number"),
    [
        ("7", 7),
        ("9" * 18, 10**18 - 1),
        *((text, None) for text in ("007", "0", "req_7", "", "-7", "7.0", "٧", "9" * 19)),
    ],
)
def test_as_chain_id__text__a_number_or_none(room: str, number: int | None) -> None:
    assert as_chain_id(room) == number


def test_link__room_named_by_anybody__carries_no_trusted_word(book: Book) -> None:
    """What anybody could have said of a room carries no more trusted word to a session."""
    room = joined(book, "req_1", trust=Trust.ANONYMOUS)
    assert link(said(), room, book) is None
    assert rule(link(said(source=Source.OPEN_WEBHOOK), room, book)) == (KEY, "addresses")
    named = Room("req_2", T0, T0, student=STUDENT, tutor=TUTOR)
    assert link(said(room="req_2"), named, book) is None


def test_link__numeric_room_named_wrongly_by_anybody__trusted_words_find_their_session(book: Book) -> None:
    room = Room("7", T0, T0, student=OTHER_STUDENT, tutor=OTHER_TUTOR)
    assert rule(link(said(room="7"), room, book)) == (KEY, "chain-id")


def test_join__room_of_another_session__leaves_it(book: Book) -> None:
    other = SessionKey(8, STUDENT, OTHER_TUTOR)
    book.add(other, T0)
    room = joined(book, "req_1", other)
    book.join(room, Link(KEY, "addresses"), Trust.PROVEN)
    assert (book.rooms_of(other), book.rooms_of(KEY)) == ((), ("req_1",))


def test_join__room_of_a_session_that_was_forgotten__is_joined_anew(book: Book) -> None:
    old = SessionKey(6, STUDENT, TUTOR)
    room = joined(book, "req_1", old)
    book.forget(old)
    book.join(room, Link(KEY, "addresses"), Trust.PROVEN)
    assert (book.rooms_of(KEY), book.rooms_of(old)) == (("req_1",), ())


def test_retract__start_taken_by_a_reorg__its_rooms_are_unknown_again(book: Book) -> None:
    """a new session, to which no hint, link, intent or decision of the old one carries over"""
    joined(book, "req_1")
    assert book.retract(KEY) == ("req_1",)
    assert (book.rooms, book.by_id, book.by_tutor) == ({}, {}, {})


# Waiting for a start -------------------------------------------------------------------------------------------------


def waiting(book: Book, name: str, at_s: float, student: str | None = STUDENT, tutor: str | None = TUTOR) -> Room:
    room = Room(name, T0 + round(at_s * 1000), T0, student=student, tutor=tutor)
    book.rooms[name] = room
    book.wait(room)
    return room


def found(book: Book, key: SessionKey = KEY) -> list[tuple[str, str]]:
    joins = rooms_for(key, T0, book)
    assert all(one.key == key for _, one in joins)
    return [(room.room, one.rule) for room, one in joins]


def test_rooms_for__announced_before_its_start__joined() -> None:
    """What joins nothing waits for its `SessionStarted`."""
    book = Book()
    waiting(book, "req_1", -60)
    assert found(book) == [("req_1", "addresses")]


@pytest.mark.parametrize(("at_s", "expected"), [(-ROOM_WAIT_MS / 1000, 1), (-ROOM_WAIT_MS / 1000 - 0.001, 0)])
def test_rooms_for__announced_long_before__is_another_lessons(at_s: float, expected: int) -> None:
    book = Book()
    waiting(book, "req_1", at_s)
    assert len(found(book)) == expected


def test_rooms_for__two_announced__the_newest() -> None:
    book = Book()
    waiting(book, "req_old", -120)
    waiting(book, "req_new", -20)
    waiting(book, "req_older", -300)
    assert found(book) == [("req_new", "addresses")]


def test_rooms_for__numeric_room__joined_by_its_id_unless_others_are_named() -> None:
    book = Book()
    waiting(book, "7", -20, None, None)
    assert found(book) == [("7", "chain-id")]
    for others in ((OTHER_STUDENT, TUTOR), (STUDENT, OTHER_TUTOR)):
        book = Book()
        waiting(book, "7", -20, *others)
        assert found(book) == []


def test_rooms_for__room_named_anew__waits_for_the_new_pair_only() -> None:
    book = Book()
    room = waiting(book, "req_1", -20)
    book.name(room, OTHER_STUDENT, TUTOR, Trust.CONFIGURED)
    book.wait(room)
    assert found(book) == []
    assert found(book, SessionKey(8, OTHER_STUDENT, TUTOR)) == [("req_1", "addresses")]


def test_rooms_for__ghost_room_of_nobody__waits_for_nothing() -> None:
    book = Book()
    waiting(book, "req_ghost", -20, None, None)
    assert (book.waiting, found(book)) == ({}, [])


def test_join__waiting_room__waits_no_more() -> None:
    book = Book()
    room = waiting(book, "req_1", -20)
    book.join(room, Link(KEY, "addresses"), Trust.CONFIGURED)
    assert book.waiting == {}
    assert found(book) == []


def test_drop__expired_room__nothing_of_it_is_left() -> None:
    book = Book()
    book.drop(waiting(book, "req_1", -20))
    assert (book.rooms, book.waiting) == ({}, {})


def test_add__ended_session_read_after_the_tutors_active_one__the_active_one_stays(book: Book) -> None:
    book.add(SessionKey(3, OTHER_STUDENT, TUTOR), T0 - 1000, active=False)
    assert book.by_tutor[TUTOR] == KEY


@pytest.mark.parametrize("number", [{"room": "3"}, {"room": "req_old", "session_id": 3}], ids=["numeric", "named"])
def test_link__names_a_session_that_is_over__not_the_pairs_next_lesson(book: Book, number: dict[str, Any]) -> None:
    """a hint … whose number is another session's, is never joined to it"""
    assert link(said(**number, **BOTH), None, book) is None
    assert link(said(**number, tutor=TUTOR), None, book) is None


def test_link__number_that_is_no_chain_id_yet__addresses_decide(book: Book) -> None:
    assert rule(link(said(room="99999", **BOTH), None, book)) == (KEY, "addresses")


@pytest.mark.parametrize(("dated_s", "expected"), [(-15.001, None), (-15, (KEY, "addresses")), (5, (KEY, "addresses"))])
def test_link__end_that_the_record_dates__joined_only_if_it_is_of_this_lesson(
    book: Book, dated_s: float, expected: object
) -> None:
    """or one that the backend's record dates before its start"""
    late = said(source=Source.RECORD, said_ms=T0 + round(dated_s * 1000), **BOTH)
    assert rule(link(late, None, book)) == expected


OTHERS = [{"student": OTHER_STUDENT}, {"tutor": OTHER_TUTOR}, {"student": OTHER_STUDENT, "tutor": TUTOR}]


@pytest.mark.parametrize("who", [*OTHERS, {"student": STUDENT, "tutor": OTHER_TUTOR}], ids=str)
def test_link__addresses_contradict_a_session__never_joined_to_it(book: Book, who: dict[str, Any]) -> None:
    """a hint whose addresses contradict a session … is never joined to it"""
    room = joined(book, "req_1")
    assert link(said(**who), room, book) is None
    numbered = said(room="7", **who)
    assert link(numbered, None, book) is None
    assert contradicts(numbered, book)
    assert not agrees(said(**who), KEY)


@pytest.mark.parametrize("more", [{}, {"student": STUDENT}, {"tutor": TUTOR}, BOTH, {"session_id": 7}], ids=str)
def test_agrees__word_that_contradicts_nothing__may_be_about_it(book: Book, more: dict[str, Any]) -> None:
    """each word is asked by itself"""
    assert agrees(said(**more), KEY)
    assert not contradicts(said(**more), book)
    assert not agrees(said(**more | {"session_id": 8}), KEY)


@pytest.mark.parametrize(("level", "next_one"), [(Trust.MAPPING, True), (Trust.CONFIGURED, False)], ids=str)
def test_link__room_of_the_pairs_last_lesson_announced_anew__by_a_more_trusted_word_only(
    level: Trust, next_one: bool
) -> None:
    """the room was joined before, by a word at least as trusted"""
    book = Book()
    last = SessionKey(6, STUDENT, TUTOR)
    book.add(last, T0 - 1000)
    room = joined(book, "req_1", last, level)
    book.ended(last)
    book.add(KEY, T0)
    assert rule(link(said(Kind.READY, **BOTH), room, book)) == (KEY if next_one else last, "addresses")


def test_link__active_room_named_again_by_a_more_trusted_word__keeps_the_rule_that_joined_it(book: Book) -> None:
    room = Room("req_1", T0, T0)
    book.rooms["req_1"] = room
    book.join(room, Link(KEY, "tutor"), Trust.MAPPING)
    assert rule(link(said(**BOTH), room, book)) == (KEY, "tutor")


def test_link__end_of_a_room_that_was_heard_of_before__is_of_this_lesson_though_it_has_another(book: Book) -> None:
    """one from a room never heard of before when the session has another"""
    joined(book, "req_new")
    heard_of = Room("req_1", T0, T0)
    assert rule(link(said(**BOTH), heard_of, book)) == (KEY, "addresses")
    assert link(said(**BOTH), None, book) is None


def test_link__names_the_newest_session_which_is_over__isnt_the_pairs_own(book: Book) -> None:
    """whose number is another session's"""
    newest = SessionKey(9, OTHER_STUDENT, OTHER_TUTOR)
    book.add(newest, T0)
    book.forget(newest)
    assert link(said(room="9", **BOTH), None, book) is None
