"""The other side of `bench.settle`: the same calls, made by a program that does nothing else.

    python -m bench.bare RPC_URL DATABASE

Each line on stdin is one settlement: `{"rounds": [[body, …], …], "raw": …}`, the rounds' requests together, one round
after another; the last round sends `raw`, which is committed durably first. Answers each with a line, times in seconds.
A process of its own, as the daemon is one, with the daemon's HTTP client and the daemon's pragmas.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from typing import Any

import aiohttp

from bot.store.pragmas import PRAGMAS

JSON = {"Content-Type": "application/json"}


async def settle(http: aiohttp.ClientSession, file: sqlite3.Connection, url: str, order: Any) -> dict[str, Any]:
    async def post(body: str) -> None:
        async with http.post(url, data=body.encode(), headers=JSON) as answer:
            json.loads(await answer.read())

    began, rounds_s, commit_s = time.time(), [], 0.0
    for number, bodies in enumerate(order["rounds"]):
        before = time.perf_counter()
        if number == len(order["rounds"]) - 1:
            file.execute("BEGIN IMMEDIATE")
            file.execute("INSERT INTO txs VALUES (?)", (order["raw"],))
            file.execute("COMMIT")
            commit_s = time.perf_counter() - before
            before = time.perf_counter()
        await asyncio.gather(*(post(body) for body in bodies))
        rounds_s.append(time.perf_counter() - before)
    return {"began": began, "rounds_s": rounds_s, "commit_s": commit_s}


async def main(url: str, path: str) -> None:
    file = sqlite3.connect(path, isolation_level=None)
    for statement in (*PRAGMAS, "PRAGMA synchronous=FULL", "CREATE TABLE IF NOT EXISTS txs (raw TEXT)"):
        file.execute(statement)
    async with aiohttp.ClientSession() as http:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await settle(http, file, url, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
