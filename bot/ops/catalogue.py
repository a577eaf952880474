"""The alerts that there are.

Promises: every alert's name is here, once; `docs/alerts.md` has a section for each, which a test holds. A *condition*
holds until its cause is gone: it is told once, and again only after that; the others are events.
"""

from __future__ import annotations

from typing import NamedTuple

GUIDE = "docs/alerts.md"


class Alert(NamedTuple):
    condition: bool  # holds until its cause is gone
    costs: str  # what it costs while nobody does anything


ALERTS: dict[str, Alert] = {
    "alert.wrong-session": Alert(False, "a student's lesson was cut short"),
    "alert.balance": Alert(True, "no session is ended: each runs on at its students' cost"),
    "alert.balance-low": Alert(True, "nothing yet"),
    "alert.gas-budget": Alert(True, "no session is ended: each runs on at its students' cost"),
    "alert.fee-cap": Alert(True, "this session runs on at its student's cost"),
    "alert.set-aside": Alert(True, "this session runs on at its student's cost, or its tutor isn't paid"),
    "alert.foreign-nonce": Alert(False, "one transaction is signed again, some seconds later"),
    "alert.delegation": Alert(True, "no session is ended: each runs on at its students' cost"),
    "alert.former-key": Alert(True, "the sessions of that transaction wait for it, at their students' cost"),
    "alert.orphan": Alert(False, "this session runs on at its student's cost, if nobody is there"),
    "alert.finality": Alert(True, "no session is ended: each runs on at its students' cost"),
    "alert.finality-still": Alert(False, "settlements stay unfinal"),
    "alert.logs-differ": Alert(False, "nothing, once what was missing has been taken"),
    "alert.backend-limit": Alert(True, "the backend may end lessons that go on"),
    "alert.contacts": Alert(True, "who is new in the file isn't reached"),
    "alert.first-start": Alert(False, "sessions whose call was over before run on at their students' cost"),
    "alert.mass-end": Alert(True, "the sessions held run on at their students' cost, if they are over"),
    "alert.uncorroborated": Alert(False, "this session runs on at its student's cost, if it is over"),
    "alert.canary": Alert(False, "a lesson whose end nobody reports is ended later"),
    "alert.contradiction": Alert(False, "this session runs on at its student's cost, if it is over"),
    "alert.head": Alert(True, "nothing new is seen, and no session is ended"),
    "alert.database": Alert(True, "nothing is stored, so nothing is signed"),
    "alert.key": Alert(True, "no session is ended: each runs on at its students' cost"),
    "alert.feeds": Alert(True, "ends off chain aren't heard; silence counts for nothing"),
    "alert.backup": Alert(False, "nothing yet"),
    "alert.stopped": Alert(True, "nothing is seen, nudged or ended"),
    "alert.test": Alert(False, "nothing"),
}


def guide(name: str) -> str:
    """Where to read what to do."""
    return f"{GUIDE}#{name.removeprefix('alert.')}"
