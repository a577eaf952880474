"""How many posts of the signalling server one keeper takes, and how late: one line of JSON.

    make bench-feeds            2,000 rooms, a heartbeat every 10 s each for 60 s, a tenth of them hangs up

A real node, a real `langdao-keeper run` in a process of its own, and posts on 32 kept connections, each at its own
moment, whether or not the one before was answered. `lag` is from that moment to the answer, so it holds what the
client waits for its turn, and an answer means that the post is stored. `lost` is what the database doesn't show
afterwards. `cpu_s` and `rss_mb` (its highest) are the keeper's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from bench.process import Usage
from bot.feeds.webhook import secret_in
from tests.support.anvil import langdao
from tests.support.record import environment
from tests.support.servers import free_port

EVERY_S = 10.0
CONNECTIONS = 32
HANG_UP_SHARE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with langdao(students=1, tutors=1) as world, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        port = free_port()
        given = {
            "RPC_URL": world.node.url,
            "CONTRACT_ADDRESS": world.contract,
            "DATABASE_URL": f"sqlite:///{home}/keeper.db",
            "HTTP_BIND": f"127.0.0.1:{port}",
            "WEBHOOK_SECRET_FILE": home / "hook.secret",
            "LOG_LEVEL": "warning",
        }
        secret, _ = secret_in(home / "hook.secret")
        with running(home, given) as keeper:
            url = f"http://127.0.0.1:{port}"
            result = asyncio.run(measure(url, secret, asked.rooms, asked.seconds, random.Random(asked.seed)))
            used = Usage.of(keeper.pid)
            result |= {"cpu_s": round(used.cpu_s, 1), "rss_mb": round(used.peak_mb, 1)}
            keeper.terminate()
            keeper.wait(20)
        beats, ends = stored(home / "keeper.db")
    sent_beats, sent_ends = result.pop("beats"), result.pop("ends")
    lost = (sent_beats - beats) + (sent_ends - ends)
    order = ("rooms", "sent", "lost", "lag_p99_ms", "cpu_s", "rss_mb")
    print(json.dumps({name: (result | {"rooms": asked.rooms, "lost": lost})[name] for name in order}))
    sys.exit(0 if lost == 0 else 1)


@contextlib.contextmanager
def running(home: Path, given: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    with (home / "log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "bot.cli", "run"], env=environment(home, **given), cwd=home, stdout=log, stderr=log
        )
    try:
        yield keeper
    finally:
        if keeper.poll() is None:
            keeper.kill()
        keeper.wait()


async def measure(url: str, secret: str, rooms: int, seconds: float, rng: random.Random) -> dict[str, Any]:
    """Posts everything at its moment; what was sent and how late it was answered."""
    plan: list[tuple[float, str, str]] = []
    for number in range(rooms):
        room, offset = f"req_{number}", rng.uniform(0, EVERY_S)
        ends = rng.uniform(offset, seconds) if rng.random() < HANG_UP_SHARE else None
        at = offset
        while at < seconds and (ends is None or at < ends):
            plan.append((at, "session-heartbeat", room))
            at += EVERY_S
        if ends is not None:
            plan.append((ends, "session-ended", room))
    plan.sort()
    lags: list[float] = []
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
        await listening(http, url)
        began = time.monotonic() + 0.5

        async def post(at: float, kind: str, room: str) -> None:
            body = {"type": kind, "sessionId": room, "timestamp": time.time_ns() // 1_000_000}
            if kind == "session-ended":
                body |= {"endedBy": "student"}
            with contextlib.suppress(aiohttp.ClientError):
                async with http.post(f"{url}/hook/{secret}", json=body) as answer:
                    if answer.status == 200:
                        lags.append(time.monotonic() - began - at)

        for at, kind, room in plan:
            delay = began + at - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            group.create_task(post(at, kind, room))
    lags.sort()
    kinds = [kind for _, kind, _ in plan]
    return {
        "sent": len(plan),
        "beats": kinds.count("session-heartbeat"),
        "ends": kinds.count("session-ended"),
        "lag_p99_ms": round(lags[int(len(lags) * 0.99)] * 1000, 1) if lags else None,
    }


async def listening(http: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(f"{url}/health") as answer:
                if answer.status == 200:
                    return
        if time.monotonic() > deadline:
            raise SystemExit("the keeper doesn't listen")
        await asyncio.sleep(0.1)


def stored(path: Path) -> tuple[int, int]:
    """Heartbeats and ends that the keeper's database has."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        beats = database.execute("SELECT COALESCE(SUM(beats), 0) FROM rooms").fetchone()[0]
        ends = database.execute("SELECT COUNT(*) FROM facts WHERE kind = 'ended'").fetchone()[0]
    return int(beats), int(ends)


if __name__ == "__main__":
    main()
