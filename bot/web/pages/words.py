"""The words of the session page, for the server that renders it and for the script that keeps it up to date.

Promises: one place for each sentence: the script gets these as JSON. A sentence that tells of trouble has one button.
"""

from __future__ import annotations

from typing import Any, Final

UNKNOWN: Final = "unknown"

PILLS: Final = {
    "none": "Not on chain yet",
    "running": "Running",
    "due": "Payment due",
    "ending": "Ending",
    "held": "Payment due",
    "ended": "Ended",
    UNKNOWN: "Unknown",
}

HEADLINES: Final = {
    "none": "The lesson hasn’t begun on chain",
    "running": "Your lesson is running",
    "due": "Please end the lesson and pay",
    "ask": "Is the lesson still going on?",
    "ending": "The keeper is ending the lesson",
    "held": "Please end the lesson and pay",
    "ended": "The lesson has ended",
    UNKNOWN: "We don’t know this lesson",
}

WHY: Final = {
    "none": "Nothing is billed before the student has started the session.",
    "running": "It is billed by the second until somebody ends it.",
    "ended": "This is what was paid.",
    UNKNOWN: "The link may be old or mistyped. Whatever runs on chain goes on running.",
}

WHEN: Final = {
    "due": "The keeper ends it in",
    "ending": "Its transaction is on the way. Nothing is left to do.",
    "open": "Nobody ends it for you yet.",
    "running": "You can end it yourself at any time.",
    "lasts": "The student’s balance lasts for",
    "drained": "The student’s balance is used up: from here on the tutor works unpaid.",
}

# code: (sentence, button, what the button does in the page)
TROUBLE: Final = {
    UNKNOWN: ("Nothing is known of this lesson here.", "Look again", "refresh"),
    "paused": ("The keeper is paused and ends nothing for now.", "End session & pay", "pay"),
    "watching": ("The keeper only watches and ends nothing.", "End session & pay", "pay"),
    "set-aside": ("The keeper tried to end it and couldn’t.", "End session & pay", "pay"),
    "keeper-away": ("The keeper isn’t connected, so nobody ends it for you.", "End session & pay", "pay"),
    "down": ("The server can’t be reached; the figures go on from what it said last.", "Try again", "refresh"),
    "nothing-open": ("No lesson is open in this tab.", "Look again", "find"),
}

ENDED_BY: Final = {
    "student": "by the student",
    "tutor": "by the tutor",
    "keeper": "by the keeper",
    "owner": "by the service",
}


def for_script() -> dict[str, Any]:
    """All of it, as the page's script reads it."""
    return {
        "pills": PILLS,
        "headlines": HEADLINES,
        "why": WHY,
        "when": WHEN,
        "trouble": TROUBLE,
        "endedBy": ENDED_BY,
    }
