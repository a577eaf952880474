"""The indexed heap of deadlines, against a dictionary that is searched."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bot.domain.deadlines import Deadlines


class Model(RuleBasedStateMachine):
    """Random settings, moves, drops and pops."""

    def __init__(self) -> None:
        super().__init__()
        self.real: Deadlines[int] = Deadlines()
        self.model: dict[int, int] = {}

    @rule(key=st.integers(0, 8), at=st.none() | st.integers(0, 50))
    def set(self, key: int, at: int | None) -> None:
        self.real.set(key, at)
        if at is None:
            self.model.pop(key, None)
        else:
            self.model[key] = at

    @rule(now=st.integers(0, 60))
    def pop_due(self, now: int) -> None:
        due = self.real.pop_due(now)
        times = [self.model.pop(key) for key in due]
        assert times == sorted(times)
        assert all(at <= now for at in times)
        assert all(at > now for at in self.model.values())

    @invariant()
    def agrees(self) -> None:
        assert len(self.real) == len(self.model)
        assert self.real.earliest() == min(self.model.values(), default=None)
        assert all(self.real.get(key) == self.model.get(key) for key in range(9))


TestDeadlines = Model.TestCase


def test_set__moved_very_often__heap_does_not_grow() -> None:
    """Moved and dropped entries stay in the heap until they come up or outnumber the live ones; then it is rebuilt."""
    deadlines: Deadlines[int] = Deadlines()
    for at in range(20_000):
        deadlines.set(at % 10, at)
        assert len(deadlines._heap) <= 64 + 2 * 10


def test_set__to_what_it_is__costs_no_entry() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for _ in range(10):
        deadlines.set(1, 5)
    assert len(deadlines._heap) == 1


def test_set__each_of_many_moved_once__heap_is_not_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """setting, moving and dropping a deadline … cost O(log n)"""
    rebuilt: list[int] = []
    monkeypatch.setattr(heapq, "heapify", lambda heap: rebuilt.append(len(heap)))
    deadlines: Deadlines[int] = Deadlines()
    for at in range(2_000):
        deadlines.set(at % 1_000, at)
    assert rebuilt == []


@given(st.lists(st.integers(0, 5), min_size=1))
def test_pop_due__equal_times__in_the_order_of_their_keys(times: list[int]) -> None:
    """Of equal deadlines the smaller key comes first."""
    deadlines: Deadlines[int] = Deadlines()
    for key, at in reversed(list(enumerate(times))):
        deadlines.set(key, at)
    assert deadlines.pop_due(10) == sorted(range(len(times)), key=lambda key: (times[key], key))
