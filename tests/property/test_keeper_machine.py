"""The reconciler on a real database, driven by random histories, against a model that knows the truth.

A history that finds nothing wrong proves little if it never gets anywhere, so each run also has to reach every state
that is named here. `make test-deep` plays many more histories.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from bot.domain.policy import Hints
from tests.property.machine import Machine

# Examples of one seed are often each other's variations: many rounds of a few find more than a few of many.
EXAMPLES = 15
ROUNDS = 20
PATIENCE = 6  # times as many rounds, before it counts as a state that can't be reached and not as chance
STEPS = 25

ALWAYS = {
    *("end: told", "end: drained", "end: silence"),
    *("nudge: ended", "nudge: contradiction", "nudge: timeout", "nudge: silence", "nudge: drained"),
    *("nudge: anonymous-end", "wait: away", "alert: orphan"),
    *("hold: paused", "hold: finality", "hold: mass-end", "hold: failed", "restart: paused"),
    *("set aside: cured", "refused", "breaker: tripped", "clock: hours", "clock: days"),
    *("over: handed to an operator", "over: held, paused", "over: held, finality"),
}
RELEASES = {"breaker: resumed", "breaker: own evidence", "breaker: silent for long"}
REACHES = {
    Hints.YES: ALWAYS | RELEASES | {"end: ended", "end: timeout", "end: contradiction", "end: away"},
    Hints.CORROBORATED: ALWAYS | {"end: ended", "end: timeout", "alert: ended"},
    Hints.NO: ALWAYS | {"alert: ended", "alert: timeout", "alert: contradiction"},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the keeper logs is as much as all the rest."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def play(machine: type[Machine], number: int, examples: int = EXAMPLES, **how: Any) -> None:
    """A round of histories: other ones for each number, the same ones in every run."""
    of_a_round = settings(max_examples=examples, stateful_step_count=STEPS, database=None, **how)
    run_state_machine_as_test(seed(number)(machine), settings=of_a_round)


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("hints", Hints)
def test_keeper__any_history__keeps_its_promises_and_reaches_every_state(hints: Hints) -> None:
    machine = type(f"Machine_{hints}", (Machine,), {"hints": hints, "reached": Counter()})
    asked = settings().max_examples if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 0
    rounds = max(ROUNDS, asked // EXAMPLES)
    for number in range(rounds * PATIENCE):
        play(machine, number)
        missing = REACHES[hints] - set(+machine.reached)
        if number + 1 >= rounds and not missing:
            break
    assert not missing, f"never reached: {sorted(missing)} of {dict(machine.reached)}"
