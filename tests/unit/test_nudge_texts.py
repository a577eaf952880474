"""Nudges and bills in words, in every language there is."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import Role, SessionKey
from bot.nudges import texts
from bot.nudges.message import Message, Note, Purpose

FOLDER = Path(texts.__file__).parent / "locales"
NOW = 1_800_000_000_000  # 08:00:00 UTC
KEY = SessionKey(7, "0x00000000000000000000000000000000000000A0", "0x00000000000000000000000000000000000000b0")
TX = "0x" + "ab" * 32


def message(purpose: Purpose = Purpose.PAY, **more: Any) -> Message:
    values: dict[str, Any] = {
        "reason": "ended",
        "room": "req_1",
        "elapsed_s": 724,
        "cost": 724_000,
        "per_minute": 60_000,
        "due_ms": NOW + 45_000,
    }
    return Message(3, KEY, purpose, **(values | more))


def note(said: Message, locale: str | None = None, link: str | None = None) -> Note:
    return Note(f"{said.id}-student", said, KEY.student, Role.STUDENT, locale, link, NOW)


def catalogue(locale: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{locale}.toml").read_text())


def test_text__nudge__session_reason_time_rate_next_and_when_and_the_page() -> None:
    assert note(message(page="https://k.example/s/7")).text == (
        "The lesson was reported as ended. Session 7 has run for 12 min 4 s and is still being billed: 0.060 PYUSD a "
        "minute, 0.724 PYUSD so far. Please end it and pay. Otherwise it is ended for you at 08:00:45 UTC, in 45 s. "
        "See https://k.example/s/7"
    )


def test_text__question__how_to_answer_it() -> None:
    said = note(message(Purpose.ASK, reason="contradiction"), link="https://k.example/v/token").text
    assert "Is the lesson still going on?" in said
    assert "If it goes on, say so here: https://k.example/v/token" in said
    assert "Without an answer it is ended at 08:00:45 UTC, in 45 s." in said


def test_text__nobody_ends_it__says_nothing_of_an_end() -> None:
    said = note(message(due_ms=None)).text
    assert said.endswith("Please end it and pay.")


def test_text__rate_is_not_known_yet__says_the_time_alone() -> None:
    assert "has run for 12 min 4 s and is still being billed. " in note(message(cost=None, per_minute=None)).text


def test_text__bill__time_amount_and_transaction() -> None:
    """afterwards the bill (`12 min 4 s, 0.724 PYUSD, tx …`)"""
    said = note(message(Purpose.BILL, tx_hash=TX, due_ms=None)).text
    assert said == f"Session 7 has ended: 12 min 4 s, 0.724 PYUSD, tx {TX}."


def test_text__chosen_language__is_that_and_never_the_lessons() -> None:
    """in English unless the reader chose another language; never the lesson's language"""
    assert note(message(), "de").text.startswith("Die Unterrichtsstunde wurde als beendet gemeldet.")
    assert "0,724 PYUSD" in note(message(), "de").text
    assert note(message(), None).text == note(message(), "en").text


def test_text__language_that_is_not_there__english() -> None:
    """A language that isn't here is answered in English."""
    assert note(message(), "tlh").text == note(message()).text


@pytest.mark.parametrize("locale", texts.LOCALES)
@pytest.mark.parametrize("purpose", Purpose)
def test_text__every_language__has_the_numbers_the_link_and_no_gap(locale: str, purpose: Purpose) -> None:
    said = note(message(purpose, tx_hash=TX, page="https://k.example/s/7"), locale, "https://k.example/v/t").text
    assert "{" not in said
    assert "7" in said
    assert said.count("724") == 1
    assert "https://k.example/s/7" in said
    assert ("https://k.example/v/t" in said) is (purpose is not Purpose.BILL)
    assert (TX in said) is (purpose is Purpose.BILL)
    assert ("08:00:45" in said) is (purpose is not Purpose.BILL)


@pytest.mark.parametrize("locale", texts.LOCALES)
def test_catalogue__each__has_every_text_of_the_english_one_with_the_same_names_in_it(locale: str) -> None:
    """A catalogue has every text of the English one with the same names in it"""
    english, other = catalogue("en"), catalogue(locale)
    assert other.keys() == english.keys()
    assert other["why"].keys() == english["why"].keys()
    assert len(other["units"]) == 3
    for name, text in english["say"].items():
        assert places(other["say"][name]) == places(text), f"{locale}: {name}"
    assert other["say"].keys() == english["say"].keys()


def places(text: str) -> set[str | None]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


@pytest.mark.parametrize(("locale", "same_as"), [(locale, "en") for locale in texts.LOCALES if locale != "en"])
def test_catalogue__each__is_a_translation(locale: str, same_as: str) -> None:
    ours, english = catalogue(locale), catalogue(same_as)
    assert [name for name in english["why"] if ours["why"][name] == english["why"][name]] == []
    assert [name for name in english["say"] if ours["say"][name] == english["say"][name]] == []


def test_why__lost_connections__tell_whose() -> None:
    assert texts.why("away:tutor") == "The tutor's connection was lost."
    assert texts.why("away:somebody") == "A participant's connection was lost."
    assert texts.why("what-comes-later") == "The lesson seems to be over."


@pytest.mark.parametrize(
    ("tag", "locale"), [("de", "de"), ("de-AT", "de"), ("pt_BR", "pt"), ("ZH-hans", "zh"), ("tlh", None), ("", None)]
)
def test_known__language_tags__the_catalogue_or_none(tag: str, locale: str | None) -> None:
    assert texts.known(tag) == locale


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.000"), (724_000, "0.724"), (1, "0.000001"), (12_500_000, "12.500"), (2**256 - 1, f"{2**256 - 1}"[:-6])],
)
def test_pyusd__base_units__exact(amount: int, text: str) -> None:
    assert texts.pyusd(amount).startswith(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (724, "12 min 4 s"), (3840, "1 h 4 min")]
)
def test_duration__seconds__in_words(seconds: int, text: str) -> None:
    assert texts.duration(seconds) == text


# The note as JSON ----------------------------------------------------------------------------------------------------


def test_payload__reader_whose_language_is_unknown__english_and_all_the_others() -> None:
    said = note(message()).payload()
    assert said["text"] == note(message()).text
    everything = said["texts"]
    assert isinstance(everything, dict)
    assert set(everything) == set(texts.LOCALES)


def test_payload__reader_who_chose__that_language_alone() -> None:
    said = note(message(), "fr").payload()
    assert (said["locale"], said["text"]) == ("fr", note(message(), "fr").text)
    assert "texts" not in said


def test_payload__any__to_one_participant_with_amounts_in_base_units() -> None:
    said = note(message(), "en").payload()
    assert (said["id"], said["to"], said["role"]) == ("nudge-7-3-student", [KEY.student], "student")
    assert (said["cost"], said["costPerMinute"], said["endsAt"]) == ("724000", "60000", NOW + 45_000)


def test_recipients__one_who_teaches_himself__is_told_once() -> None:
    alone = SessionKey(7, KEY.student, KEY.student)
    assert Message(3, alone, Purpose.PAY, "ended", None, 1, None).recipients() == ((KEY.student, Role.STUDENT),)
