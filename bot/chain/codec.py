"""The contract's words on the wire: selectors, topics, events, the session layout.

Promises: `decode` gives a typed event, or None for a log that isn't exactly one of the contract's (unknown topic, other
layout), and never raises; calls are encoded byte for byte as eth_abi does (a test compares both on random values);
addresses come out checksummed. Selectors and topics are literals, compared with the signatures by a test.
Doesn't promise that a log came from the contract, nor that what it says is plausible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from bot.domain.address import Address, checksum

START_SESSION = "0x14974de8"
END_SESSION = "0x7ce02794"
ACTIVE_SESSIONS = "0x23ef2936"
GET_SESSION = "0x402ff0db"
SESSION_COUNTER = "0xcc64e2af"
OWNER = "0x8da5cb5b"
STUDENT_BALANCES = "0x01bf7ff6"
PYUSD_TOKEN = "0x6613be4e"
DECIMALS = "0x313ce567"
BALANCE_OF = "0x70a08231"

SESSION_STARTED = "0xa1b15600c9aef5c5d3c0c18700942ad4caf125753a856588b1aa2a0a969b0063"
SESSION_ENDED = "0x1f566c0c31d295290bb19b5162e239dbdeeb51107556dd0c39b1a86a303ed393"
STUDENT_REGISTERED = "0xfe5b2460448f2d2597bf84d2f034eba36aee74fa0398907c1e9501aacd55ec51"
TUTOR_REGISTERED = "0xb825f885fabbf774de69a1255df84b85b730a6553b26edb062877027b406d449"
FUNDS_DEPOSITED = "0xf0d0e99cae184d0187b093b48894117462462379674a6e11d89c3fbb618e96b0"
FUNDS_WITHDRAWN = "0xa92ff919b850e4909ab2261d907ef955f11bc1716733a6cbece38d163a69af8a"
PAYMENT_PROCESSED = "0x0538ab32a957d2b55d0ec70a4029e73fdf19f500832839b1d7bafcfbca2a5630"

SESSION_BYTES = 320
_ADDRESS_PADDING = bytes(12)
_WORD = 64  # hex digits
ZERO_ADDRESS = "0x" + "0" * 40


class SessionStarted(NamedTuple):
    session_id: int
    student: Address
    tutor: Address
    language: int


class SessionEnded(NamedTuple):
    session_id: int
    tutor: Address
    duration_s: int
    paid: int


class StudentRegistered(NamedTuple):
    user: Address
    target_language: int
    budget_per_s: int


class TutorRegistered(NamedTuple):
    user: Address
    languages: tuple[int, ...]
    rate: int  # the event calls it ratePerHour; it is what registerTutor was given, per second


class FundsDeposited(NamedTuple):
    user: Address
    token: Address
    amount: int


class FundsWithdrawn(NamedTuple):
    user: Address
    token: Address
    amount: int


class PaymentProcessed(NamedTuple):
    payer: Address
    payee: Address
    amount: int


Event = (
    SessionStarted
    | SessionEnded
    | StudentRegistered
    | TutorRegistered
    | FundsDeposited
    | FundsWithdrawn
    | PaymentProcessed
)


def decode(topics: Sequence[str], data: str) -> Event | None:
    """The event of a log with these topics and this data (0x hex), None when it isn't one of the contract's."""
    decoder = _DECODERS.get(topics[0]) if topics else None
    if decoder is None:
        return None
    try:
        return decoder(topics, data)
    except (ValueError, IndexError):
        return None


# Decoders. Each one checks the layout (number of topics, length of data); a ValueError means "not that event".


# What a NamedTuple's constructor does, at a third of its cost.
_made = tuple.__new__


def _session_started(topics: Sequence[str], data: str) -> SessionStarted:
    if len(topics) != 4 or len(data) != 66:  # the two most frequent ones check by themselves: half their cost is calls
        raise ValueError
    return _made(SessionStarted, (int(topics[1], 16), _address(topics[2]), _address(topics[3]), _uint8(data)))


def _session_ended(topics: Sequence[str], data: str) -> SessionEnded:
    if len(topics) != 3 or len(data) != 130:
        raise ValueError
    return _made(SessionEnded, (int(topics[1], 16), _address(topics[2]), int(data[2:66], 16), int(data[66:], 16)))


def _student_registered(topics: Sequence[str], data: str) -> StudentRegistered:
    _check(topics, 2, data, 2)
    return StudentRegistered(_address(topics[1]), _uint8(data[2:66]), int(data[66:], 16))


def _tutor_registered(topics: Sequence[str], data: str) -> TutorRegistered:
    """The only event with a dynamic type: offset of the array, rate, then its length and items."""
    if len(topics) != 2 or (len(data) - 2) % _WORD or len(data) < 2 + 3 * _WORD:
        raise ValueError
    words = [data[start : start + _WORD] for start in range(2, len(data), _WORD)]
    at = int(words[0], 16)
    if at % 32 or at // 32 >= len(words):
        raise ValueError
    first = at // 32 + 1
    count = int(words[first - 1], 16)
    if first + count != len(words):
        raise ValueError
    return TutorRegistered(_address(topics[1]), tuple(_uint8(word) for word in words[first:]), int(words[1], 16))


def _funds_deposited(topics: Sequence[str], data: str) -> FundsDeposited:
    _check(topics, 3, data, 1)
    return FundsDeposited(_address(topics[1]), _address(topics[2]), int(data, 16))


def _funds_withdrawn(topics: Sequence[str], data: str) -> FundsWithdrawn:
    _check(topics, 3, data, 1)
    return FundsWithdrawn(_address(topics[1]), _address(topics[2]), int(data, 16))


def _payment_processed(topics: Sequence[str], data: str) -> PaymentProcessed:
    _check(topics, 3, data, 1)
    return PaymentProcessed(_address(topics[1]), _address(topics[2]), int(data, 16))


def _check(topics: Sequence[str], topic_count: int, data: str, words: int) -> None:
    if len(topics) != topic_count or len(data) != 2 + words * _WORD:
        raise ValueError


@lru_cache(maxsize=16_384)
def _address(word: str) -> Address:
    """An address from a topic (0x and 64 digits)."""
    address = checksum("0x" + word[-40:])
    if address is None or word[-64:-40] != "0" * 24:
        raise ValueError
    return address


@lru_cache(maxsize=1_024)
def _uint8(word: str) -> int:
    value = int(word, 16)
    if value > 255:
        raise ValueError
    return value


_DECODERS: dict[str, Callable[[Sequence[str], str], Event]] = {
    SESSION_STARTED: _session_started,
    SESSION_ENDED: _session_ended,
    STUDENT_REGISTERED: _student_registered,
    TUTOR_REGISTERED: _tutor_registered,
    FUNDS_DEPOSITED: _funds_deposited,
    FUNDS_WITHDRAWN: _funds_withdrawn,
    PAYMENT_PROCESSED: _payment_processed,
}
NAMES = {
    SESSION_STARTED: "SessionStarted",
    SESSION_ENDED: "SessionEnded",
    STUDENT_REGISTERED: "StudentRegistered",
    TUTOR_REGISTERED: "TutorRegistered",
    FUNDS_DEPOSITED: "FundsDeposited",
    FUNDS_WITHDRAWN: "FundsWithdrawn",
    PAYMENT_PROCESSED: "PaymentProcessed",
}


TOPICS = {name: topic for topic, name in NAMES.items()}


@dataclass(frozen=True, slots=True)
class OnChainSession:
    """A session as the contract holds it. Times in block seconds; `end_s` is 0 and `active` true while it runs."""

    student: Address
    tutor: Address
    token: Address
    start_s: int
    end_s: int
    rate: int  # base units of the token per second
    paid: int
    language: int
    id: int
    active: bool


def decode_session(data: bytes) -> OnChainSession | None:
    """The session in these 320 bytes, None for the all-zero one that stands for none. Raises ValueError."""
    if len(data) != SESSION_BYTES:
        raise ValueError(f"a session has {SESSION_BYTES} bytes, not {len(data)}")
    if not any(data):
        return None
    if not data[:12] == data[32:44] == data[64:76] == _ADDRESS_PADDING:
        raise ValueError("a session's address is longer than an address")
    student, tutor, token = _address(data[:32].hex()), _address(data[32:64].hex()), _address(data[64:96].hex())
    number = int.from_bytes
    return OnChainSession(
        student,
        tutor,
        token,
        start_s=number(data[96:128], "big"),
        end_s=number(data[128:160], "big"),
        rate=number(data[160:192], "big"),
        paid=number(data[192:224], "big"),
        language=number(data[224:256], "big"),
        id=number(data[256:288], "big"),
        active=any(data[288:]),
    )


def end_session(tutor: Address) -> str:
    return END_SESSION + _pad_address(tutor)


def active_sessions(tutor: Address) -> str:
    return ACTIVE_SESSIONS + _pad_address(tutor)


def get_session(session_id: int) -> str:
    return f"{GET_SESSION}{session_id:064x}"


def student_balances(student: Address, token: Address) -> str:
    return STUDENT_BALANCES + _pad_address(student) + _pad_address(token)


def balance_of(holder: Address) -> str:
    return BALANCE_OF + _pad_address(holder)


def tutor_of_end(calldata: str) -> Address | None:
    """The tutor that an `endSession` call names; None when it is another call."""
    if not calldata.lower().startswith(END_SESSION) or len(calldata) < 10 + _WORD:
        return None
    return checksum("0x" + calldata[34:74])


def uint(result: str) -> int:
    """A uint256 result. Raises ValueError when it isn't one word."""
    if len(result) != 2 + _WORD:
        raise ValueError("not one word")
    return int(result, 16)


def address(result: str) -> Address:
    """An address result. Raises ValueError when it isn't one."""
    if len(result) != 2 + _WORD:
        raise ValueError("not one word")
    return _address(result)


def _pad_address(text: Address) -> str:
    return "0" * 24 + text[2:].lower()
