"""Looking again at all sessions about which silence says something, a few at a time: after a feed's return.

Promises: a turn looks at SLICE sessions at most, however many there are; between two turns hints, deadlines and the
chain get theirs. Each is decided on in the world as it is at its turn, so nothing is ended on what a feed was before.
A feed that comes back again and again doesn't keep any session from its turn.
Doesn't promise an order. None of them is urgent: what silence proves after a return, it proves a grace later.
"""

from __future__ import annotations

from bot.domain.facts import SessionKey
from bot.reconciler.memory import Memory

SLICE = 250


class Sweep:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._left: list[SessionKey] = []  # the next one at the end

    @property
    def pending(self) -> bool:
        return bool(self._left)

    def begin(self) -> None:
        """Looks at all of them from now on; one that is under way goes on where it is, and then once round."""
        live = self._memory.live
        keys = list(live)
        following = next((key for key in reversed(self._left) if key in live), None)
        at = 0 if following is None else keys.index(following)
        self._left = [*keys[at:], *keys[:at]][::-1]

    def next(self) -> list[SessionKey]:
        """Those of the next few about which silence says something."""
        part = self._left[-SLICE:][::-1]
        del self._left[-SLICE:]
        lives = ((key, self._memory.live.get(key)) for key in part)
        return [
            key
            for key, live in lives
            if live is not None and not live.session.ended and (live.session.beats.count or live.session.away)
        ]
