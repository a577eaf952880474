"""The nudger on a real database: said once, by every channel, and none in another's way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from bot.domain.address import Address
from bot.domain.facts import Kind, SessionKey
from bot.errors import TryAgain
from bot.nudges.channel import How, Receipt
from bot.nudges.message import Message, Note, Purpose
from bot.nudges.nudger import Nudger
from bot.store import schema
from bot.store.db import Database, Writer
from bot.store.deliveries import Deliveries
from bot.store.tables import DeliveryRow
from tests.support.servers import until

ANN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BOB = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
KEY = SessionKey(7, ANN, BOB)
LINK = "https://keeper.example/v/token-of-"


def now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


@dataclass
class Way:
    """A channel that does what the test says."""

    name: str = "way"
    private: bool = True
    repeatable: bool = True
    does: Callable[[Note], Awaitable[Receipt]] | None = None
    only: tuple[Address, ...] = (ANN, BOB)
    said: list[Note] = field(default_factory=list)

    def reaches(self, to: Address) -> bool:
        return to in self.only

    async def send(self, note: Note) -> Receipt:
        self.said.append(note)
        return await self.does(note) if self.does else Receipt(How.DELIVERED)


def answers(*receipts: Receipt | Exception) -> Callable[[Note], Awaitable[Receipt]]:
    """One after the other for each participant, the last again and again."""
    left: dict[str, list[Receipt | Exception]] = {}

    async def does(note: Note) -> Receipt:
        mine = left.setdefault(note.to, list(receipts))
        one = mine.pop(0) if len(mine) > 1 else mine[0]
        if isinstance(one, Exception):
            raise one
        return one

    return does


async def hangs(_: Note) -> Receipt:
    await asyncio.sleep(3600)
    raise AssertionError


@dataclass
class Told:
    """What the nudger reported, and what it says."""

    facts: list[dict[str, Any]] = field(default_factory=list)
    closed: list[int | None] = field(default_factory=list)
    ended: bool = False
    links: int = 0

    async def report(self, key: SessionKey, kind: Kind, payload: dict[str, Any], action_id: int | None) -> None:
        assert (key, kind) in ((KEY, Kind.NUDGE), (KEY, Kind.BILL))
        self.facts.append(payload)
        self.closed.append(action_id)

    def compose(self, key: SessionKey, action_id: int, payload: dict[str, Any]) -> Message | None:
        if self.ended:
            return None
        asks = Purpose.ASK if payload.get("ask") else Purpose.PAY
        return Message(action_id, key, asks, str(payload.get("reason")), "req_1", 60, 1000, 1000)

    def locale(self, to: Address) -> str | None:
        return "de" if to == BOB else None

    async def answer_link(self, message: Message, to: Address) -> str | None:
        self.links += 1
        return LINK + to

    def by(self, channel: str | None) -> dict[str, Any]:
        [one] = [fact for fact in self.facts if fact["channel"] == channel]
        return one


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    database = Database(f"sqlite:///{tmp_path}/keeper.db")
    schema.upgrade(database)
    return Writer(database)


async def stored(writer: Writer) -> list[DeliveryRow]:
    def read(tx: Any) -> list[DeliveryRow]:
        rows = tx.exec(select(DeliveryRow)).all()
        tx.expunge_all()
        return list(rows)

    return await writer(read)


async def some(writer: Writer, how: str) -> bool:
    return any(row.how == how for row in await stored(writer))


@contextlib.asynccontextmanager
async def nudging(writer: Writer, told: Told, *ways: Way, window_ms: int = 2_000, **more: Any) -> AsyncIterator[Nudger]:
    values: dict[str, Any] = {"try_timeout_s": 0.3, "first_delay_s": 0.02}
    nudger = Nudger(
        ways, told, Deliveries(writer), told.report, window_ms=window_ms, clock_ms=now_ms, **(values | more)
    )
    yield nudger
    await nudger.close()


PAYLOAD = {"reason": "ended", "mark": "ended@1", "ask": False, "due_ms": None}


async def test_nudge__both_are_reached__each_in_their_language_and_on_record(writer: Writer) -> None:
    way, told = Way(), Told()
    async with nudging(writer, told, way) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert {(note.id, note.to, note.locale) for note in way.said} == {
        ("nudge-7-3-student", ANN, None),
        ("nudge-7-3-tutor", BOB, "de"),
    }
    fact = told.by("way")
    assert (fact["outcome"], fact["delivered"], fact["total"], told.closed) == ("delivered", True, "delivered", [3])
    assert set(fact["reached"]) == {ANN, BOB}
    assert [(row.channel, row.how) for row in await stored(writer)] == [("way", "delivered")] * 2


async def test_nudge__each__is_stored_before_it_is_said(writer: Writer) -> None:
    """Each (nudge, channel, participant) is stored before its first byte leaves"""
    seen: list[int] = []

    async def look(note: Note) -> Receipt:
        seen.append([row.address for row in await stored(writer)].count(note.to))
        return Receipt(How.SENT)

    told = Told()
    async with nudging(writer, told, Way(does=look)) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert seen == [1, 1]


async def test_nudge__one_channel_hangs__the_others_reach_and_are_recorded_meanwhile(writer: Writer) -> None:
    """one that hangs or is dead delays no other, nor the record of what another delivered"""
    told, live, dead = Told(), Way("live"), Way("dead", does=hangs)
    async with nudging(writer, told, dead, live, window_ms=1_500, try_timeout_s=3600) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
        assert (told.by("live")["delivered"], told.closed) == (True, [None])
        nudger.nudge(4, KEY, PAYLOAD, now_ms())
        await until(lambda: len(live.said) == 4)  # the next nudge isn't held up either


async def test_nudge__a_channel_hangs_at_each_try__given_up_within_half_the_window(writer: Writer) -> None:
    told, dead, live = Told(), Way("dead", does=hangs), Way("live")
    async with nudging(writer, told, dead, live, window_ms=1_000, try_timeout_s=0.1) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: len(told.facts) == 2)
    fact = told.by("dead")
    assert (fact["outcome"], fact["dropped"], fact["missed"]) == ("dropped", True, dict.fromkeys((ANN, BOB), NO_ANSWER))
    assert (fact["total"], told.closed) == ("delivered", [None, 3])


NO_ANSWER = "no answer in time"


async def test_nudge__fails_at_first__again_with_backoff_under_the_same_id(writer: Writer) -> None:
    """again only while nobody took it, under the same id"""
    told = Told()
    way = Way(does=answers(TryAgain("down"), TryAgain("busy"), Receipt(How.DELIVERED)))
    async with nudging(writer, told, way) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
        await asyncio.sleep(0.2)
    assert [note.id for note in way.said if note.to == ANN] == ["nudge-7-3-student"] * 3
    assert told.by("way")["outcome"] == "delivered"


async def test_nudge__other_side_asks_for_patience__has_it(writer: Writer) -> None:
    times: list[int] = []

    async def busy(note: Note) -> Receipt:
        if note.to == BOB:
            return Receipt(How.SENT)
        times.append(now_ms())
        if len(times) == 1:
            raise TryAgain("busy", after_s=0.4)
        return Receipt(How.SENT)

    told = Told()
    async with nudging(writer, told, Way(does=busy)) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert times[1] - times[0] >= 390


async def test_nudge__other_side_asks_for_too_much__dropped_at_once(writer: Writer) -> None:
    told = Told()
    async with nudging(writer, told, Way(does=answers(TryAgain("busy", after_s=60)))) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert told.by("way")["outcome"] == "dropped"


async def test_nudge__older_than_half_the_window__dropped_unsaid(writer: Writer) -> None:
    """Dropped when it can't be sent within half the window"""
    told, way = Told(), Way()
    async with nudging(writer, told, way) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms() - 1_001)
        await until(lambda: told.facts)
    assert (way.said, told.by("way")["outcome"], told.by("way")["delivered"]) == ([], "dropped", None)


