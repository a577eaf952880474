"""How many blocks to ask for at a time.

Promises: pages grow and shrink by the density of logs towards `TARGET_LOGS` a page; a refusal halves them at once, and
the refused size is tried again only after a while of successes. Pure: no clock, no network.
"""

from __future__ import annotations

TARGET_LOGS = 2_500  # about 1.7 MB of JSON; three pages are in memory at a time, as JSON or as rows
FIRST_BLOCKS = 16  # until the density is known: a dense chain's first answer has to fit into memory too
MOST_BLOCKS = 100_000
_TRUST_AFTER = 16  # pages answered at the ceiling before it is raised


class Pages:
    """The present page size, in blocks."""

    def __init__(self) -> None:
        self.blocks = FIRST_BLOCKS
        self._ceiling = MOST_BLOCKS
        self._answered = 0

    def answered(self, blocks: int, logs: int) -> None:
        """A page of `blocks` was answered with `logs` logs."""
        self._answered += 1
        if self._answered % _TRUST_AFTER == 0:
            self._ceiling = min(MOST_BLOCKS, self._ceiling * 2)
        fitting = blocks * TARGET_LOGS // logs if logs else blocks * 4
        self.blocks = max(1, min(fitting, blocks * 4, self._ceiling))

    def refused(self, blocks: int) -> bool:
        """A page of `blocks` was refused or too slow. False when it can't be made smaller."""
        if blocks <= 1:
            return False
        self._answered = 0
        self._ceiling = self.blocks = blocks // 2
        return True
