"""docs/configure.md has the settings as they are."""

from __future__ import annotations

import pytest

from bot.settings import Settings
from scripts import settings_table


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting__says_what_it_is(name: str) -> None:
    assert Settings.model_fields[name].description, f"{name.upper()} needs a description in bot/settings.py"


def test_table__has_each_setting_once() -> None:
    named = [name for _, names in settings_table.sections() for name in names]
    assert named == list(Settings.model_fields)


def test_configure_md__is_up_to_date() -> None:
    document = settings_table.TARGET.read_text()
    assert settings_table.BEGIN in document
    assert settings_table.END in document
    assert document == settings_table.written(document), "run: .venv/bin/python -m scripts.settings_table --write"


def test_table__shows_no_default_of_a_secret() -> None:
    rows = [line for line in settings_table.table().splitlines() if "text, secret" in line]
    assert rows
    assert all("| – |" in line for line in rows)
