"""The settings of `bot.settings` as a Markdown table, for docs/configure.md.

    .venv/bin/python -m scripts.settings_table            prints the table
    .venv/bin/python -m scripts.settings_table --write    puts it between the markers of docs/configure.md

Promises: one row for each setting, in the order and under the headings of `bot.settings`. Nothing is said here that
isn't said there: name, type, default, unit and limits are read from the fields.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from bot.settings import Settings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configure.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"

UNITS = {"_s": "s", "_eth": "ETH", "_gwei": "gwei", "_blocks": "blocks"}
LIMITS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}
_HEADING = re.compile(r"    # (.+)")
_FIELD = re.compile(r"    (\w+): ")


def sections() -> Iterator[tuple[str, list[str]]]:
    """The headings in the source of `Settings`, each with the names of its fields."""
    heading = ""
    names: list[str] = []
    for line in inspect.getsource(Settings).splitlines():
        if found := _HEADING.fullmatch(line):
            if names:
                yield heading, names
            heading, names = found[1], []
        elif (found := _FIELD.match(line)) and found[1] in Settings.model_fields:
            names.append(found[1])
    yield heading, names


def row(name: str, field: FieldInfo) -> str:
    """One line of the table."""
    why = (field.description or "").replace("<", "&lt;")
    cells = (f"`{name.upper()}`", _values(name, field), _default(field), why)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table() -> str:
    """All of it."""
    lines: list[str] = []
    for heading, names in sections():
        lines += [f"### {heading}", "", "| name | value | default | |", "|---|---|---|---|"]
        lines += [row(name, Settings.model_fields[name]) for name in names]
        lines.append("")
    return "\n".join(lines)


def _values(name: str, field: FieldInfo) -> str:
    types = [one for one in (get_args(field.annotation) or [field.annotation]) if one is not type(None)]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{one}`" for one in types)
    kind: Any = types[0]
    if kind is SecretStr:
        return "text, secret"
    if kind is bool:
        return "`0` or `1`"
    if kind not in (int, float):
        return {str: "text", Path: "path"}[kind]
    words = "number" if kind is float else "whole number"
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    limits = [
        text.format(f"{getattr(one, bound):,}")
        for one in field.metadata
        for bound, text in LIMITS.items()
        if hasattr(one, bound)
    ]
    return ", ".join([f"{unit}" if unit else words, *limits])


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def written(document: str) -> str:
    """`document` with the present table between its markers."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="The settings as a Markdown table.")
    parser.add_argument("--write", action="store_true", help=f"put it into {TARGET.name}")
    if not parser.parse_args().write:
        print(table())
        return 0
    TARGET.write_text(written(TARGET.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
