"""Run one program so that neither it nor anything it starts can outlive the process that asked for it.

    python -I -S leash.py FD PROGRAM [ARGUMENT...]

FD is one end of a socket pair; the launcher holds the other. The leash writes the program's pid to it and
then waits: when the other end closes, for whatever reason (SIGKILL of the launcher included), or when the
program ends, every process below the leash is killed and the leash leaves with the program's status.

Promises: grandchildren too, also those that made their own session or lost their parent, because the leash is
their subreaper (Linux). The program dies with the leash if somebody kills the leash itself.
Doesn't promise: on other systems only the program's own process group is killed.

Plain standard library, no site: it starts in a few milliseconds and is small.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"


def prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def parents() -> dict[int, int]:
    """Every process of the machine with its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end while we look at it.
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(errors="replace")
                # The name in parentheses may hold anything; the fields follow the last one.
                found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_all(program: int) -> None:
    """Kill everything below this process, until nothing is left to wait for."""
    if not LINUX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        return
    while True:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def start(argv: list[str], keep_group: bool) -> int:
    """Fork and exec. The program gets the signal dispositions that a shell would give it."""
    pid = os.fork()
    if pid:
        return pid
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    if not LINUX and not keep_group:
        os.setpgid(0, 0)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    os._exit(127)


def main() -> int:
    launcher = socket.socket(fileno=int(sys.argv[1]))
    launcher.set_inheritable(False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)

    # Signals wake the loop below through a pipe; what woke it is then looked up, not remembered.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    told_to_stop: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: told_to_stop.append(number))

    program = start(sys.argv[2:], keep_group=os.getpgrp() != os.getpid())
    try:
        launcher.send(b"%d\n" % program)
    except OSError:  # the launcher is gone already
        kill_all(program)
        return 1

    status = None
    while status is None and not told_to_stop:
        ready, _, _ = select.select([launcher, wake_read], [], [])
        if launcher in ready:
            break  # nothing is ever sent to us: readable means closed
        os.read(wake_read, 4096)
        while True:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == program:
                status = ended
    kill_all(program)
    if status is None:
        return 128 + signal.SIGKILL
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    # No interpreter shutdown: there is nothing to clean up, and the launcher is waiting.
    os._exit(main())
