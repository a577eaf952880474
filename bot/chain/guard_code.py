"""The settlement guard's code and an account's delegation to it, as bytes.

Promises: `runtime_code` is the code that a node reports of a guard deployed for this keeper and this LangDAO, byte for
byte (the contract tests hold it to a real deployment), so that comparing the two says everything about who may call it
and what it can reach. `delegate_of` reads an account's code.
Doesn't promise: that an account whose code was right a block ago is still delegated. Whoever signs looks again.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from bot.domain.address import checksum

# EIP-7702: the code of a delegated account is this and the address.
DELEGATION_PREFIX = bytes.fromhex("ef0100")

# A plain call with fewer than this fails on a delegated account; the usual 21,000 of a transfer are too few.
TRANSFER_GAS = 21_062


@lru_cache
def template() -> bytes:
    """The code without its immutables."""
    return bytes.fromhex((files("bot.chain") / "abi" / "SettlementGuard.runtime.hex").read_text())


def runtime_code(keeper: str, langdao: str) -> bytes:
    """The code of a guard with these immutables, which Vyper appends in the order of their declaration."""
    return template() + b"".join(bytes(12) + bytes.fromhex(address[2:]) for address in (keeper, langdao))


def immutables_of(code: bytes) -> tuple[str, str] | None:
    """Keeper and LangDAO of a guard's code, checksummed; None if it isn't a guard's."""
    if len(code) != len(template()) + 64 or not code.startswith(template()):
        return None
    keeper, langdao = code[-64:-32], code[-32:]
    if any(keeper[:12]) or any(langdao[:12]):
        return None
    return str(checksum("0x" + keeper[12:].hex())), str(checksum("0x" + langdao[12:].hex()))


def delegation_code(delegate: str) -> bytes:
    """The code of an account that delegates to this contract."""
    return DELEGATION_PREFIX + bytes.fromhex(delegate[2:])


def delegate_of(code: bytes) -> str | None:
    """Whom an account with this code delegates to, checksummed; None if to nobody."""
    if len(code) != 23 or not code.startswith(DELEGATION_PREFIX):
        return None
    return str(checksum("0x" + code[3:].hex()))
