"""A room whose session is over on chain."""

from __future__ import annotations

from typing import NamedTuple

from bot.domain.facts import SessionKey


class EndedRoom(NamedTuple):
    """`ended_ms` is the chain's time of the end, epoch ms; `tx_hash` the transaction with its `SessionEnded`."""

    room: str
    key: SessionKey
    tx_hash: str
    ended_ms: int
