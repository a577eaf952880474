"""How fast the keeper is there, and what it weighs at rest: one line of JSON.

    make bench-start            five starts in turns with five `--help`s, and a minute of rest for the last

`help_s` is `langdao-keeper --help`. The others are of `langdao-keeper run` with a key on a real node with an empty
index: `first_request_s` from the exec to the first request that the node gets, `at_head_s` to the first answer of
/ready that says ready, `rss_mb` the resident memory after REST seconds of quiet blocks. Medians; the exit code is 1
when a limit isn't held: 0.3 s, 2 s and 180 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bench.process import Usage
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import environment
from tests.support.servers import free_port

COMMAND = (sys.executable, "-m", "bot.cli")
LIMITS = {"help_s": 0.3, "first_request_s": 2.0, "rss_mb": 180.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--rest", type=float, default=60, help="seconds of quiet before the memory is read")
    asked = parser.parse_args()
    helps: list[float] = []
    starts: list[tuple[float, float, float]] = []
    with langdao(students=1, tutors=1) as world, tempfile.TemporaryDirectory() as folder:
        world.node.rpc("evm_setIntervalMining", 1)
        for turn in range(asked.times):
            helps.append(help_s(Path(folder)))
            rest_s = asked.rest if turn == asked.times - 1 else 0
            starts.append(start(world, Path(folder) / str(turn), rest_s))
    result = {
        "help_s": round(statistics.median(helps), 2),
        "first_request_s": round(statistics.median(first for first, _, _ in starts), 2),
        "at_head_s": round(statistics.median(ready for _, ready, _ in starts), 2),
        "rss_mb": round(starts[-1][2], 1),
    }
    print(json.dumps(result))
    sys.exit(any(result[name] > limit for name, limit in LIMITS.items()))


def help_s(home: Path) -> float:
    began = time.monotonic()
    subprocess.run([*COMMAND, "--help"], env=environment(home), cwd=home, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def start(world: World, home: Path, rest_s: float) -> tuple[float, float, float]:
    """Seconds to the first request and to ready, and MB at rest."""
    bind = f"127.0.0.1:{free_port()}"
    with Doorbell(int(world.node.url.rpartition(":")[2])) as door:
        given = {
            "RPC_URL": f"http://127.0.0.1:{door.port}",
            "CONTRACT_ADDRESS": world.contract,
            "BACKEND_PRIVATE_KEY": OWNER_KEY,
            "DATABASE_URL": f"sqlite:///{home}/keeper.db",
            "HTTP_BIND": bind,
            "LOG_LEVEL": "warning",
        }
        began = time.monotonic()
        with running(home, environment(home, **given)) as keeper:
            while not ready(bind):
                if keeper.poll() is not None or time.monotonic() > began + 60:
                    raise SystemExit((home / "log").read_text())
                time.sleep(0.02)
            at_head_s = time.monotonic() - began
            time.sleep(rest_s)
            assert door.rang_s is not None
            return door.rang_s - began, at_head_s, Usage.of(keeper.pid).rss_mb


@contextlib.contextmanager
def running(home: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`langdao-keeper run`, ended with the block."""
    with (home / "log").open("wb") as log:
        keeper = subprocess.Popen([*COMMAND, "run"], env=env, cwd=home, stdout=log, stderr=log)
    try:
        yield keeper
    finally:
        keeper.terminate()
        try:
            keeper.wait(10)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()


def ready(bind: str) -> bool:
    with contextlib.suppress(OSError, urllib.error.HTTPError), urllib.request.urlopen(f"http://{bind}/ready") as answer:
        return bool(answer.status == 200)
    return False


class Doorbell:
    """Passes connections on to the node's port, and notes when the first bytes came."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.rang_s: float | None = None

    def __enter__(self) -> Doorbell:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                node = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, rings in ((caller, node, True), (node, caller, False)):
                    threading.Thread(target=self._carry, args=(source, sink, rings), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, rings: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                if rings and self.rang_s is None:
                    self.rang_s = time.monotonic()
                sink.sendall(content)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
