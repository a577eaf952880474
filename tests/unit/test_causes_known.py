"""Each alert, each reason of /ready and each check of `doctor` has a test that brings it about by its real cause.

Such a test says so itself: `@pytest.mark.provokes("alert.head", "ready.head-old", "doctor.rpc.failed")`. Here these
marks are held against what there is, so that a new alert, reason or finding fails until a test provokes it.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

import pytest

from bot.ops import doctor
from bot.ops.catalogue import ALERTS
from bot.ops.readiness import NAMES

TESTS = Path(__file__).resolve().parents[1]
DOCTOR = Path(doctor.__file__).parent


@lru_cache
def provoked() -> dict[str, set[str]]:
    """What the tests say that they provoke: name -> ids of the tests."""
    found: dict[str, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.provokes":
                    for name in mark.args:
                        found.setdefault(ast.literal_eval(name), set()).add(f"{path.name}::{node.name}")
    return found


def checks() -> set[str]:
    return {f"doctor.{name}" for stage in doctor.STAGES for name in stage}


def findings() -> set[str]:
    """`doctor.<check>.<result>` for each that isn't right, as the code makes them."""
    found = set()
    for path in DOCTOR.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "Check"
                and isinstance(node.args[0], ast.Constant)
            ):
                results = {one.value for one in ast.walk(node.args[1]) if isinstance(one, ast.Constant)}
                found |= {f"doctor.{node.args[0].value}.{result}" for result in results & {"warning", "failed"}}
    return found


@pytest.mark.parametrize("name", sorted({*ALERTS, *(f"ready.{name}" for name in NAMES), *findings()}))
def test_causes__each_name__is_provoked_by_a_test(name: str) -> None:
    assert provoked().get(name), f"no test is marked @pytest.mark.provokes({name!r})"


@pytest.mark.parametrize("check", sorted(checks()))
def test_causes__each_check__has_a_test_whatever_it_finds(check: str) -> None:
    assert [name for name in provoked() if name == check or name.startswith(f"{check}.")]


def test_causes__marks__name_what_there_is() -> None:
    known = {*ALERTS, *(f"ready.{name}" for name in NAMES), *findings(), *checks()}
    # A check that fails by an exception has no such line in the code.
    assert {name for name in provoked() if name not in known and name.rpartition(".")[0] not in checks()} == set()


def test_findings__are_found_in_the_code() -> None:
    assert {"doctor.rpc.failed", "doctor.rpc.warning", "doctor.schema.warning"} <= findings()
