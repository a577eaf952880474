"""`make bench-guard`: what the settlement guard saves, and how fast five hundred sessions are ended through it.

*Gas*: fifty running lessons are ended by fifty plain calls of the owner, one after the other; then the chain is taken
back and the same fifty are ended by one call of the guard. The difference is divided by fifty.
*Blocks*: five hundred sessions are given to the daemon's `settle` at once, through the inbox, in guarded mode; blocks
have 30 M gas and come every 2 s, and the node enforces EIP-7825's limit of a transaction. Counted from the request.

Promises: one JSON line on stdout (`blocks, settled, gas_saved_per_settlement_50, percent_50`); exit code 1 when not all
were settled, in more than 7 blocks, or less than 20,000 gas was saved. Settings are the defaults, but for the budget.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import shutil
import sys
import time
from typing import Any

from bench.crowd import STUDENTS, Crowd, account
from bench.settling import BLOCK_GAS, BLOCK_S, BURST_LIMIT_S, Record, say, until
from bot.chain import codec, guard_codec
from bot.domain.facts import SessionKey
from scripts.world import anvil, deployment, processes
from scripts.world.chain import LangDAO, Node
from scripts.world.delegation import delegate
from scripts.world.deployment import Deployed
from scripts.world.keeper import Keeper
from scripts.world.processes import Failed

BATCH = 50
LESSON_S = 600
MOST_BLOCKS = 7
LEAST_SAVED = 20_000


class Lessons:
    """Running lessons, numbered from 1, and how to end them without a keeper."""

    def __init__(self, node: Node, deployed: Deployed) -> None:
        self.node = node
        self.deployed = deployed

    def key(self, number: int) -> SessionKey:
        tutor = number - 1
        return SessionKey(number, account(0xAA, tutor % STUDENTS), account(0xBB, tutor))

    async def gas_of(self, sender: str, to: str, data: str, gas: int) -> int:
        sent = await self.node.call(
            "eth_sendTransaction", {"from": sender, "to": to, "data": data, "gas": hex(gas), "value": "0x0"}
        )
        receipt = await self.node.receipt(sent)
        if int(receipt["status"], 16) != 1:
            raise Failed(f"{sent} reverted")
        return int(receipt["gasUsed"], 16)

    async def saved(self) -> tuple[float, float]:
        """Gas saved per session in a batch of fifty, and in percent of the plain call."""
        keys = [self.key(number) for number in range(1, BATCH + 1)]
        owner, keeper = self.deployed.owner.address, self.deployed.keeper.address
        before = await self.node.call("evm_snapshot")
        plain = sum(
            [await self.gas_of(owner, self.deployed.contract, codec.end_session(key.tutor), 300_000) for key in keys]
        )
        await self.node.call("evm_revert", before)
        before = await self.node.call("evm_snapshot")
        batch = await self.gas_of(keeper, owner, guard_codec.settle(keys), guard_codec.gas_limit(BATCH, 300_000))
        await self.node.call("evm_revert", before)
        say(f"{BATCH} plain calls: {plain:,} gas; one batch: {batch:,}")
        return (plain - batch) / BATCH, 100 * (plain - batch) / plain


async def ended_in_blocks(node: Node, dao: LangDAO, record: Record, sessions: list[int]) -> tuple[int, int]:
    """Blocks from the request to the last end, and how many ended."""
    await node.call("evm_setAutomine", False)
    await node.call("evm_setIntervalMining", BLOCK_S)
    await asyncio.sleep(BLOCK_S)
    block = await node.height()
    record.ask(sessions)
    asked, seen = set(sessions), []
    deadline = time.monotonic() + BURST_LIMIT_S
    while time.monotonic() < deadline and len(seen) < len(sessions):
        await asyncio.sleep(0.5)
        seen = [log for log in await dao._logs(codec.SESSION_ENDED, block + 1) if int(log["topics"][1], 16) in asked]
    per_block = collections.Counter(int(log["blockNumber"], 16) - block for log in seen)
    per_tx = collections.Counter(log["transactionHash"] for log in seen)
    say("ended in block: " + ", ".join(f"{number}: {count}" for number, count in sorted(per_block.items())))
    sizes = per_tx.values()
    say(f"{len(per_tx)} transactions, of {min(sizes, default=0)} to {max(sizes, default=0)} sessions")
    return max(per_block, default=0), len({log["topics"][1] for log in seen})


async def measure(crew: processes.Crew, count: int) -> dict[str, Any]:
    _, node = await anvil.start(crew, block_time_s=None, options=["--enable-tx-gas-limit"])
    try:
        [deployed] = await deployment.deploy(crew, node, worlds=1, students=1, tutors=1)
        await delegate(node, deployed)
        dao = LangDAO(node, deployed.contract, deployed.chain_id, deployment.LANGUAGE)
        crowd = Crowd(node, dao)
        await crowd.register(count)
        if int((await node.call("eth_getBlockByNumber", "latest", False))["gasLimit"], 16) != BLOCK_GAS:
            raise Failed("anvil's blocks are not of 30 M gas")
        await crowd.start(list(range(count)))
        await node.call("evm_increaseTime", LESSON_S)
        await node.call("anvil_mine", "0x1")
        saved, percent = await Lessons(node, deployed).saved()
        settings = {
            "RPC_URL": node.url,
            "CONTRACT_ADDRESS": deployed.contract,
            "START_BLOCK": deployed.deploy_block,
            "BACKEND_PRIVATE_KEY": deployed.keeper.key,
            "DAILY_GAS_BUDGET_ETH": 1000,
        }
        keeper = Keeper(crew, "keeper", settings)
        await keeper.start()
        record = Record(keeper.folder / "keeper.db")
        await until("the sessions' details", lambda: record.active() == count)
        say("the keeper runs")
        blocks, settled = await ended_in_blocks(node, dao, record, list(range(1, count + 1)))
    finally:
        await node.close()
    return {
        "blocks": blocks,
        "settled": settled,
        "gas_saved_per_settlement_50": round(saved),
        "percent_50": round(percent, 1),
    }


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-guard")
    parser.add_argument("--count", type=int, default=500, help="sessions given to settle at once, at least 50")
    asked = parser.parse_args()
    async with processes.crew("bench-guard") as crew:
        try:
            async with processes.interruptible():
                found = await measure(crew, max(BATCH, asked.count))
        except Failed as error:
            say(f"can't be measured: {error}; logs: {crew.folder}")
            return 1
        except processes.Interrupted:
            return 130
        shutil.rmtree(crew.folder, ignore_errors=True)
    print(json.dumps(found))
    good = found["settled"] == max(BATCH, asked.count) and found["blocks"] <= MOST_BLOCKS
    return 0 if good and found["gas_saved_per_settlement_50"] >= LEAST_SAVED else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
