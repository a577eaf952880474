"""What every channel has in common.

Promises: a channel says one note to one participant, once, and says what came of it. It neither decides nor retries:
what may work later is `TryAgain`, and the nudger waits. It may be slow or hang; the nudger gives up on it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from bot.domain.address import Address
from bot.nudges.message import Note


class How(StrEnum):
    """What came of a note on one channel."""

    DELIVERED = "delivered"  # something at the participant's end acknowledged it
    SENT = "sent"  # handed over to somebody who doesn't say whether it arrived
    MISSED = "undelivered"  # it can't arrive by this channel
    DROPPED = "dropped"  # it couldn't be sent in time, or there was nothing to say any more


class Receipt(NamedTuple):
    how: How
    why: str | None = None  # of MISSED and DROPPED; a short text without secrets


class Channel(Protocol):
    """`name` stands in the record. `private`: nobody but the participant reads it, so it may carry their own link.

    `repeatable`: a note that is sent twice, after a crash between sending and storing, is seen once, by its id.
    """

    name: str
    private: bool
    repeatable: bool

    def reaches(self, to: Address) -> bool:
        """Whether this channel has a way to this participant at all."""
        ...

    async def send(self, note: Note) -> Receipt:
        """Says it. Raises TryAgain when the same may work in a moment."""
        ...
