"""Lessons: a student, a tutor, a room, and the ways in which they are left.

Promises: `begin` returns when the session is active on chain, the room announced and both are in it. The
methods of `Lesson` are what can happen in a room, one signal each; `leave` plays one of the usual endings
to its end.
Doesn't promise: that anybody ends the session on chain. That is the keeper's job.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from enum import StrEnum

from scripts.world.backends import Backend
from scripts.world.participants import Participant
from scripts.world.signalling import Room, Signalling


class Ending(StrEnum):
    """How a lesson is left, in words for a person."""

    PAID_AT_ONCE = "hangs up and pays at once"
    PAID_WHEN_NUDGED = "hangs up, and pays when nudged"
    UNPAID = "hangs up and forgets to pay"
    TUTOR_LEAVES = "is left by the tutor, and nobody pays"
    BACK_AGAIN = "loses the connection, comes back, and pays later"
    LOST = "loses the connection for good"
    FROZEN = "freezes: no more heartbeats, and no word"


class Lesson:
    """One lesson that runs."""

    def __init__(
        self, session_id: int, room: Room, student: Participant, tutor: Participant, signalling: Signalling
    ) -> None:
        self.session_id = session_id
        self.room = room
        self.student = student
        self.tutor = tutor
        self.left_at: float | None = None  # epoch seconds of the last thing that was said or missed
        self._signalling = signalling

    def hang_up(self, role: str = "student") -> None:
        who = self.student if role == "student" else self.tutor
        self._signalling.hang_up(self.room, role, who.address)
        self.left_at = time.time()

    def lose(self, role: str = "student") -> None:
        self._signalling.lose(self.room, role)
        self.left_at = time.time()

    def come_back(self, role: str = "student") -> None:
        self._signalling.join(self.room, role)
        self.left_at = None

    def freeze(self) -> None:
        self._signalling.silence(self.room)
        self.left_at = time.time()

    async def leave(self, ending: Ending, away_s: float = 3.0) -> None:
        """Play an ending. `away_s`: how long a connection that comes back is lost."""
        match ending:
            case Ending.PAID_AT_ONCE:
                self.hang_up()
                await self.student.pay()
            case Ending.PAID_WHEN_NUDGED:
                self.student.pays_when_nudged = True
                self.hang_up()
            case Ending.UNPAID:
                self.hang_up()
            case Ending.TUTOR_LEAVES:
                self.hang_up("tutor")
            case Ending.BACK_AGAIN:
                self.lose()
                await asyncio.sleep(away_s)
                self.come_back()
                await asyncio.sleep(2 * away_s)
                self.hang_up()
                await self.student.pay()
            case Ending.LOST:
                self.lose("student")
                self.lose("tutor")
            case Ending.FROZEN:
                self.freeze()


async def begin(student: Participant, tutor: Participant, backend: Backend, signalling: Signalling) -> Lesson:
    """Hold a lesson: room, transaction, both in the room."""
    room = Room(f"req_{secrets.token_hex(3)}", student.address, tutor.address, student.dao.language)
    student.pays_when_nudged = False
    await backend.announce(room, student)
    session_id = await student.start(tutor.address)
    signalling.join(room, "student")
    signalling.join(room, "tutor")
    return Lesson(session_id, room, student, tutor, signalling)
