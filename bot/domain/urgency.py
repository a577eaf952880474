"""What somebody loses while a settlement waits. Pure."""

from __future__ import annotations

from enum import IntEnum


class Urgency(IntEnum):
    """From the least to the most."""

    BILLED = 0  # the student: seconds
    UNPAID = 1  # the tutor: the balance is used up, and each second is work for nothing
    CLAIM = 2  # the tutor: all of it, as the student can take the balance away, or another session may
