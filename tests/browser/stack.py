"""What the pages are tried on: a real chain, the keeper with the bundled backend inside, and people who hold lessons.

Promises: one stack serves many tests; each lesson has a student and tutor of its own. `line` is a TCP proxy before the
backend, so that it can be out of reach for one page without anything being switched off.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.world.tcp_proxy import TcpProxy
from tests.integration.test_cli_daemon import running, settings
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import inside
from tests.support.servers import free_port, until

PAIRS = 45
TOKEN = "token-of-both"
EXPLORER = "https://explorer.example"
POLICY = {
    "DISCONNECT_GRACE_S": 90,  # long enough to look at a page and to press a button
    "NUDGE_WINDOW_S": 90,
    "BACKEND_HEAD_START_S": 1,
    "POLL_INTERVAL_S": 0.2,
    "PAY_WAIT_S": 20,
}


@dataclass
class Lesson:
    """One session on chain. `room` is its chain id, as the newer pages have it."""

    stack: Stack
    session_id: int
    student: str
    tutor: str
    tutor_at: int

    @property
    def path(self) -> str:
        return f"/s/{self.session_id}"

    @property
    def active(self) -> bool:
        return self.stack.world.is_active(self.tutor_at)

    def signal(self, kind: str, **more: Any) -> None:
        """Says something of its room, as the signalling server would."""
        said = {"type": kind, "sessionId": str(self.session_id), **more}
        assert self.stack.post(self.stack.hook, said) == 200

    def state(self) -> dict[str, Any] | None:
        """The session as pages are told of it."""
        with contextlib.suppress(urllib.error.HTTPError):
            with urllib.request.urlopen(f"{self.stack.url}/api/sessions/{self.session_id}", timeout=10) as reply:
                told: dict[str, Any] | None = json.load(reply)["session"]
                return told
        return None

    def room(self) -> dict[str, Any] | None:
        """What the backend knows of its room."""
        with urllib.request.urlopen(self.stack.record(), timeout=10) as reply:
            rooms = json.load(reply)["sessions"]
        return next((room for room in rooms if room["room"] == str(self.session_id)), None)

    async def is_(self, state: str) -> dict[str, Any]:
        """Waits until the pages are told that it stands so."""

        def look() -> dict[str, Any] | None:
            told = self.state()
            return told if told is not None and told["state"] == state else None

        found: dict[str, Any] = await until(look, 40, 0.1)
        return found

    async def hang_up(self) -> dict[str, Any]:
        """The call is over; payment is due."""
        self.signal("session-ended", endedBy="student")
        return await self.is_("due")


@dataclass
class Stack:
    world: World
    home: Path
    given: dict[str, Any]
    url: str
    hook: str
    daemon: subprocess.Popen[str]
    pairs: Iterator[int] = field(default_factory=itertools.count)

    async def lesson(self) -> Lesson:
        """A session that has just begun, and that the pages know."""
        at, before = next(self.pairs), self.world.counter()
        self.world.start(at, at)
        number = await until(lambda: count if (count := self.world.counter()) > before else None)
        lesson = Lesson(self, number, self.world.students[at], self.world.tutors[at], at)
        await lesson.is_("running")
        return lesson

    def post(self, url: str, said: Any) -> int:
        body = json.dumps(said).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status)

    def record(self) -> urllib.request.Request:
        return urllib.request.Request(self.url + "/api/sessions", headers={"Authorization": f"Bearer {TOKEN}"})

    def key_of(self, address: str) -> str:
        """The address as the node's pool has it."""
        pool = self.world.node.rpc("txpool_content")["pending"]
        return next(name for name in pool if name.lower() == address.lower())

    async def command(self, *args: str) -> None:
        done = await asyncio.to_thread(inside, self.home, *args, **self.given)
        assert done.code == 0, done.text

    @contextlib.contextmanager
    def nothing_mined(self) -> Iterator[None]:
        """Transactions wait in the pool."""
        self.world.stop_mining()
        self.world.node.rpc("evm_setIntervalMining", 0)
        try:
            yield
        finally:
            self.world.mining = True
            self.world.node.rpc("evm_setAutomine", True)
            self.world.node.rpc("evm_setIntervalMining", 1)
            self.world.node.mine()

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[TcpProxy]:
        proxy = TcpProxy(int(self.url.rpartition(":")[2]))
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.stop()


@contextlib.asynccontextmanager
async def built(home: Path, pairs: int = PAIRS, **more: Any) -> AsyncIterator[Stack]:
    """Everything, ready for lessons. `more` are the keeper's settings."""
    with langdao("--accounts", str(2 * pairs + 5), students=pairs, tutors=pairs) as world:
        world.node.rpc("evm_setIntervalMining", 1)
        bind, secret = f"127.0.0.1:{free_port()}", home / "gateway.secret"
        given = settings(
            world,
            home,
            BACKEND_PRIVATE_KEY=OWNER_KEY,
            GATEWAY=1,
            GATEWAY_TOKEN=TOKEN,
            GATEWAY_BIND=bind,
            GATEWAY_SECRET_FILE=secret,
            GATEWAY_REQUESTS_PER_MINUTE=100_000,
            PUBLIC_URL=f"http://{bind}",
            EXPLORER_URL=EXPLORER,
            MASS_END_COUNT=1000,
            **(POLICY | more),
        )
        with running(home, "run", **given) as daemon:
            await until(lambda: '"socket.up"' in (home / "log").read_text(), 60, 0.2)
            hook = f"http://{bind}/hook/{secret.read_text().strip()}"
            yield Stack(world, home, given, f"http://{bind}", hook, daemon)
