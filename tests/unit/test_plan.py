"""What a participant's page is told: the state in a word, why nothing is signed, and nothing that is secret."""

from __future__ import annotations

import pytest

from bot.domain.decide import Action, Decision
from bot.domain.facts import SessionKey
from bot.domain.plan import Bill, Plan, State, hold_of, state_of
from tests.support.sessions import STUDENT, TUTOR

KEY = SessionKey(7, STUDENT, TUTOR)


@pytest.mark.parametrize(
    ("action", "reason", "settling", "state"),
    [
        (Action.WAIT, "running", False, State.RUNNING),
        (Action.ALERT, "orphan", False, State.RUNNING),
        (Action.WAIT, "ended", False, State.DUE),
        (Action.NUDGE, "silence", False, State.DUE),
        (Action.END, "ended", False, State.ENDING),
        (Action.WAIT, "ended", True, State.ENDING),
        (Action.HOLD, "ended", False, State.HELD),
        (Action.CLOSE, "ended-on-chain", True, State.ENDED),
    ],
)
def test_state_of__each_decision__its_word(action: Action, reason: str, settling: bool, state: State) -> None:
    assert state_of(Decision(action, reason), settling=settling) is state


@pytest.mark.parametrize(
    ("action", "general", "hold"),
    [
        (Action.WAIT, None, None),
        (Action.WAIT, "paused", "paused"),
        (Action.HOLD, "watching", "watching"),
        (Action.HOLD, None, "set-aside"),
    ],
)
def test_hold_of__session_or_all__says_which(action: Action, general: str | None, hold: str | None) -> None:
    assert hold_of(Decision(action, "ended"), general) == hold


def test_payload__amounts__are_texts_of_base_units() -> None:
    """amounts strings of base units"""
    bill = Bill(2**200, 60, 1, "student", "0x1", None, 3, 2**199)
    said = Plan(KEY, 1, TUTOR, State.ENDED, rate=2**100, balance=0, bill=bill).payload()
    assert (said["rate"], said["balance"]) == (str(2**100), "0")
    assert (said["bill"]["paid"], said["bill"]["overbilled"]) == (str(2**200), str(2**199))
    assert said["startedAt"] is None


def test_hold_of__held_by_the_breaker__says_that() -> None:
    assert hold_of(Decision(Action.HOLD, "ended", inputs={"hold": "mass-end"}), None) == "mass-end"
    assert hold_of(Decision(Action.HOLD, "ended", inputs={"hold": "frozen"}), None) == "set-aside"
