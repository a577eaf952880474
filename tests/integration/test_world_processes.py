"""The devnet's processes: whatever ends them, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.world.processes import CHECKOUT, Crew, Failed, free_port, listens, until_listening
from tests.support.servers import until
from tests.support.world import crew

__all__ = ["crew"]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # A zombie that nobody has waited for is as good as gone.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# Processes

# A program whose grandchild has a session of its own and no parent any more. It writes both pids.
FAMILY = "(setsid sh -c 'echo $$ >grandchild; exec sleep 300' &) ; echo $$ >child; sleep 300; true"


async def family(folder: Path, *more: str) -> list[int]:
    files = [folder / "child", folder / "grandchild"]
    awaited = [*files, *(folder / name for name in more)]
    await until(lambda: all(file.exists() and file.read_text().strip() for file in awaited))
    return [int(file.read_text()) for file in files]


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """A program that starts the family and waits, as devnet does."""
    script = tmp_path / "launcher.py"
    script.write_text(
        "import asyncio, pathlib, sys\n"
        "from scripts.world.processes import Crew, Interrupted, interruptible\n"
        "async def main():\n"
        "    crew = Crew(pathlib.Path(sys.argv[1]))\n"
        f"    child = await crew.start('family', ['sh', '-c', {FAMILY!r}])\n"
        "    try:\n"
        "        async with interruptible():\n"
        "            await asyncio.sleep(0)\n"  # lets it see whose child it is
        "            pathlib.Path(sys.argv[1], 'ready').write_text('yes')\n"
        "            await child.wait()\n"
        "    except Interrupted:\n"
        "        await crew.stop()\n"
        "asyncio.run(main())\n"
    )
    return script


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str | Path) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([str(part) for part in argv], cwd=CHECKOUT))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_crew__launcher_gets_a_signal__nothing_is_left(
    tmp_path: Path, launcher: Path, running: Callable[..., Any], number: signal.Signals
) -> None:
    process = running(sys.executable, launcher, tmp_path)
    pids = await family(tmp_path)
    assert all(map(alive, pids))

    process.send_signal(number)

    await until(lambda: not any(map(alive, pids)))


async def test_interruptible__its_make_is_killed__everything_stops(
    tmp_path: Path, launcher: Path, running: Callable[..., Any]
) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"world:\n\t@{sys.executable} {launcher} {tmp_path}\n")
    make = running("make", "-f", makefile, "world")
    pids = await family(tmp_path, "ready")

    make.kill()

    await until(lambda: not any(map(alive, pids)))


async def test_crew__stopped__grandchildren_are_gone(crew: Crew) -> None:
    await crew.start("family", ["sh", "-c", FAMILY])
    pids = await family(crew.folder)

    await crew.stop()

    assert not any(map(alive, pids))


async def test_crew__program_ends_by_itself__what_it_left_behind_goes_too(crew: Crew) -> None:
    then_leave = "until [ -s grandchild ]; do sleep 0.02; done; exit 3"
    child = await crew.start("family", ["sh", "-c", FAMILY.replace("sleep 300; true", then_leave)])

    assert await child.wait() == 3
    assert not any(map(alive, await family(crew.folder)))


async def test_child__killed__status_is_the_signal_and_pid_was_the_program(crew: Crew) -> None:
    child = await crew.start("sleeper", ["sh", "-c", "echo $$; exec sleep 300"])
    await until(lambda: child.tail() == str(child.pid))

    os.kill(child.pid, signal.SIGKILL)

    assert await child.wait() == -signal.SIGKILL
    assert not child.running


async def test_child__ignores_sigterm__is_killed_when_patience_ends(crew: Crew) -> None:
    child = await crew.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    await until(lambda: child.tail() == "ready")

    await child.stop(patience_s=0.2)

    assert not alive(child.pid)


async def test_child__program_doesnt_exist__ends_with_127_and_the_log_names_it(crew: Crew) -> None:
    child = await crew.start("nothing", ["/no/such/program"])

    assert await child.wait() == 127
    assert "/no/such/program" in child.tail()


async def test_listens__somebody_else_has_the_port__is_not_taken_for_ours(crew: Crew) -> None:
    child = await crew.start("sleeper", ["sleep", "300"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert not listens(child.pid, port)
        assert listens(os.getpid(), port)


async def test_until_listening__child_ends_first__fails_with_its_last_words(crew: Crew) -> None:
    child = await crew.start("brief", ["sh", "-c", "echo port is taken"])

    with pytest.raises(Failed, match="port is taken"):
        await until_listening(child, free_port())
