"""A question to a participant: does the lesson go on?"""

from __future__ import annotations

from typing import NamedTuple

from bot.domain.address import Address
from bot.domain.facts import SessionKey


class Asked(NamedTuple):
    """About which session it was put, to whom, where that is one person, and until when it can be answered."""

    key: SessionKey
    action_id: int  # of the nudge that carried it
    address: Address | None
    expires_ms: int
