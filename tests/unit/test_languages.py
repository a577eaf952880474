"""A page gets a nudge in the language that its browser likes best."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.web.gateway.languages import preferred, spoken

TEXTS = {"en": "Hello", "de": "Hallo", "pt": "Olá"}


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("tlh, en;q=0.5, pt;q=0.7", "pt"),
        ("pt_BR", "pt"),
        ("EN", "en"),
        ("de;q=0, en;q=0.1", "en"),
        ("de;q=many", None),
        ("*", None),
        ("", None),
    ],
)
def test_preferred__accept_language__the_best_that_is_there(header: str, language: str | None) -> None:
    assert preferred(header, TEXTS) == language


def test_spoken__several_texts__the_readers_alone() -> None:
    said = spoken({"id": "n", "text": "Hello", "locale": "en", "texts": TEXTS}, "de")
    assert said == {"id": "n", "text": "Hallo", "locale": "de"}


def test_spoken__reader_says_nothing__english_alone() -> None:
    assert spoken({"text": "Hello", "texts": TEXTS}, None) == {"text": "Hello"}


def test_spoken__the_contact_had_chosen__stays_as_it_is() -> None:
    assert spoken({"text": "Bonjour", "locale": "fr"}, "de") == {"text": "Bonjour", "locale": "fr"}


@given(st.text(max_size=60))
def test_preferred__any_header__never_raises(header: str) -> None:
    assert preferred(header, TEXTS) in (None, *TEXTS)
