"""A seed is the same history in every run, whatever else the process has loaded: what CI finds is found again by it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

CONSTANTS = range(50_000, 50_040)


def _drawn() -> list[int]:
    found: list[int] = []

    @seed(7)
    @settings(max_examples=400, database=None)
    @given(st.integers(0, 10**9))
    def draw(number: int) -> None:
        found.append(number)

    draw()
    return found


def test_seed__another_module_is_loaded__draws_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _drawn()
    module = ModuleType("loaded")
    module.__file__ = str(tmp_path / "loaded.py")
    Path(module.__file__).write_text(f"NUMBERS = {list(CONSTANTS)}\n")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert _drawn() == before
