"""Simulated students and tutors: a key, a browser's socket, and a habit about paying.

Promises: each signs its own transactions; on `keeper:nudge` it acknowledges, and pays only if it is its
habit and the nudge asks for it. It never pays twice for one lesson.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import socketio

from scripts.world.chain import Key, LangDAO, Reverted, RpcError


class Refused(Exception):
    """The backend said no."""


class Participant:
    """A student or tutor. `tell` is called with each thing that it does or hears."""

    def __init__(self, name: str, key: Key, dao: LangDAO, tell: Callable[[str], None] = lambda _: None) -> None:
        self.name = name
        self.key = key
        self.dao = dao
        self.nudges: list[dict[str, Any]] = []
        self.pays_when_nudged = False
        self._tell = tell
        self._in_lesson_with: str | None = None  # the tutor's address, until paid
        self._socket: socketio.AsyncClient | None = None
        self._bound = asyncio.Event()
        self._paying: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return self.key.address

    async def connect(self, url: str) -> None:
        """Open the page: a socket to the backend. Returns when it is bound to the own address."""
        # The library's own way with Ctrl-C is to cancel every task of this process.
        self._socket = socketio.AsyncClient(reconnection_delay=0.5, reconnection_delay_max=2, handle_sigint=False)
        self._socket.on("keeper:nudge", self._nudged)
        # Bound anew at each connect: the backend forgets when it restarts.
        self._socket.on("connect", self._bind)
        await self._socket.connect(url, transports=["websocket"], wait_timeout=10)
        await asyncio.wait_for(self._bound.wait(), 10)

    async def disconnect(self) -> None:
        for task in self._paying:
            task.cancel()
        if self._socket is not None:
            await self._socket.shutdown()

    async def announce(self, room: str, tutor: str) -> None:
        """As a student: ask the bundled backend for a room. Raises Refused."""
        assert self._socket is not None
        request = {
            "requestId": room,
            "studentAddress": self.address,
            "tutorAddress": tutor,
            "languageId": self.dao.language,
        }
        answer = await self._socket.call("session:create", request, timeout=10)
        if not answer.get("ok"):
            raise Refused(f"{self.name} gets no room: {answer}")

    async def start(self, tutor: str) -> int:
        """As a student: start the session on chain. Returns its id."""
        session_id = await self.dao.start(self.key, tutor)
        self._in_lesson_with = tutor
        return session_id

    async def pay(self) -> bool:
        """As a student: end the session that it is in. False when that was no longer possible."""
        tutor, self._in_lesson_with = self._in_lesson_with, None
        if tutor is None:
            return False
        try:
            await self.dao.end(self.key, tutor)
        except (Reverted, RpcError):  # somebody else ended it in the meantime
            return False
        return True

    async def _bind(self) -> None:
        assert self._socket is not None
        # A backend that is too busy to answer: the page stays unbound until it connects again.
        with contextlib.suppress(socketio.exceptions.SocketIOError):
            await self._socket.call("user:connect", {"address": self.address}, timeout=10)
            self._bound.set()

    async def _nudged(self, nudge: dict[str, Any]) -> dict[str, Any]:
        self.nudges.append(nudge)
        self._tell(f"{self.name} is nudged")
        if self.pays_when_nudged and asks_to_pay(nudge):
            task = asyncio.create_task(self._pay_quietly())
            self._paying.add(task)
            task.add_done_callback(self._paying.discard)
        return {"ok": True}

    async def _pay_quietly(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            if await self.pay():
                self._tell(f"{self.name} pays because of the nudge")


def asks_to_pay(nudge: dict[str, Any]) -> bool:
    """Whether it asks to end and pay, and not whether the lesson still goes on."""
    return not nudge.get("ask") and nudge.get("kind", "pay") == "pay"
