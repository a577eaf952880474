"""One error family per reaction: stop the daemon, try again later, set this session aside, refuse a word.

Raise `Misconfigured` when only a person can mend it (exit code 2, one line, no traceback).
Raise `TryAgain` when the same call may work in a moment; the caller waits with jitter.
Raise `SetAside` when this one session can't be handled as things are; everything else goes on.
Raise `Untrue` when somebody's word doesn't hold; it is refused, and nothing changes.
"""

from __future__ import annotations


class KeeperError(Exception):
    """Root of all errors that the keeper raises on purpose."""


class Misconfigured(KeeperError):
    """The keeper can't start or go on like this. The message names the setting and the remedy."""


class TryAgain(KeeperError):
    """A passing failure of something outside: node, backend, Redis. `after_s`: how long it asked to be left alone."""

    def __init__(self, *why: object, after_s: float = 0.0) -> None:
        super().__init__(*why)
        self.after_s = after_s


class SetAside(KeeperError):
    """This session can't be settled as things are; `reason` goes into the record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Untrue(KeeperError):
    """Somebody's word that doesn't hold. `reason` is a constant slug, `detail` says it in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
