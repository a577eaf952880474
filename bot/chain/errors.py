"""What can go wrong between the keeper and a node, and how to tell.

Raise `RpcError` when a node answered, and the answer is an error: the same question gets the same answer.
Raise `Unreachable` when no endpoint gave a usable answer: the same question may be answered in a moment.
Raise `TooHeavy` when an endpoint was reached, but the answer took too long or grew too large: ask for less.
`too_many` and `rate_limited` read what providers say in words, because their codes overlap.
"""

from __future__ import annotations

import re
from typing import Any

from bot.errors import KeeperError, TryAgain

# A range or its answer is too large. -32005 is also said for "too many requests", so the words decide.
_TOO_MANY = re.compile(
    r"more than \d[\d,_]* (results|logs)|too many (results|logs|blocks)|block range|range (is )?too (large|wide|big)"
    r"|range limit|max(imum)? (allowed )?(number of )?(requested )?blocks|response size|size (is )?(exceeded|too large)"
    r"|query (timeout|exceeds)|limited to \d|ranges over|logs? .*exceed",
    re.IGNORECASE,
)
_RATE = re.compile(r"rate.?limit|too many requests|request limit|compute units|capacity|throttl", re.IGNORECASE)


class RpcError(KeeperError):
    """A node's own error. `code` and `message` as it said them, `data` (e.g. of a revert) or None."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class Unreachable(TryAgain):
    """No endpoint gave a usable answer. `endpoint` is the last one asked (scheme and host), `reason` its failure."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"{endpoint}: {reason}")
        self.endpoint = endpoint
        self.reason = reason


class TooHeavy(Unreachable):
    """The answer took too long or grew too large."""


class WrongAnswer(TryAgain):
    """A node's answers contradict the question or each other, e.g. because the chain moved in between."""


def too_many(error: RpcError) -> bool:
    """True if the node refuses a range of blocks, or the number or size of what is in it."""
    return _TOO_MANY.search(error.message) is not None and not _RATE.search(error.message)


def rate_limited(error: RpcError) -> bool:
    """True if the node would have answered somebody who asks less often.

    Never of a call that reverted: those words are a contract's, and anybody may have written it.
    """
    if error.code == 3 or "revert" in error.message.lower():
        return False
    return (error.code in (429, -32005, -32097) and not too_many(error)) or _RATE.search(error.message) is not None


class SignerFailed(TryAgain):
    """The remote signer didn't sign, or signed something else."""
