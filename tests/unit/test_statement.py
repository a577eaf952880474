"""What a participant signs, and its shape on the wire."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from bot.domain.statement import MAX_LIFE_S, Binding, Said, Statement
from bot.feeds.statements import as_fields, binding_of, from_fields, signature_of, statement_of
from bot.feeds.wire import Refused
from tests.support.sessions import STUDENT, TUTOR

NOW_S = 1_800_000_000
NONCE = "0x0123456789abcdef"
END = Statement(Said.END, 31_337, TUTOR, 12, STUDENT, NOW_S + 600, NONCE)
BODY = {"action": "end-session", "address": STUDENT, "expires": NOW_S, "nonce": NONCE}

statements = st.builds(
    Statement,
    action=st.sampled_from(Said),
    chain_id=st.integers(1, 2**63 - 1),
    contract=st.sampled_from([STUDENT, TUTOR]),
    session_id=st.integers(1, 2**63 - 1),
    address=st.sampled_from([STUDENT, TUTOR]),
    expires_s=st.integers(1, 10**11 - 1),
    nonce=st.from_regex(r"0x[0-9a-f]{16,64}", fullmatch=True),
)

bindings = st.builds(
    Binding,
    chain_id=st.integers(1, 2**63 - 1),
    contract=st.sampled_from([STUDENT, TUTOR]),
    address=st.sampled_from([STUDENT, TUTOR]),
    expires_s=st.integers(1, 10**11 - 1),
    nonce=st.from_regex(r"0x[0-9a-f]{16,64}", fullmatch=True),
)


def test_text__of_an_end__is_what_the_documentation_shows() -> None:
    assert END.text() == (
        "LangDAO: end my lesson now\n"
        "\n"
        "Session 12 ends, and is paid up to that moment.\n"
        "\n"
        "Action: end-session\n"
        "Session: 12\n"
        f"Address: {STUDENT}\n"
        f"Contract: {TUTOR}\n"
        "Chain: 31337\n"
        "Expires: 2027-01-15T08:10:00Z\n"
        "Nonce: 0x0123456789abcdef"
    )


def test_text__keeper_in_another_time_zone__is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    here = END.text()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        there = END.text()
    time.tzset()
    assert there == here


def test_text__of_a_binding__is_what_the_documentation_shows() -> None:
    text = Binding(31_337, TUTOR, STUDENT, NOW_S + 600, NONCE).text()
    shown = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    shown = shown.partition("## A page that signed")[2].partition("## Threats")[0]
    for line in text.splitlines():
        name, colon, _ = line.partition(": ")
        assert (f'"{line}"' if line.startswith("LangDAO") else f"{name}{colon}") in shown
    assert text == (
        "LangDAO: this page is mine\n"
        "\n"
        "What is for me alone may be shown here. Sign this only where you have your lessons.\n"
        "\n"
        "Action: bind\n"
        f"Address: {STUDENT}\n"
        f"Contract: {TUTOR}\n"
        "Chain: 31337\n"
        "Expires: 2027-01-15T08:10:00Z\n"
        "Nonce: 0x0123456789abcdef"
    )


@given(statements, bindings)
def test_text__of_a_statement_and_a_binding__never_the_same(one: Statement, other: Binding) -> None:
    """equal texts are equal statements, and none of one kind is one of the other"""
    assert one.text() != other.text()
    assert other.digest() == bytes(_hash_eip191_message(encode_defunct(text=other.text())))


@given(bindings, bindings)
def test_text__of_bindings__equal_texts_are_equal_bindings(one: Binding, other: Binding) -> None:
    assert (one.text() == other.text()) == (one == other)


@given(statements)
def test_digest__of_any_statement__is_what_a_wallet_signs(one: Statement) -> None:
    assert one.digest() == bytes(_hash_eip191_message(encode_defunct(text=one.text())))


@given(statements, statements)
def test_text__binds_all_it_says__equal_texts_are_equal_statements(one: Statement, other: Statement) -> None:
    """It binds action, session, address, contract, chain, expiry and nonce, so equal texts are equal statements."""
    assert (one.text() == other.text()) == (one == other)


@pytest.mark.parametrize(
    ("now_s", "why"),
    [
        (END.expires_s - MAX_LIFE_S - 1, "too-long"),
        (END.expires_s - MAX_LIFE_S, None),
        (END.expires_s - 1, None),
        (END.expires_s, "expired"),
    ],
)
def test_untimely__around_its_hour__only_then(now_s: int, why: str | None) -> None:
    assert END.untimely(now_s) == why


@given(statements)
def test_fields__there_and_back__equal(one: Statement) -> None:
    assert from_fields(as_fields(one)) == one


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action": "withdraw"}, "bad-action"),
        ({"action": "bind"}, "bad-action"),
        ({"action": ["end-session"]}, "bad-action"),
        ({"action": None}, "bad-action"),
        ({"address": "me"}, "bad-address"),
        ({"expires": "soon"}, "bad-expiry"),
        ({"expires": True}, "bad-expiry"),
        ({"expires": 1.5}, "bad-expiry"),
        ({"expires": 10**11}, "bad-expiry"),
        ({"expires": 0}, "bad-expiry"),
        ({"nonce": "0x01"}, "bad-nonce"),
        ({"nonce": NONCE.upper()}, "bad-nonce"),
        ({"nonce": NONCE + "\n"}, "bad-nonce"),
        ({"nonce": 7}, "bad-nonce"),
    ],
)
def test_statement_of__malformed__refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused) as refused:
        statement_of({**BODY, **change}, 1, TUTOR, 12)
    assert refused.value.reason == reason


@pytest.mark.parametrize("change", [{"chainId": 0}, {"chainId": "1"}, {"sessionId": 2**63}, {"contract": "0x"}])
def test_from_fields__malformed__refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        from_fields({**as_fields(END), **change})


@pytest.mark.parametrize("signature", [None, 5, "", "0x", "0x1", "12", "0xzz", "0x" + "00" * 4097, "0x00\n"])
def test_signature_of__no_hex_or_too_long__refused(signature: object) -> None:
    with pytest.raises(Refused):
        signature_of({"signature": signature})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
)


@given(JSON)
def test_from_fields__arbitrary_json__statement_or_refused(said: Any) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(binding_of(said, 1, TUTOR, STUDENT), Binding)
    for fields in (said, {**as_fields(END), "action": said}, {**as_fields(END), "nonce": said, "expires": said}):
        with contextlib.suppress(Refused):
            assert isinstance(from_fields(fields), Statement)
