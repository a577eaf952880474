"""The settlement guard's words on the wire: the call, its events, what an item costs.

Promises: `settle` is encoded byte for byte as eth_abi does; `decode` gives a typed event, or None for a log that isn't
exactly one of the guard's, and never raises. Selector, topics and gas are literals, which tests compare with the ABI
and the source. Doesn't promise that a log came from the guard: its address says in whose name it ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bot.domain.facts import SessionKey

SETTLE = "0xe2e0731c"
SETTLED = "0xcc3183593ff0e17b930d6f19f832ddcf865bf7ef55eb16754850c55ac447b2ad"
SKIPPED = "0xb446599b01bc9337750fbc56e1674f7b9e13273e13201ae1b0698a23fba4ebbb"
FAILED = "0x173adf84122b950a63bee407f0e3f9ab814d897b6e5e12c19e39507e71659e2b"

MAX_ITEMS = 128
GAS_NEEDED = 456_350  # what has to be left at each item; what isn't used stays for the next
ENTRY_GAS = 30_000  # the transaction itself, and the way to the first item
ITEM_DATA_GAS = 4_000  # an item's 96 bytes, at the dearest

NOT_ACTIVE, OTHER_SESSION, OTHER_STUDENT, TOO_LITTLE_GAS = 1, 2, 3, 4
REASONS = {
    NOT_ACTIVE: "the tutor's slot is empty",
    OTHER_SESSION: "another session is in the slot, and was left alone",
    OTHER_STUDENT: "the session has another student, and was left alone",
    TOO_LITTLE_GAS: "the transaction's gas didn't reach it",
}


class Settled(NamedTuple):
    """LangDAO was called and didn't revert. Proves nothing: LangDAO's own SessionEnded does."""

    session_id: int


class Skipped(NamedTuple):
    session_id: int
    reason: int


class Failed(NamedTuple):
    session_id: int
    data: bytes


def settle(keys: Sequence[SessionKey]) -> str:
    """The call that ends these."""
    words = [f"{32:064x}", f"{len(keys):064x}"]
    for key in keys:
        words += [_address(key.tutor), f"{key.session_id:064x}", _address(key.student)]
    return SETTLE + "".join(words)


def gas_limit(count: int, each: int) -> int:
    """The limit for so many: `each` for all but the last, which has to find what the guard asks for."""
    return ENTRY_GAS + (count - 1) * each + count * ITEM_DATA_GAS + GAS_NEEDED if count else 0


def most_within(gas: int, each: int) -> int:
    """How many fit into a transaction with this limit; at least one."""
    return max(1, min(MAX_ITEMS, (gas - ENTRY_GAS - GAS_NEEDED + each) // (each + ITEM_DATA_GAS)))


def decode(topics: Sequence[str], data: str) -> Settled | Skipped | Failed | None:
    """The event of a log with these topics and this data (0x hex), None when it isn't one of the guard's."""
    if len(topics) != 2:
        return None
    try:
        number, body = int(topics[1], 16), bytes.fromhex(data[2:])
    except ValueError:
        return None
    if topics[0] == SETTLED and not body:
        return Settled(number)
    if topics[0] == SKIPPED and len(body) == 32:
        return Skipped(number, int.from_bytes(body, "big"))
    if topics[0] == FAILED and len(body) >= 64 and body[:32] == (32).to_bytes(32, "big"):
        length = int.from_bytes(body[32:64], "big")
        return Failed(number, body[64 : 64 + length]) if len(body) == 64 + -(-length // 32) * 32 else None
    return None


def _address(address: str) -> str:
    return "0" * 24 + address[2:].lower()
