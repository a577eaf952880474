"""The keeper stands still while lessons go on: a real `run`, a real chain, a real signalling server, SIGSTOP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.test_cli_daemon import running, settings, until
from tests.support import servers
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import inside
from tests.support.servers import free_port
from tests.support.signalling import SignallingServer

SECRET = "secret-of-the-signalling-server-0001"


@dataclass
class Lessons:
    """Participants who sit in their rooms and beat."""

    address: str
    beat_s: float
    tasks: dict[str, list[asyncio.Task[None]]] = field(default_factory=dict)
    open: list[aiohttp.ClientSession] = field(default_factory=list)

    def begin(self, room: str) -> None:
        self.tasks[room] = [asyncio.create_task(self._sit(room, role)) for role in ("student", "tutor")]

    async def fall_silent(self, room: str) -> None:
        """A half-open connection: nobody notices, only heartbeats are missing."""
        for task in self.tasks[room]:
            task.cancel()
        await asyncio.wait(self.tasks[room])

    async def _sit(self, room: str, role: str) -> None:
        http = aiohttp.ClientSession()
        self.open.append(http)  # left open when the heartbeats stop: the server hears nothing of it
        socket = await http.ws_connect(f"{self.address}?room={room}&role={role}")
        while True:
            await socket.send_json({"type": "heartbeat"})
            await asyncio.sleep(self.beat_s)

    async def leave(self) -> None:
        for task in [task for tasks in self.tasks.values() for task in tasks]:
            task.cancel()
        for http in self.open:
            await http.close()


@contextlib.asynccontextmanager
async def lessons(world: World, home: Path, beat_s: float, **given: Any) -> AsyncIterator[tuple[Any, Lessons, Any]]:
    """A running keeper with two lessons that go on: its process, the lessons, and what `explain` says of one."""
    port = free_port()
    secret_file = home / "webhook.secret"
    secret_file.write_text(SECRET)
    secret_file.chmod(0o600)
    server = SignallingServer(f"http://127.0.0.1:{port}/hook/{SECRET}")
    async with server.serving() as address:
        conf = settings(
            world,
            home,
            BACKEND_PRIVATE_KEY=OWNER_KEY,
            HTTP_BIND=f"127.0.0.1:{port}",
            WEBHOOK_SECRET_FILE=secret_file,
            SIGNALLING_URL=address,
            **given,
        )
        with running(home, "run", **conf) as daemon:
            log = home / "log"
            await asyncio.to_thread(until, lambda: "canary.up" in log.read_text())
            sat = Lessons(address, beat_s)
            for number in (0, 1):
                world.start(number, number)
                sat.begin(str(number + 1))
            await servers.until(lambda: log.read_text().count('"session.linked"') >= 2, 30)

            async def line(number: int) -> dict[str, Any]:
                said = await asyncio.to_thread(lambda: inside(home, "explain", str(number), "--json", **conf).json())
                return dict(said)

            try:
                yield daemon, sat, line
            finally:
                await sat.leave()


async def stalled(world: World, home: Path, *, beat_s: float, stop_s: float, then_s: float, **given: Any) -> None:
    """Stops the keeper for `stop_s` with two live lessons; none may end. Then one dies, and has to."""
    async with lessons(world, home, beat_s, **given) as (daemon, sat, line):
        await asyncio.sleep(max(4 * beat_s, given.get("HEARTBEAT_ARM_S", 30) + 2 * beat_s))
        os.kill(daemon.pid, signal.SIGSTOP)
        await asyncio.sleep(stop_s)
        os.kill(daemon.pid, signal.SIGCONT)
        await asyncio.sleep(then_s)
        assert all(world.is_active(number) for number in (0, 1)), "a lesson that goes on was ended"
        told = [await line(number) for number in (1, 2)]
        decided = {one["what"] + one["text"] for each in told for one in each["timeline"] if one["what"] == "action"}
        assert decided == set(), "nor was anybody messaged"
        assert "keeper.stalled" in (home / "log").read_text()
        # That the silence of one does end it shows that the test would have seen it.
        await sat.fall_silent("1")
        await servers.until(lambda: not world.is_active(0), 4 * then_s + 120)
        assert world.is_active(1)


async def test_run__stopped_for_many_times_its_timeouts__no_lesson_that_goes_on_is_ended(tmp_path: Path) -> None:
    """Shown by SIGSTOP … with live lessons: none ended."""
    with langdao(students=2, tutors=2) as world:
        world.node.rpc("evm_setIntervalMining", 1)
        await stalled(
            world,
            tmp_path,
            beat_s=0.5,
            stop_s=20,
            then_s=8,
            HEARTBEAT_TIMEOUT_S=2,
            HEARTBEAT_ARM_S=1,
            DISCONNECT_GRACE_S=1,
            NUDGE_WINDOW_S=0,
            BACKEND_HEAD_START_S=0,
            FEED_SILENCE_S=3,
            SOLE_ROOM_TIMEOUT_S=3,
            POLL_INTERVAL_S=0.2,
        )
