"""`make bench-index`: the floor, the follower and the whole command, in turns; one JSON line of medians.

Both clocks run from the first request for logs to the last commit; what comes before is `start_s`. `ratio` is the
follower's rate by the floor's, `cpu_ratio` the same by processor time, which other work on the machine disturbs less.
`process_ratio` is `langdao-keeper index`, from spawn to exit, by the floor's rate. `first_row_s` is from spawn until a
reader sees a row.

    python -m bench.index [ROUNDS]
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.chain import LOGS, Chain, long_chain
from bot.chain.pages import TARGET_LOGS

ROUNDS = 5
PAGE_BLOCKS = TARGET_LOGS // 40  # what the follower comes to on this chain
COMMAND = Path(sys.executable).with_name("langdao-keeper")


def main(rounds: int) -> dict[str, Any]:
    floors, follows, processes, firsts = [], [], [], []
    with long_chain() as chain, tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            floors.append(_floor(chain, Path(folder) / f"floor-{turn}.db"))
            last = ["details"] if turn == rounds - 1 else []
            follows.append(_follow(chain, Path(folder) / f"follow-{turn}.db", last))
            processes.append(_process(chain, Path(folder) / f"process-{turn}.db"))
            firsts.append(_first_row(chain, Path(folder) / f"first-{turn}.db"))
            for file in Path(folder).iterdir():
                file.unlink()
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    assert all(found["logs"] == LOGS for found in (*floors, *follows, *processes))
    floor_s, follow_s = _median(floors, "took_s"), _median(follows, "took_s")
    process_s = _median(processes, "whole_s")
    return {
        "logs": LOGS,
        "floor_logs_per_s": round(LOGS / floor_s),
        "logs_per_s": round(LOGS / follow_s),
        "ratio": round(floor_s / follow_s, 3),
        "cpu_ratio": round(_median(floors, "cpu_s") / _median(follows, "cpu_s"), 3),
        "rss_mb": _median(follows, "rss_mb"),
        "requests": _median(follows, "requests"),
        "floor_requests": _median(floors, "requests"),
        "start_s": round(statistics.median(one["whole_s"] - one["took_s"] for one in processes), 3),
        "first_row_s": round(statistics.median(firsts), 3),
        "process_ratio": round(floor_s / process_s, 3),
        "details_per_s": round(follows[-1]["details_per_s"]),
        "senders_per_s": round(follows[-1]["senders_per_s"]),
        "load": os.getloadavg()[0],
    }


def _floor(chain: Chain, database: Path) -> dict[str, Any]:
    where = [chain.url, chain.contract, chain.deploy_block, chain.last_block, PAGE_BLOCKS, database]
    return _run([sys.executable, "-m", "bench.floor", *map(str, where)])


def _follow(chain: Chain, database: Path, more: list[str]) -> dict[str, Any]:
    where = [chain.url, chain.contract, chain.deploy_block, database, *more]
    return _run([sys.executable, "-m", "bench.follow", *map(str, where)])


def _process(chain: Chain, database: Path) -> dict[str, Any]:
    started = time.perf_counter()
    found = _run([str(COMMAND), "index", "--json"], _settings(chain, database))
    return found | {"whole_s": time.perf_counter() - started}


def _first_row(chain: Chain, database: Path) -> float:
    """Seconds from the spawn of the command until another process sees a log."""
    started = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([str(COMMAND), "index"], env=_settings(chain, database), **quiet)  # type: ignore[call-overload]
    try:
        while not _has_rows(database):
            assert process.poll() is None, "index ended without a row"
            time.sleep(0.01)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


def _has_rows(database: Path) -> bool:
    try:
        reader = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return reader.execute("SELECT 1 FROM logs LIMIT 1").fetchone() is not None
        finally:
            reader.close()
    except sqlite3.OperationalError:
        return False  # no file or no table yet


def _settings(chain: Chain, database: Path) -> dict[str, str]:
    return os.environ | {
        "RPC_URL": chain.url,
        "CONTRACT_ADDRESS": chain.contract,
        "START_BLOCK": str(chain.deploy_block),  # the loaded node keeps no old state to find it
        "DATABASE_URL": f"sqlite:///{database}",
    }


def _run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)))
