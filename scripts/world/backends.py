"""The two backends of the world: the bundled gateway, and a plain Socket.IO server that helps nobody.

Promises: both are processes of their own on a port of their own, can be stopped and started again on it, and
`announce` makes every connected client hear `session:ready`.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from typing import Any

from scripts.world.keeper import COMMAND, clean_environment, secret_file
from scripts.world.participants import Participant
from scripts.world.processes import CHECKOUT, LOOPBACK, Child, Crew, Failed, free_port, until_listening
from scripts.world.signalling import Room


class Gateway:
    """`langdao-keeper gateway`, without Redis. `settings` are more of its environment."""

    def __init__(self, crew: Crew, settings: Mapping[str, Any], name: str = "gateway") -> None:
        self.port = free_port()
        self.token = secrets.token_urlsafe(32)
        self._crew = crew
        self._name = name
        self._settings = {name: str(value) for name, value in settings.items()}
        self._secret_file = crew.folder / f"{name}.secret"
        self._secret = secret_file(self._secret_file)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def webhook(self) -> str:
        """What the signalling server has as its BACKEND_URL."""
        return f"{self.url}/hook/{self._secret}"

    async def start(self) -> None:
        env = {
            **clean_environment(self._crew.folder),
            **self._settings,
            "GATEWAY_BIND": f"{LOOPBACK}:{self.port}",
            "GATEWAY_TOKEN": self.token,
            "GATEWAY_SECRET_FILE": str(self._secret_file),
        }
        child = await self._crew.start(self._name, [*COMMAND, "gateway"], env=env)
        await until_listening(child, self.port)

    async def announce(self, room: Room, student: Participant) -> None:
        await student.announce(room.name, room.tutor)


class PlainBackend:
    """`plain_backend.mjs`. Its clients hear of a room while they are connected, or never."""

    def __init__(self, crew: Crew, name: str = "plain-backend") -> None:
        self.port = free_port()
        self._crew = crew
        self._name = name
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        node = shutil.which("node")
        if node is None:
            raise Failed("node is missing: install Node.js 20 or later")
        script = CHECKOUT / "scripts" / "world" / "plain_backend.mjs"
        self._child = await self._crew.start(self._name, [node, script, self.port], stdin=True)
        await until_listening(self._child, self.port)

    async def stop(self) -> None:
        assert self._child is not None
        await self._child.stop()

    async def announce(self, room: Room, student: Participant) -> None:
        message = {
            "requestId": room.name,
            "sessionId": room.name,
            "studentAddress": room.student,
            "tutorAddress": room.tutor,
            "studentUrl": f"/video-call?room={room.name}&role=student",
            "tutorUrl": f"/video-call?room={room.name}&role=tutor",
            "languageId": room.language,
        }
        assert self._child is not None
        self._child.stdin.write(json.dumps(message).encode() + b"\n")
        await self._child.stdin.drain()

    async def until_clients(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until so many clients are connected. Raises Failed."""
        assert self._child is not None
        deadline = time.monotonic() + timeout_s
        while self._clients() != count:
            if time.monotonic() > deadline:
                raise Failed(f"{self._name} has {self._clients()} clients instead of {count}")
            await asyncio.sleep(0.1)

    def _clients(self) -> int:
        # Only what the present process said: after its last "listening".
        assert self._child is not None
        output = self._child.log.read_text().rpartition("listening")[2]
        counts = re.findall(r"^clients (\d+)$", output, re.MULTILINE)
        return int(counts[-1]) if counts else 0


Backend = Gateway | PlainBackend