async def test_nudge__session_ends_between_two_tries__no_more_of_them(writer: Writer) -> None:
    """and when the session has ended meanwhile"""
    told = Told()

    async def end(_: Note) -> Receipt:
        told.ended = True
        raise TryAgain("down")

    way = Way(does=end)
    async with nudging(writer, told, way) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert len(way.said) <= 2
    assert told.by("way")["missed"] == dict.fromkeys((ANN, BOB), "the session has ended")


async def test_nudge__nobody_acknowledges__says_so_only_when_all_are_through(writer: Writer) -> None:
    told = Told()
    missed = Way("missed", does=answers(Receipt(How.MISSED, "not-connected")))
    late = Way("late", does=answers(TryAgain("down"), Receipt(How.MISSED, "gone")))
    async with nudging(writer, told, missed, late) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: len(told.facts) == 2)
    assert [fact["delivered"] for fact in told.facts] == [None, False]
    assert told.facts[-1]["total"] == "undelivered"


async def test_nudge__handed_over_without_word__is_neither_reached_nor_missed(writer: Writer) -> None:
    """It counts as delivered only when something at the participant's end acknowledged it."""
    told = Told()
    sent, missed = Way("sent", does=answers(Receipt(How.SENT))), Way("m", does=answers(Receipt(How.MISSED, "no")))
    async with nudging(writer, told, sent, missed) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: len(told.facts) == 2)
    assert [fact["delivered"] for fact in told.facts] == [None, None]
    assert told.facts[-1]["total"] == "sent"


async def test_nudge__no_channel_has_a_way_to_them__nobody_is_reached(writer: Writer) -> None:
    """where none does, there is no nudge window"""
    told = Told()
    async with nudging(writer, told, Way(only=())) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    fact = told.by(None)
    assert (fact["delivered"], fact["total"], told.closed) == (False, "undelivered", [3])


