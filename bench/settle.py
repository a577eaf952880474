"""`make bench-settle`: what a settlement costs, one at a time and five hundred at once.

*Latency*: from the decision, as stored, to the node's acceptance of the signed bytes, one settlement at a time.
Beside each, the same calls are made bare (`bench.bare`): the requests that the daemon has just made, in the same order
(together where it made them together), with one durable commit before the transaction is sent, by a process that does
nothing else. Both end by the proxy's clock. The ratios are the daemon's percentiles over the bare ones. What the daemon
has to do besides counts against it: store the decision, decode, check, sign.
They take turns, 240 times each: what the machine does besides meets both alike, and the p99 is the third worst of each,
so that not just one commit that met a busy disk is compared with another. That takes four of the five minutes.
*Burst*: all sessions are given to `settle` at once, through the inbox, with blocks of 30 M gas every 2 s.

Promises: one JSON line on stdout (`latency_ratio_p50, latency_ratio_p99, burst_settled, burst_blocks, last_broadcast_s,
rpc_per_settlement, gas_per_settlement`); the profile goes to stderr. Settings are the defaults, but for the gas budget.
`--stages` runs the daemon with a clock at each step (`bench.staged`).
Doesn't promise anything about a node that is far away: both sides speak to the same Anvil, through the same proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from typing import Any

from bench.crowd import Crowd
from bench.listening import Listening
from bench.settle_burst import measure_burst
from bench.settle_latency import measure_latency, percentile, tell, tell_steps
from bench.settling import BLOCK_GAS, Record, World, say, until
from scripts.world import anvil, deployment, processes
from scripts.world.chain import LangDAO, Node
from scripts.world.keeper import COMMAND, Keeper
from scripts.world.processes import Failed


async def measure(crew: processes.Crew, count: int, burst: int, stages: bool) -> dict[str, Any]:
    _, node = await anvil.start(crew, block_time_s=None)
    try:
        return await measure_on(node, crew, count, burst, stages)
    finally:
        await node.close()


async def measure_on(node: Node, crew: processes.Crew, count: int, burst: int, stages: bool) -> dict[str, Any]:
    [deployed] = await deployment.deploy(crew, node, worlds=1, students=1, tutors=1)
    dao = LangDAO(node, deployed.contract, deployed.chain_id, deployment.LANGUAGE)
    crowd = Crowd(node, dao)
    await crowd.register(2 * count + burst)
    if int((await node.call("eth_getBlockByNumber", "latest", False))["gasLimit"], 16) != BLOCK_GAS:
        raise Failed("anvil's blocks are not of 30 M gas")
    await crowd.start(list(range(2 * count + burst)))
    say(f"{2 * count + burst} lessons run")
    proxy = Listening(node.url)
    await proxy.start()
    settings = {
        "RPC_URL": proxy.url,
        "CONTRACT_ADDRESS": deployed.contract,
        "START_BLOCK": deployed.deploy_block,
        "BACKEND_PRIVATE_KEY": deployed.owner.key,
        "DAILY_GAS_BUDGET_ETH": 1000,
    }
    command = (sys.executable, "-m", "bench.staged") if stages else COMMAND
    keeper = Keeper(crew, "keeper", settings, command=command)
    world = World(node, dao, deployed.owner, proxy, Record(keeper.folder / "keeper.db"), crew.folder)
    try:
        await keeper.start()
        await until("the sessions' details", lambda: world.record.active() == 2 * count + burst)
        say("the keeper runs")
        latency = await measure_latency(world, count)
        tell(latency)
        if stages:
            tell_steps(keeper.folder / "stages.jsonl")
        found = await measure_burst(world, list(range(2 * count + 1, 2 * count + burst + 1)))
    finally:
        await proxy.stop()
    ratios = {
        f"latency_ratio_{name}": round(percentile(latency.daemon_ms, share) / percentile(latency.bare_ms, share), 2)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return ratios | found


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-settle")
    parser.add_argument("--latency", type=int, default=240, help="settlements one at a time")
    parser.add_argument("--burst", type=int, default=500, help="settlements at once")
    parser.add_argument("--stages", action="store_true", help="when each step of a settlement was taken, to stderr")
    asked = parser.parse_args()
    async with processes.crew("bench-settle") as crew:
        try:
            async with processes.interruptible():
                found = await measure(crew, asked.latency, asked.burst, asked.stages)
        except Failed as error:
            say(f"can't be measured: {error}; logs: {crew.folder}")
            return 1
        except processes.Interrupted:
            return 130
        shutil.rmtree(crew.folder, ignore_errors=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
