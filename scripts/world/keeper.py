"""The keeper as an operator runs it: a program, a folder with a `.env`, a JSON log.

Promises: the process knows nothing but PATH, HOME, XDG_STATE_HOME and its `.env`. Killed means SIGKILL to
the daemon itself, and restarted means the same folder, database and ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.world.processes import CHECKOUT, LOOPBACK, Child, Crew, free_port, until_listening

COMMAND = (sys.executable, "-m", "bot.cli")


def secret_file(path: Path) -> str:
    """Write a new webhook secret, readable by its owner only. Returns it: 43 URL-safe characters."""
    secret = secrets.token_urlsafe(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    return secret


def clean_environment(home: Path) -> dict[str, str]:
    """What a service manager would give: no variable of this shell leaks in."""
    return {
        "PATH": f"{CHECKOUT / '.venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        # Names in the log and on the terminal are not ASCII.
        "LANG": "C.UTF-8",
    }


class Keeper:
    """One `langdao-keeper run`. `settings` are the lines of its `.env`; ports and secret are chosen here."""

    def __init__(self, crew: Crew, name: str, settings: Mapping[str, Any], *, command: Sequence[str] = COMMAND) -> None:
        self.name = name
        self._command = command
        self.folder = crew.folder / name
        self.folder.mkdir()
        self.port = free_port()
        secret_path = self.folder / "webhook.secret"
        self.webhook = f"http://{LOOPBACK}:{self.port}/hook/{secret_file(secret_path)}"
        self._crew = crew
        self._child: Child | None = None
        lines = {
            "HTTP_BIND": f"{LOOPBACK}:{self.port}",
            "DATABASE_URL": f"sqlite:///{self.folder / 'keeper.db'}",
            "WEBHOOK_SECRET_FILE": secret_path,
            **settings,
        }
        env_file = self.folder / ".env"
        env_file.touch(0o600)  # it holds the key
        env_file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def log(self) -> Path:
        return self._crew.folder / f"{self.name}.log"

    async def start(self, timeout_s: float = 40.0) -> None:
        """Start, or start again. Returns when its own HTTP server listens. Raises Failed."""
        self._child = await self._crew.start(
            self.name, [*self._command, "run"], env=clean_environment(self.folder), cwd=self.folder
        )
        await until_listening(self._child, self.port, timeout_s)

    def kill(self) -> None:
        """SIGKILL, now."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def until_dead(self) -> int:
        """Its exit status."""
        assert self._child is not None
        return await self._child.wait()

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its log that are JSON, all runs together."""
        with contextlib.suppress(OSError), self.log.open(errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    if isinstance(event := json.loads(line), dict):
                        yield event
