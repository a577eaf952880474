"""Programs of the world: started with a log each, killed together, never left behind.

Promises: whatever a `Crew` started is gone when the crew is stopped, and also when this process dies in any
way, SIGKILL included, with all its grandchildren (see `leash.py`). `Child.pid` is the program's own pid, so
it can be killed like an operator would. A listener is used only after it was seen to belong to our own
child.
Doesn't promise: that a port that was free a moment ago still is. Whoever starts a listener looks, and tries
anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from scripts.world import leash

CHECKOUT = Path(__file__).resolve().parents[2]
LEASH = Path(leash.__file__)
LOOPBACK = "127.0.0.1"


class Failed(Exception):
    """The world can't be built or has broken. The text is for a person and says where to look."""


class Child:
    """One running program."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        self.name = name
        self.log = log
        self.pid = 0
        self._process = process
        self._line = line  # closing it makes the leash kill everything

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def stdin(self) -> asyncio.StreamWriter:
        assert self._process.stdin is not None
        return self._process.stdin

    async def wait(self) -> int:
        """The program's exit status; minus the signal's number if one killed it."""
        status = await self._process.wait()
        return 128 - status if status > 128 else status

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def stop(self, patience_s: float = 3.0) -> None:
        """SIGTERM, and after `patience_s` SIGKILL, to all that is below the leash."""
        if self.running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), patience_s)
        self._line.close()
        await self._process.wait()

    def tail(self, lines: int = 5) -> str:
        """The end of its log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


class Crew:
    """The set of programs of one world, and its work folder.

    Must be used from the main thread's event loop.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    async def start(
        self,
        name: str,
        argv: Iterable[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bool = False,
        terminal: bool = False,
    ) -> Child:
        """Start a program; its output goes to `<folder>/<name>.log`.

        `env` replaces the whole environment. With `stdin`, `Child.stdin` writes to the program. With
        `terminal`, it shares this process's terminal and gets its Ctrl-C; otherwise it has a session of its
        own.
        """
        log = self.folder / f"{name}.log"
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", str(LEASH), str(theirs.fileno())),
                *(str(part) for part in argv),
                env=None if env is None else dict(env),
                cwd=cwd or self.folder,
                stdin=asyncio.subprocess.PIPE if stdin else None if terminal else asyncio.subprocess.DEVNULL,
                stdout=None if terminal else output,
                stderr=None if terminal else output,
                pass_fds=(theirs.fileno(),),
                start_new_session=not terminal,
            )
        child = Child(name, log, process, ours)
        self._children.append(child)
        ours.setblocking(False)
        first_line = await asyncio.get_running_loop().sock_recv(ours, 32)
        if not first_line:
            raise Failed(f"{name} could not be started. Its log is {log}")
        child.pid = int(first_line)
        return child

    async def stop(self) -> None:
        """Stop everything, the last started first. Safe to call again."""
        while self._children:
            # Together: each may use its patience, but not one after the other.
            children, self._children = self._children[::-1], []
            await asyncio.gather(*(child.stop() for child in children))


@contextlib.asynccontextmanager
async def crew(prefix: str) -> AsyncIterator[Crew]:
    """A crew in a fresh folder under the system's temporary one. The folder stays, for its logs."""
    made = Crew(Path(tempfile.mkdtemp(prefix=f"langdao-{prefix}-")))
    try:
        yield made
    finally:
        await made.stop()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def listens(pid: int, port: int) -> bool:
    """Whether `pid` or a process below it is the one that listens on `port`.

    Where the system doesn't show it (no /proc), any listener counts.
    """
    if not leash.LINUX:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 0.2):
            return True
        return False
    sockets = _listening_inodes(port)
    return any(_holds(candidate, sockets) for candidate in (pid, *leash.descendants(pid)))


def _listening_inodes(port: int) -> set[str]:
    listening, found = "0A", set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == listening and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _holds(pid: int, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False


def terminal_environment() -> dict[str, str]:
    """The variables that say what the terminal can do."""
    return {name: os.environ[name] for name in ("TERM", "COLORTERM", "NO_COLOR") if name in os.environ}


async def until_listening(child: Child, port: int, timeout_s: float = 30.0) -> None:
    """Wait until `child` itself listens on `port`. Raises Failed when it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not listens(child.pid, port):
        if not child.running:
            raise Failed(f"{child.name} ended before it listened on port {port}:\n{child.tail()}")
        if time.monotonic() > deadline:
            raise Failed(f"{child.name} doesn't listen on port {port} after {timeout_s:.0f} s: {child.log}")
        await asyncio.sleep(0.05)


class Interrupted(Exception):
    """Somebody wants everything to stop."""


@contextlib.asynccontextmanager
async def interruptible() -> AsyncIterator[None]:
    """Leave the block with Interrupted on Ctrl-C, SIGTERM, a closed terminal, or the death of our make."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        if not asked:  # a second Ctrl-C mustn't break the cleaning up
            asked = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    make = asyncio.ensure_future(until_make_is_gone())
    make.add_done_callback(stop)
    try:
        yield
    except asyncio.CancelledError:
        if asked and task.uncancel() == 0:
            raise Interrupted from None
        raise
    finally:
        # The handlers stay: what follows is stopping, and that must be let finish.
        make.remove_done_callback(stop)
        make.cancel()


async def until_make_is_gone() -> None:
    """Return when the `make` that started this process has ended; never, if no make did.

    SIGKILL to make can't be passed on by it, and the world shouldn't outlive its target.
    """
    chain = [os.getpid()]
    above = leash.parents() if leash.LINUX else {}
    while (parent := above.get(chain[-1], 0)) > 1:
        chain.append(parent)
        if _program(parent) in ("make", "gmake"):
            break
    else:
        await asyncio.Event().wait()
    while True:
        await asyncio.sleep(0.5)
        now = leash.parents()
        if any(now.get(child) != parent for child, parent in itertools.pairwise(chain)):
            return


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
