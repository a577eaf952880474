"""The floor: what indexing these logs costs when nothing is promised but their rows.

Keep-alive HTTP with one page prefetched, typed msgspec, a minimal decode (numbers, the two addresses), `executemany`
into one table without further indexes, a transaction a page; the follower's page size and pragmas. No headers, no
parent hashes, no cursor, no sessions, no settlements, no resuming.

    python -m bench.floor URL CONTRACT FIRST LAST PAGE_BLOCKS DATABASE
"""

from __future__ import annotations

import http.client
import json
import resource
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import msgspec

from bot.chain.wire import RawLog
from bot.domain.address import checksum
from bot.store.pragmas import PRAGMAS


class _Reply(msgspec.Struct):
    result: list[RawLog]


def main(url: str, contract: str, first: int, last: int, page_blocks: int, database: str) -> dict[str, float]:
    address = urlsplit(url)
    node = http.client.HTTPConnection(address.hostname or "", address.port)
    decoder = msgspec.json.Decoder(_Reply)
    requests = 0

    def ask(start: int) -> bytes:
        nonlocal requests
        requests += 1
        where = {"fromBlock": hex(start), "toBlock": hex(min(last, start + page_blocks - 1)), "address": contract}
        body = json.dumps({"jsonrpc": "2.0", "id": requests, "method": "eth_getLogs", "params": [where]})
        node.request("POST", "/", body, {"Content-Type": "application/json"})
        return node.getresponse().read()

    store = sqlite3.connect(database, isolation_level=None)
    for pragma in PRAGMAS:
        store.execute(pragma)
    store.execute(
        "CREATE TABLE logs (block_number INT, log_index INT, block_hash TEXT, timestamp_s INT, tx_hash TEXT,"
        " tx_index INT, topic TEXT, session_id INT, address TEXT, topics TEXT, data TEXT,"
        " PRIMARY KEY (block_number, log_index))"
    )
    started, busy = time.perf_counter(), time.process_time()
    logs = 0
    with ThreadPoolExecutor(1) as ahead:
        page = ahead.submit(ask, first)
        for start in range(first, last + 1, page_blocks):
            content = page.result()
            if start + page_blocks <= last:
                page = ahead.submit(ask, start + page_blocks)
            rows = [_row(one) for one in decoder.decode(content).result]
            store.execute("BEGIN IMMEDIATE")
            store.executemany("INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            store.execute("COMMIT")
            logs += len(rows)
    took_s = time.perf_counter() - started
    cpu_s = time.process_time() - busy
    return {"logs": logs, "took_s": took_s, "cpu_s": cpu_s, "requests": requests, "rss_mb": rss_mb()}


def _row(log: RawLog) -> tuple[object, ...]:
    topics = log.topics
    return (
        int(log.block_number, 16),
        int(log.log_index, 16),
        log.block_hash,
        int(log.block_timestamp or "0x0", 16),
        log.transaction_hash,
        int(log.transaction_index, 16),
        topics[0],
        int(topics[1], 16) if len(topics) != 3 else None,
        checksum("0x" + topics[2][-40:]),
        ",".join(topics),
        log.data,
    )


def rss_mb() -> float:
    """The most memory that this process had, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    url, contract, first, last, page_blocks, database = sys.argv[1:]
    print(json.dumps(main(url, contract, int(first), int(last), int(page_blocks), database)))
