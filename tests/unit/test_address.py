"""Addresses as the chain writes them, against another library."""

from __future__ import annotations

import pytest
from eth_utils import is_hex_address, to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from bot.domain.address import checksum, same
from tests.support.sessions import STUDENT, TUTOR

TEXTS = st.text(max_size=44) | st.from_regex(r"0[xX][0-9a-gA-F]{39,41}", fullmatch=True)


@given(TEXTS | st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()))
def test_checksum__any_text__the_eip_55_form_or_none(text: str) -> None:
    """`checksum` gives the EIP-55 form or None, never raises"""
    right = text[:2].lower() == "0x" and is_hex_address(text)
    assert checksum(text) == (to_checksum_address(text) if right else None)


def test_checksum__address_seen_before__is_not_worked_out_again() -> None:
    """cheap for an address seen before"""
    checksum(STUDENT.lower())
    before = checksum.cache_info().hits
    assert checksum(STUDENT.lower()) == STUDENT
    assert checksum.cache_info().hits == before + 1


@pytest.mark.parametrize(
    ("left", "right", "agree"),
    [(STUDENT, STUDENT, True), (STUDENT, TUTOR, False), (None, TUTOR, True), (STUDENT, None, True), (None, None, True)],
)
def test_same__address_that_was_not_said__contradicts_nothing(left: str | None, right: str | None, agree: bool) -> None:
    """True unless both are given and differ"""
    assert same(left, right) is agree
