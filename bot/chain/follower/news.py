"""What the follower tells, and the words its parts share. Promises nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from bot.chain.errors import WrongAnswer
from bot.chain.wire import RawHeader
from bot.domain.address import Address
from bot.domain.facts import SessionKey


class Head(NamedTuple):
    """A block that the index has reached. `base_fee` in wei, None before London."""

    number: int
    hash: str
    parent_hash: str
    timestamp_s: int
    received_ms: int
    base_fee: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction of the follower changed; also told for a new head without logs."""

    head: Head
    started: tuple[SessionKey, ...] = ()
    ended: tuple[SessionKey, ...] = ()
    retracted: tuple[SessionKey, ...] = ()  # touched by a reorg: read them anew, some may be gone
    funds: tuple[Address, ...] = ()  # students whose balance in the contract may have changed
    live: bool = False  # the index has reached the node's head


class Progress(NamedTuple):
    """How far a backfill is. `waits_for`: what it mostly waited for since the last page, the node or the disk."""

    block: int
    first: int
    last: int
    logs: int
    logs_per_s: int
    left_s: int
    waits_for: str


class Moved(WrongAnswer):
    """The chain changed while it was looked at: look again at once."""


def number_of(header: RawHeader) -> int:
    return int(header.number, 16)


def head_of(header: RawHeader) -> Head:
    """The head that this header is, received now."""
    base_fee = header.base_fee_per_gas
    return Head(
        number=number_of(header),
        hash=header.hash,
        parent_hash=header.parent_hash,
        timestamp_s=int(header.timestamp, 16),
        received_ms=time.time_ns() // 1_000_000,
        base_fee=int(base_fee, 16) if base_fee is not None else None,
    )
