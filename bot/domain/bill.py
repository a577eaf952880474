"""What a session costs and what of it was too much. Amounts are integers in base units, times whole seconds.

Source: `endSession` pays min((block time - start) x rate, the student's balance in the contract).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PYUSD_DECIMALS = 6


class Overbilled(NamedTuple):
    seconds: int
    amount: int


def amount(base_units: int) -> str:
    """An amount of PYUSD in words: at least three decimals, as many more as it needs."""
    whole, rest = divmod(abs(base_units), 10**PYUSD_DECIMALS)
    decimals = f"{rest:0{PYUSD_DECIMALS}d}".rstrip("0").ljust(3, "0")
    return f"{'-' if base_units < 0 else ''}{whole:,}.{decimals} PYUSD"


def cost(rate: int, started_at: int, now: int, balance: int | None = None) -> int:
    """What an end at `now` would pay; `balance` caps it where it is known."""
    billed = max(0, now - started_at) * rate
    return billed if balance is None else min(billed, balance)


def overbilled(*, paid: int, rate: int, started_at: int, ended_at: int, call_ended_at: int) -> Overbilled:
    """What was billed beyond the call's real end."""
    due = rate * max(0, call_ended_at - started_at)
    return Overbilled(max(0, ended_at - max(started_at, call_ended_at)), paid - min(paid, due))


def used_up_at(balance: int, running: Iterable[tuple[int, int]]) -> int | None:
    """When (chain seconds) a student's balance no longer covers all their active sessions, given as (rate, start).

    None if it never will. The claims of all sessions are paid from one balance, so it is used up for all at once: at
    the first second in which the sum of (now - start) x rate is no less than the balance.
    """
    sessions = sorted((start, rate) for rate, start in running if rate > 0)
    if not sessions:
        return None
    rate_sum = 0
    owed_at_zero = 0  # sum of rate x start of the sessions begun so far: owed(t) = rate_sum * t - owed_at_zero
    for index, (start, rate) in enumerate(sessions):
        rate_sum += rate
        owed_at_zero += rate * start
        until = sessions[index + 1][0] if index + 1 < len(sessions) else None
        at = max(start, -(-(balance + owed_at_zero) // rate_sum))
        if until is None or at <= until:
            return at
    return None
