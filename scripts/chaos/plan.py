"""What happens in a run: drawn from the seed and the run's number, so that a failed run can be asked for again.

Promises: the same seed and number give the same plan. Doesn't promise the same timing: that is the machine's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Window(StrEnum):
    """The sender's crash windows, by the numbers in bot/chain/sender/__init__.py, as the RPC proxy can see them."""

    W1 = "W1"  # decided, nothing stored: while it looks, before it signs, or when it has signed ahead of the answer
    W2 = "W2"  # stored, not broadcast: its bytes never leave
    W3 = "W3"  # broadcast, not marked as sent: the node has them, the keeper doesn't know
    W4 = "W4"  # sent, no receipt seen: at its first question for a receipt
    W5 = "W5"  # mined, outcome not reported: the receipt arrives just before or just after the kill
    W6 = "W6"  # replaced or retracted: the second transaction at a nonce leaves, or is about to
    W7 = "W7"  # confirmed, not final: some blocks after the receipt
    RANDOM = "random"  # some moment after the hang-up


class Restart(StrEnum):
    AT_ONCE = "at once"
    LATER = "later"
    NEXT_LESSON = "in the next lesson"  # the student has paid meanwhile, and the tutor teaches somebody else


@dataclass(frozen=True, slots=True)
class Kill:
    window: Window
    after_s: float  # of RANDOM: since the hang-ups
    # Of W1: its look isn't answered, and the kill comes so much later, when what it signs ahead may be stored.
    # Of W5, W7: the receipt is answered and the kill comes so much later; None: it isn't answered.
    late_s: float | None
    leaves: bool  # of W6: the node gets the second transaction
    retracts: bool  # of W6: the student pays meanwhile, so that the second one is a retraction


@dataclass(frozen=True, slots=True)
class Plan:
    number: int
    guarded: bool  # the keeper ends sessions through the settlement guard
    lessons: int
    kill: Kill
    restart: Restart
    down_s: float  # of LATER
    again: Kill | None  # after the restart

    def __str__(self) -> str:
        again = f", again at {self.again.window}" if self.again else ""
        which = f"run {self.number}, {'guarded' if self.guarded else 'direct'}: {self.lessons} lessons"
        return f"{which}, killed at {self.kill.window}{again}, back {self.restart}"


ROUND = len(Window) * len(Restart)  # runs that meet every window with every way back


def is_guarded(number: int) -> bool:
    """The next round is of the other mode."""
    return number // ROUND % 2 == 1


def plan(seed: int, number: int, most_lessons: int) -> Plan:
    draw = random.Random(f"{seed}:{number}")
    return Plan(
        number=number,
        guarded=is_guarded(number),
        lessons=draw.randint(1, most_lessons),
        # Every window with every way back, in turn. Chance decides the rest.
        kill=_kill(draw, list(Window)[number % len(Window)]),
        restart=list(Restart)[number // len(Window) % len(Restart)],
        down_s=draw.uniform(0.5, 2.5),
        again=_kill(draw, draw.choice(list(Window))) if draw.random() < 0.25 else None,
    )


def _kill(draw: random.Random, window: Window) -> Kill:
    late_s = draw.uniform(0, 0.03) if draw.random() < 0.5 else None
    if window is Window.W7:
        late_s = draw.uniform(1.2, 4)
    return Kill(
        window,
        after_s=draw.uniform(0, 2),
        late_s=late_s,
        leaves=draw.random() < 0.5,
        retracts=draw.random() < 0.5,
    )
