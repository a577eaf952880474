"""The guard's code and a delegation to it, as bytes. The contract tests hold the template to a real deployment."""

from __future__ import annotations

import pytest

from bot.chain.guard_code import delegate_of, delegation_code, immutables_of, runtime_code

KEEPER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
LANGDAO = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"


def test_immutables_of__a_guards_code__are_the_two_addresses() -> None:
    assert immutables_of(runtime_code(KEEPER, LANGDAO)) == (KEEPER, LANGDAO)
    assert immutables_of(runtime_code(KEEPER.lower(), LANGDAO.lower())) == (KEEPER, LANGDAO)


def flipped(code: bytes, at: int) -> bytes:
    return code[:at] + bytes([code[at] ^ 1]) + code[at + 1 :]


@pytest.mark.parametrize("at", [0, 500, -64, -32], ids=["first", "middle", "before keeper", "before langdao"])
def test_immutables_of__one_other_bit__is_no_guard(at: int) -> None:
    """a guard is one only if its code is the guard's, byte for byte, with the keeper and the LangDAO that it was
    made for."""
    code = runtime_code(KEEPER, LANGDAO)
    assert immutables_of(flipped(code, at % len(code))) is None


@pytest.mark.parametrize("code", [b"", b"\xef\x01\x00", runtime_code(KEEPER, LANGDAO)[:-1]])
def test_immutables_of__anything_else__is_no_guard(code: bytes) -> None:
    assert immutables_of(code) is None


def test_delegate_of__a_delegated_account() -> None:
    """`delegate_of` reads an account's code."""
    assert delegate_of(delegation_code(LANGDAO)) == LANGDAO


@pytest.mark.parametrize("code", [b"", b"\x60\x80", b"\xef\x01\x00" + bytes(19), b"\xef\x01\x01" + bytes(20)])
def test_delegate_of__anything_else__nobody(code: bytes) -> None:
    assert delegate_of(code) is None
