"""What a session costs, against a simulation second by second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.domain.bill import Overbilled, amount, cost, overbilled, used_up_at

HORIZON_S = 200


def simulated(balance: int, running: list[tuple[int, int]]) -> int | None:
    """The first second, not before the first start of a paid session, in which the claims reach the balance."""
    paid = [(rate, start) for rate, start in running if rate > 0]
    for now in range(HORIZON_S + 1):
        claims = sum(max(0, now - start) * rate for rate, start in paid)
        if claims >= balance and any(start <= now for _, start in paid):
            return now
    return None


@given(
    balance=st.integers(0, 300),
    running=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=4),
)
def test_used_up_at__any_sessions_of_one_student__as_simulated(balance: int, running: list[tuple[int, int]]) -> None:
    """predicted to the second per student, over all their active sessions together"""
    found = used_up_at(balance, running)
    assert (found if found is None or found <= HORIZON_S else None) == simulated(balance, running)


def test_used_up_at__uint256_amounts__exact() -> None:
    balance = 2**256 - 1
    assert used_up_at(balance, [(3, 0)]) == -(-balance // 3)


def test_used_up_at__free_lessons_only__never() -> None:
    assert used_up_at(0, [(0, 5), (0, 9)]) is None


@pytest.mark.parametrize(
    ("paid", "call_ended_at", "expected"),
    [
        (1_000, 200, Overbilled(0, 0)),  # ended with the call
        (1_000, 150, Overbilled(50, 500)),
        (1_000, 90, Overbilled(100, 1_000)),  # the call was over before the session began
        (1_000, 260, Overbilled(0, 0)),  # the call went on after the end
        (300, 150, Overbilled(50, 0)),  # the balance covered less than what was due
        (700, 150, Overbilled(50, 200)),
    ],
)
def test_overbilled__call_ended_then__seconds_and_amount(paid: int, call_ended_at: int, expected: Overbilled) -> None:
    """overbilled_amount = paid − min(paid, rate × max(0, call_ended_at − started_at)), and overbilled_s = max(0,
    ended_at − max(started_at, call_ended_at))"""
    found = overbilled(paid=paid, rate=10, started_at=100, ended_at=200, call_ended_at=call_ended_at)
    assert found == expected


def test_cost__now__capped_by_the_balance() -> None:
    assert (cost(10, 100, 150), cost(10, 100, 150, 300), cost(10, 100, 50)) == (500, 300, 0)


@pytest.mark.parametrize(
    ("base_units", "words"),
    [
        (0, "0.000 PYUSD"),
        (1, "0.000001 PYUSD"),
        (-1, "-0.000001 PYUSD"),
        (50_000, "0.050 PYUSD"),
        (1_500_000, "1.500 PYUSD"),
        (-20_000_000, "-20.000 PYUSD"),
        (1_234_567_890_100, "1,234,567.8901 PYUSD"),
    ],
)
def test_amount__base_units__at_least_three_decimals(base_units: int, words: str) -> None:
    """at least three decimals, as many more as it needs"""
    assert amount(base_units) == words
