"""An import may point inwards only: cli → keeper → {chain, feeds, nudges, web, ops} → reconciler → store → domain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "bot"

# What each part may import of the project, besides itself. `errors` and `settings` are words that all may use, but for
# the core: it is given its policy. What isn't listed may not be imported: so chain, feeds and nudges don't know each
# other, nobody but `keeper` knows all parts, and nobody knows the command line.
EDGE = {"errors", "settings", "values", "domain"}
MAY_IMPORT: dict[str, set[str]] = {
    "domain": set(),
    "errors": set(),
    "settings": {"domain", "errors", "values"},
    "values": {"domain"},
    "loading": {"errors", "settings"},
    "places": {"errors", "settings"},
    "store": {"domain", "errors"},
    "reconciler": {"domain", "store"},
    "chain": EDGE | {"store"},
    "feeds": EDGE,
    "nudges": EDGE | {"feeds"},
    "web": EDGE | {"places", "store", "reconciler", "chain", "feeds"},
    "ops": EDGE | {"places", "loading", "store", "reconciler", "chain", "feeds", "ground", "nudges"},
    "ground": EDGE | {"places", "store", "chain"},
    "desk": EDGE | {"store", "reconciler", "chain", "feeds", "web", "ops", "ground"},
    "backend": EDGE | {"places", "store", "reconciler", "chain", "feeds", "web", "ops"},
    "hooks": EDGE | {"store", "reconciler", "chain", "feeds", "nudges", "ops"},
    "nudging": EDGE | {"store", "reconciler", "nudges", "ops"},
    "plans": EDGE | {"store", "reconciler", "nudges"},
    "hearing": EDGE | {"places", "store", "reconciler", "chain", "feeds", "web", "ops", "ground", "hooks", "backend"},
    "keeper": EDGE
    | {
        "store",
        "reconciler",
        "chain",
        "feeds",
        "nudges",
        "web",
        "ops",
        "ground",
        "hooks",
        "hearing",
        "plans",
        "desk",
        "nudging",
    },
    "cli": EDGE | {"places", "loading", "store", "chain", "feeds", "web", "ops", "keeper"},
}
# The core has no clock, no I/O and no framework.
PURE = {
    "__future__",
    "abc",
    "collections",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "heapq",
    "re",
    "types",
    "typing",
    "eth_hash",
}
CLOCKS = re.compile(r"\b(now|utcnow|today)\(")


def modules() -> Iterator[tuple[str, Path]]:
    """(part, file) of every module: the part is the package or module below `bot`."""
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT)
        if inside.parts != ("__init__.py",):
            yield inside.parts[0].removesuffix(".py"), path


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_modules__every_part__has_its_place_in_the_table() -> None:
    assert {part for part, _ in modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports__of_each_part__point_inwards_only(part: str) -> None:
    """An import may point inwards only."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for owner, path in modules()
        if owner == part
        for name in imported(path)
        if name.startswith("bot.") and name.split(".")[1] not in MAY_IMPORT[part] | {part}
    ]
    assert wrong == []


def test_table__itself__has_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        free = [part for part, needs in MAY_IMPORT.items() if part not in order and needs <= set(order)]
        assert free, "a circle"
        order += free


def test_domain__imports__only_pure_parts_of_the_standard_library_and_keccak() -> None:
    """pure. … No I/O, no clock, no framework"""
    for part, path in modules():
        if part == "domain":
            strange = {name.split(".")[0] for name in imported(path)} - PURE - {"bot"}
            assert strange == set(), path
            assert CLOCKS.search(path.read_text()) is None, path


@pytest.mark.parametrize("word", ["select", "insert", "update", "delete", "text"])
def test_sql__outside_of_the_store__none(word: str) -> None:
    """One place for each fact: … SQL in `store/`."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for part, path in modules()
        if part != "store"
        for name in imported(path)
        if name in (f"sqlmodel.{word}", f"sqlalchemy.{word}")
    ]
    assert wrong == []


@pytest.mark.parametrize("heavy", ["web3", "eth_account", "ape", "apprise", "alembic"])
def test_heavy_libraries__imported_at_the_top_of_a_module__none(heavy: str) -> None:
    """No import-time work: what takes long to import is imported where it is used. No web3 here (`chain/rpc`)."""
    for part, path in modules():
        if path.is_relative_to(ROOT / "store" / "migrations"):
            continue
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert heavy not in {name.split(".")[0] for name in names}, (part, path)


def test_domain__imported_alone__brings_nothing_heavy() -> None:
    code = "import bot.domain.decide, bot.domain.linking, sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    loaded = {name.split(".")[0] for name in said.stdout.split()}
    assert not loaded & {"asyncio", "sqlalchemy", "sqlmodel", "aiohttp", "web3", "structlog", "socketio"}


def test_ground__keeper_imported__brings_nothing_heavy() -> None:
    """The first request to the chain goes out before anything heavy is imported."""
    code = "import bot.cli.run, bot.settings, bot.ops.logging, bot.keeper, sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    loaded = {name.split(".")[0] for name in said.stdout.split()}
    assert "aiohttp" in loaded  # what the first request needs
    late = {
        "sqlalchemy",
        "sqlmodel",
        "alembic",
        "fastapi",
        "uvicorn",
        "socketio",
        "redis",
        "eth_account",
        "apscheduler",
    }
    assert not loaded & (late | {"web3", "apprise", "jinja2", "prometheus_client", "opentelemetry"})
