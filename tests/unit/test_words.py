"""How values are written for people."""

from __future__ import annotations

import pytest

from bot.ops import words


@pytest.mark.parametrize(
    ("base_units", "text"),
    [
        (0, "0.000 PYUSD"),
        (724_000, "0.724 PYUSD"),
        (1, "0.000001 PYUSD"),
        (1_000_000, "1.000 PYUSD"),
        (1_234_567_890_123, "1,234,567.890123 PYUSD"),
        (-62_000, "-0.062 PYUSD"),
    ],
)
def test_amount__any_number_of_base_units__is_exact_with_three_decimals_at_least(base_units: int, text: str) -> None:
    assert words.amount(base_units) == text


def test_amount__uint256__keeps_every_digit() -> None:
    assert words.amount(2**256 - 1).replace(",", "").replace(".", "").startswith(str(2**256 - 1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (12.4, "12 s"),
        (65, "1 min 5 s"),
        (3_600, "1 h"),
        (12_005, "3 h 20 min"),
        (90_061, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_duration__seconds__two_largest_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_away__before_now_and_after__says_ago_and_in() -> None:
    assert [words.away(at, 100_000) for at in (40_000, 100_000, 112_000)] == ["1 min ago", "now", "in 12 s"]


def test_moment__another_day__has_the_date() -> None:
    day_ms = 86_400_000
    assert words.moment(1_800_000_000_000, now_ms=1_800_000_000_000) == "08:00:00"
    assert words.moment(1_800_000_000_000, now_ms=1_800_000_000_000 + day_ms) == "2027-01-15 08:00:00"


def test_moment__far_outside_the_calendar__doesnt_raise() -> None:
    assert words.moment(10**18).startswith("9999")
    assert words.moment(-1).startswith("1970")


def test_ether__tiny_amounts__arent_shown_as_nothing() -> None:
    assert words.ether(10**9) == "< 0.000001 ETH"
    assert words.ether(15 * 10**17) == "1.5 ETH"
    assert words.ether(0) == "0 ETH"


def test_short__address_and_room__only_hex_is_shortened() -> None:
    assert words.short("0x5FbDB2315678afecb367f032d93F642f64180aa3") == "0x5FbD…0aa3"
    assert words.short("a-rather-long-room-name") == "a-rather-long-room-name"
    assert words.short(None) == "–"


def test_count__one_and_many__plural_where_it_belongs() -> None:
    assert (words.count(1, "room"), words.count(0, "room"), words.count(2_000, "room")) == (
        "1 room",
        "0 rooms",
        "2,000 rooms",
    )
