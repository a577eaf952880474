"""Does the property machine find what it is there to find? Each fault here is one that a change could bring.

A deliberate fault is put into the rules, and the random histories have to find it by the promise that it breaks.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import Phase

from bot.domain import bill, breaker, decide, linking, rules, saw, session, trust
from bot.domain.facts import Fact, SessionKey, Trust
from bot.domain.feeds import FeedBoard
from bot.domain.policy import Hints, Policy
from bot.domain.rules import Due, World
from bot.domain.session import Session
from bot.domain.trust import Allowed, Right
from bot.ops.inbox import Inbox
from bot.reconciler import memory
from bot.store import fact_rows
from tests.property.machine import Machine
from tests.property.test_keeper_machine import PATIENCE, ROUNDS, play

Patch = pytest.MonkeyPatch


def ignores_signs_of_life(patch: Patch) -> None:
    patch.setattr(rules, "alive_ms", lambda *_: 0)


def counts_browser_time(patch: Patch) -> None:
    fold = session.fold

    def by_their_clock(one: Session, fact: Fact) -> None:
        said_ms = fact.hint.said_ms
        fold(one, fact if said_ms is None else replace(fact, hint=replace(fact.hint, received_ms=said_ms)))

    for module in (memory, saw):
        patch.setattr(module, "fold", by_their_clock)


def ends_on_an_anonymous_word(patch: Patch) -> None:
    patch.setitem(trust.TABLE[Trust.ANONYMOUS], Right.END, Allowed.UNLESS_ALIVE)


def takes_its_own_absence_for_silence(patch: Patch) -> None:
    patch.setattr(FeedBoard, "outage", lambda *_: None)


def drops_the_cap_of_a_contradiction(patch: Patch) -> None:
    def without_cap(one: Session, policy: Policy, world: World) -> Iterator[Due]:
        return rules.ended_by_participant(one, replace(policy, contradiction_cap_ms=10**12), world)

    _instead_of(patch, rules.ended_by_participant, without_cap)


def ends_a_contradiction_without_asking(patch: Patch) -> None:
    def unasked(one: Session, policy: Policy, world: World) -> Iterator[Due]:
        for due in rules.ended_by_participant(one, policy, world):
            cap_ms = due.since_ms + policy.contradiction_cap_ms
            yield due._replace(end_ms=cap_ms, alert_ms=None) if due.rule == "contradiction" else due

    _instead_of(patch, rules.ended_by_participant, unasked)


def _instead_of(patch: Patch, rule: rules.Rule, other: rules.Rule) -> None:
    patch.setattr(decide, "RULES", tuple(other if one is rule else one for one in rules.RULES))


def reads_facts_in_another_order(patch: Patch) -> None:
    facts_of = fact_rows.facts_of

    def reversed_facts(tx: Any, keys: Sequence[SessionKey]) -> list[Fact]:
        return facts_of(tx, keys)[::-1]

    patch.setattr(fact_rows, "facts_of", reversed_facts)


def gives_nobody_time_to_react(patch: Patch) -> None:
    patch.setattr(rules, "_window", lambda *_: 0)


def never_trips(patch: Patch) -> None:
    patch.setattr(breaker.Breaker, "note", lambda *_: None)


def believes_the_backend_whatever_is_set(patch: Patch) -> None:
    patch.setattr(decide, "_weighed", lambda due, *_: due)


def signs_while_paused(patch: Patch) -> None:
    patch.setattr(memory.Conditions, "hold", None)


def forgets_a_pause(patch: Patch) -> None:
    async def forgotten(_: Inbox) -> None:
        pass

    patch.setattr(Inbox, "load_paused", forgotten)


def tries_what_reverts_for_ever(patch: Patch) -> None:
    patch.setattr(session, "_settlement_outcome", lambda *_: None)


def counts_one_lesson_of_a_balance(patch: Patch) -> None:
    used_up_at = bill.used_up_at
    patch.setattr(bill, "used_up_at", lambda balance, running: used_up_at(balance, list(running)[:1]))


def joins_a_room_to_other_people(patch: Patch) -> None:
    patch.setattr(linking, "same", lambda *_: True)


def doesnt_hear_a_participant(patch: Patch) -> None:
    patch.setitem(trust.TABLE[Trust.PROVEN], Right.LIFE, Allowed.NO)


FAULTS: dict[Callable[[Patch], None], str] = {
    ignores_signs_of_life: "alive within the grace",
    counts_browser_time: "are given|is given|not dealt with|never decided on|equal session",
    ends_on_an_anonymous_word: "are given|is given|never lost|no word of the backend",
    takes_its_own_absence_for_silence: "that could be heard",
    drops_the_cap_of_a_contradiction: "not dealt with",
    ends_a_contradiction_without_asking: "the question was delivered|it could be answered",
    reads_facts_in_another_order: "the same facts give an equal session|replay equals history",
    gives_nobody_time_to_react: "window and grace are given",
    never_trips: "ended at once",
    believes_the_backend_whatever_is_set: "no word of the backend ends a lesson",
    signs_while_paused: "nothing is signed while",
    forgets_a_pause: "survive restarts|nothing is signed while paused",
    tries_what_reverts_for_ever: "is tried only when somebody says so",
    counts_one_lesson_of_a_balance: "used up|not dealt with",
    joins_a_room_to_other_people: "are given|never lost|the cap has passed",
    doesnt_hear_a_participant: "a participant says that it goes on|equal session|are given|is given",
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_machine__rules_with_this_fault__finds_it(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    hints = Hints.NO if fault is believes_the_backend_whatever_is_set else Hints.YES
    machine = type("Sabotaged", (Machine,), {"hints": hints, "reached": Counter()})
    fault(monkeypatch)
    with pytest.raises(AssertionError, match=FAULTS[fault]):  # noqa: PT012 - which of the rounds finds it is chance
        for number in range(ROUNDS * PATIENCE):
            play(machine, number, phases=[Phase.generate], report_multiple_bugs=False)  # it is enough to find it