async def test_nudge__only_one_has_a_contact__only_that_one_is_told(writer: Writer) -> None:
    told, way = Told(), Way(only=(BOB,))
    async with nudging(writer, told, way) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert [note.to for note in way.said] == [BOB]


async def test_nudge__channel_raises_what_it_should_not__only_it_has_failed(writer: Writer) -> None:
    told = Told()
    async with nudging(writer, told, Way("odd", does=answers(ValueError("a bug"))), Way()) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: len(told.facts) == 2)
    assert told.by("odd")["missed"] == dict.fromkeys((ANN, BOB), "failed (ValueError)")
    assert told.facts[-1]["total"] == "delivered"


# Questions -----------------------------------------------------------------------------------------------------------


async def test_question__private_and_public_channel__own_link_only_where_nobody_else_reads_it(writer: Writer) -> None:
    """broadcast … so it carries nothing secret and never a veto link"""
    told, private, public = Told(), Way("private"), Way("public", private=False)
    async with nudging(writer, told, private, public) as nudger:
        nudger.nudge(3, KEY, PAYLOAD | {"ask": True}, now_ms())
        await until(lambda: len(told.facts) == 2)
    assert {(note.to, note.link) for note in private.said} == {(ANN, LINK + ANN), (BOB, LINK + BOB)}
    assert {note.link for note in public.said} == {None}
    assert "/v/" not in "".join(note.text + str(note.payload()) for note in public.said)
    # A question without a link to answer it by can't be answered, so its silence says nothing.
    assert (told.by("private")["ask"], told.by("public")["ask"]) == (True, False)


async def test_nudge__that_asks_nothing__can_be_objected_to_all_the_same(writer: Writer) -> None:
    """the documented protocol; participants can object"""
    told, private, public = Told(), Way("private"), Way("public", private=False)
    async with nudging(writer, told, private, public) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: len(told.facts) == 2)
    assert {note.link for note in private.said} == {LINK + ANN, LINK + BOB}
    assert {note.link for note in public.said} == {None}
    assert [(told.by(way)["ask"], told.by(way)["answerable"]) for way in ("private", "public")] == [
        (False, True),
        (False, False),
    ]


async def test_question__merely_sent__its_silence_says_nothing(writer: Writer) -> None:
    told = Told()
    async with nudging(writer, told, Way(does=answers(Receipt(How.SENT)))) as nudger:
        nudger.nudge(3, KEY, PAYLOAD | {"ask": True}, now_ms())
        await until(lambda: told.facts)
    assert told.by("way")["ask"] is False


async def test_question__tried_again__with_the_link_that_was_made_first(writer: Writer) -> None:
    told, way = Told(), Way(does=answers(TryAgain("down"), TryAgain("down"), Receipt(How.DELIVERED)))
    async with nudging(writer, told, way) as nudger:
        nudger.nudge(3, KEY, PAYLOAD | {"ask": True}, now_ms())
        await until(lambda: told.facts)
    assert told.links == 2


# After a crash -------------------------------------------------------------------------------------------------------


async def test_resumed__one_was_delivered_before_the_crash__is_not_told_again(writer: Writer) -> None:
    """never two of the same"""
    told, way = Told(), Way(does=lambda note: hangs(note) if note.to == BOB else delivered(note))
    async with nudging(writer, told, way, try_timeout_s=3600) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: len(way.said) == 2)
        await until(lambda: some(writer, how="delivered"))
    assert told.facts == []
    again = Way()
    async with nudging(writer, told, again) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert [note.to for note in again.said] == [BOB]
    assert set(told.by("way")["reached"]) == {ANN, BOB}


async def delivered(_: Note) -> Receipt:
    return Receipt(How.DELIVERED)


async def test_resumed__reader_would_see_it_twice__is_not_said_again(writer: Writer) -> None:
    """after a crash not again by a channel whose reader would see it twice"""
    told = Told()
    async with nudging(writer, told, Way(repeatable=False, does=hangs), try_timeout_s=3600) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: some(writer, how=""))
    again = Way(repeatable=False)
    async with nudging(writer, told, again) as nudger:
        nudger.nudge(3, KEY, PAYLOAD, now_ms())
        await until(lambda: told.facts)
    assert (again.said, told.by("way")["outcome"]) == ([], "sent")


async def test_bill__said_until_its_age_and_not_until_half_a_window(writer: Writer) -> None:
    """A bill has until EFFECT_MAX_AGE_S after the end."""
    told, way = Told(), Way()
    async with nudging(writer, told, way, window_ms=0) as nudger:
        nudger.bill(3, KEY, {"reason": "ended"}, now_ms() - 60_000, now_ms() + 60_000)
        await until(lambda: told.facts)
        nudger.bill(4, KEY, {"reason": "ended"}, now_ms() - 60_000, now_ms() - 1)
        await until(lambda: len(told.facts) == 2)
    assert [fact["outcome"] for fact in told.facts] == ["delivered", "dropped"]
    assert len(way.said) == 2
