"""A long chain to index, built once and kept: 200,000 logs in 5,000 blocks, by an emitter contract on Anvil.

Promises: the node listens on loopback, is a child of this process and is gone when the `with` block is left; the
chain is the same in each run (its state dump is kept under .cache/bench, by the emitter's code and the sizes).
Doesn't promise to be like anybody's chain: each block has 40 logs, two fifths starts, two fifths ends, one fifth
deposits, in four transactions.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.anvil import ROOT, Anvil, anvil, calldata

BLOCKS = 5_000
TRANSACTIONS = 4  # in a block
LESSONS = 4  # that end, and as many that start, in a transaction
DEPOSITS = 2
LOGS = BLOCKS * TRANSACTIONS * (2 * LESSONS + DEPOSITS) - LESSONS  # nothing ends in the first transaction
CACHE = ROOT / ".cache" / "bench"
FINAL = 64  # blocks above the last logs, so that all of them are final


@dataclass(frozen=True, slots=True)
class Chain:
    """Where the chain is served, and what is on it."""

    url: str
    contract: str
    deploy_block: int
    last_block: int  # with logs


@contextmanager
def long_chain() -> Iterator[Chain]:
    """Anvil with the long chain on it; the first call builds it, which takes a few minutes."""
    code = emitter()
    name = hashlib.sha256(f"{code}{BLOCKS}{TRANSACTIONS}{LESSONS}{DEPOSITS}".encode()).hexdigest()[:12]
    state, about = CACHE / f"{name}.state", CACHE / f"{name}.json"
    if not about.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"building {LOGS} logs in {BLOCKS} blocks, once", file=sys.stderr)
        with anvil("--no-mining", "--gas-limit", "60000000", "--dump-state", str(state), wait_s=600) as node:
            facts = _build(node, code)
            node.process.terminate()  # it writes the state on its way out
            node.process.wait(timeout=300)
        about.write_text(json.dumps(facts))
    facts = json.loads(about.read_text())
    with anvil("--no-mining", "--load-state", str(state), wait_s=600) as node:
        yield Chain(node.url, facts["contract"], facts["deploy_block"], facts["last_block"])


def emitter() -> str:
    """The emitter's deployment bytecode."""
    source = Path(__file__).with_name("Emitter.vy")
    vyper = Path(sys.executable).with_name("vyper")
    done = subprocess.run([vyper, "-f", "bytecode", source], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def _build(node: Anvil, code: str) -> dict[str, object]:
    owner = node.rpc("eth_accounts")[0]
    deployed = node.rpc("eth_sendTransaction", {"from": owner, "data": code, "gas": hex(5_000_000)})
    node.mine()
    receipt = node.rpc("eth_getTransactionReceipt", deployed)
    contract = receipt["contractAddress"]
    data = calldata("emit_logs(uint256,uint256)", LESSONS, DEPOSITS)
    nonce = 1
    for block in range(BLOCKS):
        # With their nonces said: a node may work off a batch in any order.
        requests = [
            {"from": owner, "to": contract, "data": data, "gas": hex(500_000), "nonce": hex(nonce + more)}
            for more in range(TRANSACTIONS)
        ]
        node.batch([("eth_sendTransaction", [request]) for request in requests])
        node.rpc("evm_mine")
        nonce += TRANSACTIONS
        if block % 500 == 0:
            print(f"  block {block}", file=sys.stderr)
    last = node.number()
    counter = int(node.rpc("eth_call", {"to": contract, "data": calldata("sessionCounter()")}, "latest"), 16)
    assert counter == BLOCKS * TRANSACTIONS * LESSONS, f"only {counter} lessons were mined"
    node.mine(FINAL)
    return {"contract": contract, "deploy_block": int(receipt["blockNumber"], 16), "last_block": last}
