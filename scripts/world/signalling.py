"""The signalling server's double: rooms with participants in them, told to one `BACKEND_URL`.

Promises: exactly the four messages of the observed signalling server (docs/PROTOCOL.md), one POST each, its
answer ignored and nothing ever repeated. What can't be delivered is lost, as it is with the real one. The
posts of one room arrive in the order in which they were said.
Doesn't promise: order between rooms.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(slots=True)
class Room:
    """A lesson's room. `session_id` in the posts is the room's name, never the chain's id."""

    name: str
    student: str
    tutor: str
    language: int
    opened_ms: int = field(default_factory=lambda: _now_ms())


class Signalling:
    """One signalling server.

    `heartbeat_s` is the period of each participant: about 10 s in the observed one.
    """

    def __init__(self, backend_url: str, heartbeat_s: float = 10.0) -> None:
        self.backend_url = backend_url
        self.posts = 0
        self.lost = 0  # posts that nobody answered
        self._heartbeat_s = heartbeat_s
        self._http: aiohttp.ClientSession | None = None
        self._beating: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._posting: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def stop(self) -> None:
        tasks = [*self._beating.values(), *self._posting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def join(self, room: Room, role: str) -> None:
        """A participant is in the room, for the first time or again: said once, and heartbeats begin."""
        message = {"type": "user-connected", "sessionId": room.name, "userRole": role}
        self._post(room, {**message, "timestamp": _now_ms()})
        self.silence(room, role)
        self._beating[room.name, role] = asyncio.create_task(self._beat(room))

    def silence(self, room: Room, role: str | None = None) -> None:
        """The heartbeats of one or both stop, and nothing says so: a half-open connection."""
        for key in [(room.name, role)] if role else [(room.name, "student"), (room.name, "tutor")]:
            if task := self._beating.pop(key, None):
                task.cancel()

    def hang_up(self, room: Room, role: str, address: str) -> None:
        """A participant ends the call: the room is gone, for both."""
        self.silence(room)
        self.report_end(room, role, address)

    def report_end(self, room: Room, role: str, address: str, session_id: str | int | None = None) -> None:
        """Only the message of `hang_up`, at any time and under any id."""
        now = _now_ms()
        self._post(
            room,
            {
                "type": "session-ended",
                "sessionId": room.name if session_id is None else session_id,
                "endedBy": role,
                "userAddress": address,
                "timestamp": now,
                "session": {
                    "startTime": room.opened_ms,
                    "durationSeconds": (now - room.opened_ms) // 1000,
                    "tutorAddress": room.tutor,
                    "studentAddress": room.student,
                    "language": room.language,
                },
            },
        )

    def lose(self, room: Room, role: str) -> None:
        """A participant's connection closes."""
        self.silence(room, role)
        self._post(
            room,
            {
                "type": "user-disconnected",
                "sessionId": room.name,
                "userRole": role,
                "reason": "connection-closed",
                "timestamp": _now_ms(),
            },
        )

    async def _beat(self, room: Room) -> None:
        # The real pages send what they like beside the type; the double sends nothing.
        while True:
            await asyncio.sleep(self._heartbeat_s)
            self._post(room, {"type": "session-heartbeat", "sessionId": room.name, "timestamp": _now_ms()})

    def _post(self, room: Room, message: dict[str, Any]) -> None:
        task = asyncio.create_task(self._send(self._turns[room.name], message))
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def _send(self, turn: asyncio.Lock, message: dict[str, Any]) -> None:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        async with turn:
            self.posts += 1
            try:
                async with self._http.post(self.backend_url, json=message) as answer:
                    await answer.read()
            except (aiohttp.ClientError, TimeoutError):
                self.lost += 1


def _now_ms() -> int:
    return round(time.time() * 1000)
