"""The follower alone, into a fresh database: from its first request to its last commit.

python -m bench.follow URL CONTRACT DEPLOY_BLOCK DATABASE
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.floor import rss_mb
from bot.chain.follower import Change, Follower
from bot.chain.rpc import Rpc
from bot.chain.start import identify
from bot.domain.address import checksum
from bot.store import queries, schema
from bot.store.db import Database, Writer


async def main(url: str, contract: str, deploy_block: int, path: str) -> dict[str, float]:
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    writer, rpc = Writer(database), Rpc([url])

    async def ignore(_: Change) -> None: ...

    try:
        identity = await identify(rpc, str(checksum(contract)), deploy_block)
        follower = Follower(rpc, writer, identity, poll_interval_s=1, confirmations=2, on_change=ignore)
        rpc.log_requests = 0
        started, busy = time.perf_counter(), time.process_time()
        await follower.catch_up()
        took_s, cpu_s = time.perf_counter() - started, time.process_time() - busy
        with database.read() as session:
            counts = queries.counts(session)
        return {**counts, "took_s": took_s, "cpu_s": cpu_s, "requests": rpc.log_requests, "rss_mb": rss_mb()}
    finally:
        writer.close()
        database.dispose()
        await rpc.close()


if __name__ == "__main__":
    url, contract, deploy_block, path = sys.argv[1:]
    print(json.dumps(asyncio.run(main(url, contract, int(deploy_block), path))))
