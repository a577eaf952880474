"""Daemons that start fast: each is forked from a process that has imported everything already.

Promises: what is forked is a process of its own that runs `langdao-keeper run` from its first line, with its own
environment, folder and log, and is killed like any other; only the imports were done before. `make demo` starts it
the usual way.

As a program, `python -m scripts.chaos.nursery SOCKET`: a connection carries one line of JSON (`cwd`, `env`, `log`),
is answered with the pid, and with the exit status when that process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import socket
import sys
from pathlib import Path

from scripts.world.keeper import Keeper, clean_environment
from scripts.world.processes import CHECKOUT, Child, Crew, Failed, until_listening

# What the daemon imports late, beside its own modules.
LIBRARIES = (
    "alembic.runtime.migration", "apscheduler.schedulers.asyncio", "coincurve", "eth_account", "msgspec", "psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite", "uvicorn.lifespan.on", "uvicorn.protocols.http.auto", "web3",
)  # fmt: skip


class Nursery:
    """The client's side."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._path = crew.folder / "nursery"

    async def open(self) -> None:
        """Start it. Returns when it is ready."""
        argv = [sys.executable, "-m", "scripts.chaos.nursery", self._path]
        environment = {**clean_environment(self._crew.folder), "PYTHONPATH": str(CHECKOUT)}
        child = await self._crew.start("nursery", argv, env=environment)
        while not self._path.exists():
            if not child.running:
                raise Failed(f"the nursery ended by itself:\n{child.tail()}")
            await asyncio.sleep(0.05)

    async def start(self, name: str, log: Path, cwd: Path) -> Forked:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        order = {"cwd": str(cwd), "env": clean_environment(cwd), "log": str(log)}
        writer.write(json.dumps(order).encode() + b"\n")
        pid = int(await reader.readline())
        return Forked(name, log, pid, reader, writer)


class Forked:
    """A forked daemon; as much of `Child` as `Keeper` needs."""

    def __init__(
        self, name: str, log: Path, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.name = name
        self.log = log
        self.pid = pid
        self._status = asyncio.ensure_future(reader.readline())
        self._writer = writer

    @property
    def running(self) -> bool:
        return not self._status.done()

    async def wait(self) -> int:
        status = int(await self._status or b"0")
        self._writer.close()
        return status

    def signal(self, number: int) -> None:
        # Its parent reaps it only while telling us so: until then the pid is its own.
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def tail(self, lines: int = 5) -> str:
        return Child.tail(self, lines)  # type: ignore[arg-type]


class WarmKeeper(Keeper):
    """A `Keeper` out of a nursery."""

    def __init__(self, crew: Crew, nursery: Nursery, name: str, settings: dict[str, object]) -> None:
        super().__init__(crew, name, settings)
        self._nursery = nursery

    async def start(self, timeout_s: float = 40.0) -> None:
        self._child = await self._nursery.start(self.name, self.log, self.folder)
        await until_listening(self._child, self.port, timeout_s)


# The program ---------------------------------------------------------------------------------------------------------


def main(path: str) -> None:
    import bot

    for module in pkgutil.walk_packages(bot.__path__, "bot."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        # A SIGCHLD has to end the wait below.
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        listener.bind(path + ".part")
        listener.listen(16)
        Path(path + ".part").rename(path)
        serve(listener, ours)


def serve(listener: socket.socket, woken: socket.socket) -> None:
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, woken], [], [])
        if woken in ready:
            woken.recv(4096)
        reap(children)
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        with connection.makefile() as lines:
            order = json.loads(lines.readline())
        pid = os.fork()
        if pid == 0:
            become_daemon(order)
        connection.sendall(b"%d\n" % pid)
        children[pid] = connection


def reap(children: dict[int, socket.socket]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with contextlib.suppress(OSError), children.pop(pid) as connection:
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def become_daemon(order: dict[str, object]) -> None:
    """Never returns: from here on this process is a daemon like any other."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(order["env"])  # type: ignore[call-overload]
    os.chdir(str(order["cwd"]))
    random.seed()
    from bot.cli import main as command_line

    code = 1
    try:
        command_line(["run"])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    finally:
        # What the nursery would do at its own end is none of the daemon's business.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
