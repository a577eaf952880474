"""What the pages say before a script runs, and the promises of the script that host pages include."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import bot.web.pages
from bot.web.pages import words
from bot.web.pages.routes import environment
from bot.web.pages.view import clock, money, view

STATIC = Path(bot.web.pages.__file__).parent / "static"
SESSION = {
    "state": "running",
    "why": "",
    "ask": False,
    "bill": None,
    "startedAt": 1_000,
    "rate": "1000",
    "balance": None,
    "dueMs": None,
    "hold": None,
}


def state(**changes: Any) -> dict[str, Any]:
    return {"nowMs": 1_062_000, "chainNow": 1_062, "keeper": "up", "session": SESSION | changes}


def test_view__running__counts_from_chain_time() -> None:
    said = view(state())
    assert (said["seconds"], said["cost"], said["trouble"]) == ("1:02", "0.062", None)


def test_view__balance_used_up__costs_no_more_than_that() -> None:
    assert view(state(balance="5000"))["cost"] == "0.005"


def test_view__due__counts_down_to_the_end() -> None:
    said = view(state(state="due", why="The call is over.", dueMs=1_062_000 + 65_000))
    assert (said["why"], said["when"], said["left"]) == ("The call is over.", "The keeper ends it in", "1:05")


def test_view__due_without_a_time__doesnt_promise_an_end() -> None:
    said = view(state(state="due"))
    assert (said["when"], said["left"]) == (words.WHEN["open"], None)


def test_view__contradiction__asks() -> None:
    assert view(state(state="due", ask=True))["headline"] == "Is the lesson still going on?"


@pytest.mark.parametrize("hold", ["paused", "watching", "set-aside"])
def test_view__held__says_why(hold: str) -> None:
    assert view(state(state="held", hold=hold, dueMs=1))["trouble"] == words.TROUBLE[hold]


@pytest.mark.parametrize("given", [None, state(rate=None, startedAt=None), {**state(), "session": None}])
def test_view__half_known__still_an_answer(given: dict[str, Any] | None) -> None:
    """an answer for every state, also for one that is half known"""
    assert view(given)["headline"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (9, "0:09"), (724, "12:04"), (3_729, "1:02:09")])
def test_clock__seconds__as_a_person_reads_them(seconds: int, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.000"), (1, "0.000001"), (724_000, "0.724"), ("12345600", "12.3456"), (10**9, "1000.000")],
)
def test_money__base_units__at_least_three_decimals(amount: int | str, text: str) -> None:
    assert money(amount) == text


def test_embedded__json_in_a_script_element__cant_end_it() -> None:
    text = environment().from_string("{{ x | embedded }}").render(x={"a": "</script><!-- & "})
    assert "<" not in text
    assert ">" not in text


def test_langdao_js__its_size__is_below_20_kb() -> None:
    assert (STATIC / "langdao.js").stat().st_size < 20_000


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts__build_no_html_and_run_no_text(path: Path) -> None:
    """no unsafe-inline: everything is made of elements and text"""
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text())
        == []
    )


def test_errors__each__one_sentence_one_button() -> None:
    for sentence, button, _ in words.TROUBLE.values():
        assert sentence.endswith(".")
        assert button
