"""All at once: sessions given to `settle` together, with blocks of 30 M gas every 2 s."""

from __future__ import annotations

import asyncio
import collections
import time
from typing import Any

from bench.settling import BLOCK_S, BURST_LIMIT_S, World, say
from bot.chain import codec


async def measure_burst(world: World, sessions: list[int]) -> dict[str, Any]:
    node, dao = world.node, world.dao
    await node.call("evm_setAutomine", False)
    await node.call("evm_setIntervalMining", BLOCK_S)
    await asyncio.sleep(BLOCK_S)
    first = len(world.proxy.exchanges)
    block, began = await node.height(), time.time()
    world.record.ask(sessions)
    asked = set(sessions)
    deadline = time.monotonic() + BURST_LIMIT_S
    seen: list[Any] = []
    while time.monotonic() < deadline and len(seen) < len(sessions):
        await asyncio.sleep(0.5)
        seen = [log for log in await dao._logs(codec.SESSION_ENDED, block + 1) if int(log["topics"][1], 16) in asked]
    exchanges = world.proxy.exchanges[first:]
    last = max((int(log["blockNumber"], 16) for log in seen), default=block)
    gas = 0
    for number in range(block + 1, last + 1):
        for receipt in await node.call("eth_getBlockReceipts", hex(number)):
            gas += int(receipt["gasUsed"], 16) if receipt["from"].lower() == world.owner.address.lower() else 0
    sends = [one.ended - began for one in exchanges if one.sends]
    settled = len({log["topics"][1] for log in seen})
    per_block = collections.Counter(int(log["blockNumber"], 16) - block for log in seen)
    say("burst, settled in block: " + ", ".join(f"{number}: {count}" for number, count in sorted(per_block.items())))
    return {
        "burst_settled": settled,
        "burst_blocks": last - block,
        "last_broadcast_s": round(max(sends, default=0.0), 2),
        "rpc_per_settlement": round(sum(len(one.methods) for one in exchanges) / max(1, settled), 2),
        "gas_per_settlement": round(gas / max(1, settled)),
    }
