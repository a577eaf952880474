"""`make bench-lag`: from a block to its committed rows; one JSON line.

A block's clock starts when a process that does nothing else hears the node announce it, half a millisecond after it was
mined, and stops when the follower tells of the commit; `asked_p50_ms` is from asking the node to mine. Blocks with ten
logs come at random moments; quiet blocks count requests.

    python -m bench.lag [BLOCKS]
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.chain import DEPOSITS, LESSONS, emitter
from bot.chain.follower import Change, Follower
from bot.chain.rpc import Rpc
from bot.chain.start import identify
from bot.domain.address import checksum
from bot.ops import logging
from bot.settings import Settings
from bot.store import schema
from bot.store.db import Database, Writer
from tests.support.anvil import ROOT, Anvil, anvil, calldata

BLOCKS = 300
POLL_BLOCKS = 40
QUIET_BLOCKS = 200
POLL_S = 1.0


class Following:
    """A follower at work, and the moment at which each block was told of."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self.told: dict[int, float] = {}
        self._news = asyncio.Event()

    async def take(self, change: Change) -> None:
        self.told[change.head.number] = time.perf_counter()
        self._news.set()

    async def until(self, number: int) -> float:
        while not any(one >= number for one in self.told):
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 30)
        return min(at for one, at in self.told.items() if one >= number)


@asynccontextmanager
async def following(node: Anvil, contract: str, url: str, folder: Path, poll_s: float) -> AsyncIterator[Following]:
    database = Database(f"sqlite:///{folder / url.partition(':')[0]}.db")
    schema.upgrade(database)
    rpc, writer = Rpc([url]), Writer(database)
    identity = await identify(rpc, str(checksum(contract)), 0)
    one = Following(rpc)
    follower = Follower(rpc, writer, identity, poll_interval_s=poll_s, confirmations=2, on_change=one.take)
    task = asyncio.create_task(follower.run())
    try:
        await follower.at_head.wait()
        await asyncio.sleep(0.5)
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
        database.dispose()
        await rpc.close()


class Witness:
    """When each block was announced."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.heard", url], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self._at: dict[int, float] = {}

    async def ready(self) -> None:
        await asyncio.to_thread(self._lines.readline)

    async def heard_s(self, number: int) -> float:
        while number not in self._at:
            said, at_s = (await asyncio.to_thread(self._lines.readline)).split()
            self._at[int(said)] = float(at_s)
        return self._at[number]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def lags(
    node: Anvil, one: Following, witness: Witness, send: dict[str, Any], blocks: int, spread_s: float
) -> tuple[list[float], list[float]]:
    """Milliseconds from the announcement of a block with logs to its rows, and from asking for it."""
    dice = random.Random(8)
    found: list[float] = []
    asked: list[float] = []
    for _ in range(blocks):
        await asyncio.to_thread(node.rpc, "eth_sendTransaction", send)
        await asyncio.sleep(dice.uniform(0.01, spread_s))
        number = await asyncio.to_thread(node.number) + 1
        started = time.perf_counter()
        await asyncio.to_thread(node.rpc, "evm_mine")
        told = await one.until(number)
        found.append((told - await witness.heard_s(number)) * 1000)
        asked.append((told - started) * 1000)
    return found, asked


async def quiet(node: Anvil, one: Following) -> float:
    """Requests of the follower for 1,000 blocks without logs."""
    number = await asyncio.to_thread(node.number)
    before = one.rpc.requests
    for _ in range(QUIET_BLOCKS):
        number += 1
        await asyncio.to_thread(node.rpc, "evm_mine")
        await one.until(number)
    return (one.rpc.requests - before) * 1000 / QUIET_BLOCKS


async def main(blocks: int) -> dict[str, float]:
    with anvil("--no-mining") as node, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        owner = node.rpc("eth_accounts")[0]
        deployed = node.rpc("eth_sendTransaction", {"from": owner, "data": emitter(), "gas": hex(5_000_000)})
        node.mine()
        contract = node.rpc("eth_getTransactionReceipt", deployed)["contractAddress"]
        data = calldata("emit_logs(uint256,uint256)", LESSONS, DEPOSITS)
        push_url = node.url.replace("http", "ws")
        witness = Witness(push_url)
        await witness.ready()
        send = {"from": owner, "to": contract, "data": data, "gas": hex(500_000)}
        # The poll is kept out of the way here: what is measured is the push.
        async with following(node, contract, push_url, folder, 30) as one:
            pushed, asked = await lags(node, one, witness, send, blocks, 0.03)
            requests = await quiet(node, one)
        async with following(node, contract, node.url, folder, POLL_S) as one:
            polled, _ = await lags(node, one, witness, send, POLL_BLOCKS, POLL_S)
        witness.close()
    cuts = statistics.quantiles(pushed, n=100)
    return {
        "ws_p50_ms": round(cuts[49], 2),
        "ws_p99_ms": round(cuts[98], 2),
        "asked_p50_ms": round(statistics.median(asked), 2),
        "poll_p50_ms": round(statistics.median(polled), 1),
        "poll_max_ms": round(max(polled), 1),
        "requests_per_1000_blocks": requests,
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    logging.configure(Settings(), stream=sys.stderr, level="error")
    print(json.dumps(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else BLOCKS))))
