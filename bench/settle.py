"""`make bench-settle`: what a settlement costs, one at a time and five hundred at once.

*Latency*: from the decision, as stored, to the node's acceptance of the signed bytes, one settlement at a time.
Beside each, the same calls are made bare (`bench.bare`): the requests that the daemon has just made, in the same order
(together where it made them together), with one durable commit before the transaction is sent, by a process that does
nothing else. Both end by the proxy's clock. The ratios are the daemon's percentiles over the bare ones. What the daemon
has to do besides counts against it: store the decision, decode, check, sign.
They take turns, each from rest, and who goes first changes: what the machine does besides meets both alike. So that
300 of each take five minutes, the keeper looks at the chain every 0.5 s here, and is started anew for the burst. The
p99 of 300 is the third worst, a few commits that met a busy disk: the spread beside it, drawn anew from the same
values, says how little it tells; `--latency 1000` tells more. The slowest of either side are told with their steps: the
daemon has a clock at each of them (`bench.staged`), and `--stages` tells of all.
*Burst*: all sessions are given to `settle` at once, through the inbox, with blocks of 30 M gas every 2 s.

Promises: one JSON line on stdout (`latency_ratio_p50, latency_ratio_p99, burst_settled, burst_blocks, last_broadcast_s,
rpc_per_settlement, gas_per_settlement`); the profile goes to stderr. Settings are the defaults, but for the gas budget
and, while latency is measured, POLL_INTERVAL_S.
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
from bench.settle_latency import look_inside, measure_latency, tell, tell_steps
from bench.settling import BLOCK_GAS, Record, World, say, until
from scripts.world import anvil, deployment, processes
from scripts.world.chain import LangDAO, Node
from scripts.world.keeper import Keeper
from scripts.world.processes import Failed

POLL_S = 0.5  # while latency is measured: from one look to the next, one settlement has its rest and its turn


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
    alone = Keeper(
        crew, "keeper", settings | {"POLL_INTERVAL_S": POLL_S}, command=(sys.executable, "-m", "bench.staged")
    )
    together = Keeper(crew, "burst", settings)
    world = World(node, dao, deployed.owner, proxy, Record(alone.folder / "keeper.db"), crew.folder)
    try:
        await started(alone, world, 2 * count + burst)
        latency = await measure_latency(world, count)
        look_inside(latency, alone.folder / "stages.jsonl")
        tell(latency)
        if stages:
            tell_steps(alone.folder / "stages.jsonl")
        alone.kill()
        await alone.until_dead()
        world.record = Record(together.folder / "keeper.db")
        await started(together, world, burst)
        found = await measure_burst(world, list(range(2 * count + 1, 2 * count + burst + 1)))
    finally:
        await proxy.stop()
    ratios = {f"latency_ratio_{name}": round(latency.ratio(share), 2) for name, share in (("p50", 0.5), ("p99", 0.99))}
    return ratios | found


async def started(keeper: Keeper, world: World, active: int) -> None:
    await keeper.start()
    await until("the sessions' details", lambda: world.record.active() == active)
    say("the keeper runs")


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-settle")
    parser.add_argument("--latency", type=int, default=300, help="settlements one at a time")
    parser.add_argument("--burst", type=int, default=500, help="settlements at once")
    parser.add_argument("--stages", action="store_true", help="when each step was taken, of all, to stderr")
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
