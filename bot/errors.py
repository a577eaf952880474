"""One error family per reaction: stop the daemon, try again later, set this session aside.

Raise `Misconfigured` when only a person can mend it (exit code 2, one line, no traceback).
Raise `TryAgain` when the same call may work in a moment; the caller waits with jitter.
Raise `SetAside` when this one session can't be handled as things are; everything else goes on.
"""

from __future__ import annotations


class KeeperError(Exception):
    """Root of all errors that the keeper raises on purpose."""


class Misconfigured(KeeperError):
    """The keeper can't start or go on like this. The message names the setting and the remedy."""


class TryAgain(KeeperError):
    """A passing failure of something outside: node, backend, Redis."""


class SetAside(KeeperError):
    """This session can't be settled as things are; `reason` goes into the record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
