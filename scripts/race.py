"""`make race SEED=… COUNT=…`: a tutor's next lesson begins between the keeper's look and the block that it waits for.

For each of COUNT orders there is a lesson in each of two worlds on one Anvil with interval mining. In one world a real
keeper works in direct mode, in the other one in guarded mode. Once a keeper's transaction for the lesson is in the
pool, the student ends it and another student starts the tutor's next one, with tips that put the three in a drawn order
within the same block. Orders that didn't come about like that, as a block was early, are drawn again.

Promises: the chain is the judge. The last line on stdout is one JSON object (`orders, wrong_direct, wrong_guarded,
incidents_reported`); the exit code is 0 only if all orders took place, guarded mode ended no wrong session, direct mode
exactly those that it had to, and each of those is an alert in its record.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import random
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass
from typing import Any

from eth_abi import encode

from scripts.chaos.record import Record
from scripts.world import anvil, deployment, processes
from scripts.world.chain import END_GAS, END_SESSION, START_GAS, START_SESSION, Key, LangDAO, Node
from scripts.world.delegation import delegate
from scripts.world.deployment import Deployed
from scripts.world.keeper import Keeper
from scripts.world.processes import Failed

TUTORS = 12  # lessons at a time, in each world
BLOCK_S = 3
GWEI = 10**9
POOL_S = 2.5  # how long the keepers may take from the request to the pool
CALM_S = 40.0
FRUITLESS = 8  # rounds
BLOCK_GAS = 100_000_000
SETTINGS = {"POLL_INTERVAL_S": 0.1, "DAILY_GAS_BUDGET_ETH": 1000}

END, START, KEEPER = "the student ends", "the next one starts", "the keeper ends"
ORDERS = tuple(itertools.permutations((END, START, KEEPER)))
WRONG = (END, START, KEEPER)  # the only one in which a bare endSession finds the next lesson


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Lesson:
    tutor: Key
    student: Key
    following: Key
    session_id: int


@dataclass(frozen=True, slots=True)
class Raced:
    """An order that took place in one world."""

    lesson: Lesson
    order: tuple[str, ...]
    block: int


class Side:
    """One world and its keeper."""

    def __init__(self, crew: processes.Crew, node: Node, deployed: Deployed, *, guarded: bool) -> None:
        self.name = "guarded" if guarded else "direct"
        self.node = node
        self.dao = LangDAO(node, deployed.contract, deployed.chain_id, deployment.LANGUAGE)
        self._deployed = deployed
        self.signer = deployed.keeper if guarded else deployed.owner
        settings = {
            "RPC_URL": node.url,
            "CONTRACT_ADDRESS": deployed.contract,
            "START_BLOCK": deployed.deploy_block,
            "BACKEND_PRIVATE_KEY": self.signer.key,
            **SETTINGS,
        }
        self.keeper = Keeper(crew, self.name, settings)
        self.file = self.keeper.folder / "keeper.db"
        self.record = Record(self.file)
        self.asked: set[int] = set()

    async def begin(self, count: int) -> list[Lesson]:
        """A lesson for each of the first tutors, indexed by the keeper."""
        people = list(
            zip(self._deployed.tutors, self._deployed.students[::2], self._deployed.students[1::2], strict=False)
        )
        some = people[:count]
        ids = await asyncio.gather(*(self.dao.start(student, tutor.address) for tutor, student, _ in some))
        deadline = time.monotonic() + CALM_S
        while not self._knows(ids):
            if time.monotonic() > deadline:
                raise Failed(f"the {self.name} keeper doesn't know of the lessons; its log is {self.keeper.log}")
            await asyncio.sleep(0.1)
        return [Lesson(*one, number) for one, number in zip(some, ids, strict=True)]

    def ask(self, lessons: list[Lesson]) -> None:
        """What `langdao-keeper settle` leaves, for all of them in one transaction."""
        self.asked |= {lesson.session_id for lesson in lessons}
        now_ms = round(time.time() * 1000)
        rows = [("settle", json.dumps({"session_id": one.session_id, "by": "operator"}), now_ms) for one in lessons]
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as connection, connection:
            connection.executemany("INSERT INTO inbox (kind, payload, asked_ms) VALUES (?, ?, ?)", rows)

    async def in_pool(self, lessons: list[Lesson], until: float) -> dict[int, dict[str, Any]]:
        """The keeper's waiting transaction for each lesson, as far as there is one by then."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < len(lessons) and time.monotonic() < until:
            pool = await self.node.call("txpool_content")
            mine = pool["pending"].get(self.signer.address) or pool["pending"].get(self.signer.address.lower()) or {}
            for lesson, tx in itertools.product(lessons, mine.values()):
                if lesson.tutor.address[2:].lower() in tx["input"]:
                    found[lesson.session_id] = tx
            await asyncio.sleep(0.05)
        return found

    async def race(self, lesson: Lesson, tx: dict[str, Any], order: tuple[str, ...]) -> dict[str, str]:
        """Sends the others so that they come in this order. The hashes of all three."""
        # Anvil goes by the fee cap, others by the tip: both are in this order, and above the base fee.
        cap, tip = (int(tx[name], 16) for name in ("maxFeePerGas", "maxPriorityFeePerGas"))
        place = order.index(KEEPER)
        sent = {KEEPER: str(tx["hash"])}
        data = {
            END: END_SESSION + encode(["address"], [lesson.tutor.address]).hex(),
            START: START_SESSION + encode(["address", "uint8"], [lesson.tutor.address, self.dao.language]).hex(),
        }
        for number, what in enumerate(order):
            if what != KEEPER:
                share = 1 + 0.1 * (place - number)
                who = lesson.student if what == END else lesson.following
                gas = START_GAS if what == START else END_GAS
                sent[what] = await self._send(who, data[what], gas, round(cap * share), round(tip * share))
        return sent

    async def took_place(self, sent: dict[str, str], order: tuple[str, ...]) -> int | None:
        """The block, if all are in it in this order."""
        receipts = {what: await self.node.receipt(tx_hash) for what, tx_hash in sent.items()}
        blocks = {int(receipt["blockNumber"], 16) for receipt in receipts.values()}
        came = sorted(receipts, key=lambda what: int(receipts[what]["transactionIndex"], 16))
        return blocks.pop() if len(blocks) == 1 and tuple(came) == order else None

    async def clean_up(self, lessons: list[Lesson]) -> None:
        """Nothing runs and nothing is under way."""
        for lesson in lessons:
            data = END_SESSION + encode(["address"], [lesson.tutor.address]).hex()
            for who in (lesson.student, lesson.following):  # one of them is of no use
                await self._send(who, data, END_GAS, 20 * GWEI, GWEI)
        deadline = time.monotonic() + CALM_S
        while time.monotonic() < deadline:
            if self.record.calm({lesson.session_id for lesson in lessons}):
                return
            await asyncio.sleep(0.2)
        raise Failed(f"the {self.name} keeper isn't done after {CALM_S:.0f} s; its log is {self.keeper.log}")

    async def wrongly_ended(self, first_block: int) -> set[int]:
        """Sessions that the keeper's key ended and nobody had asked it to."""
        ends = await self.dao.ends(first_block)
        return {
            end.session_id for end in ends if end.sender == self.signer.address and end.session_id not in self.asked
        }

    def incidents(self) -> int:
        return sum(" instead " in text for text in self.record.suspicions())

    def _knows(self, ids: list[int]) -> bool:
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as connection:
            rows = connection.execute("SELECT session_id FROM sessions WHERE end_block IS NULL AND rate IS NOT NULL")
            return set(ids) <= {row[0] for row in rows}

    async def _send(self, who: Key, data: str, gas: int, cap: int, tip: int) -> str:
        nonce = await self.node.call("eth_getTransactionCount", who.address, "pending")
        signed = who.account.sign_transaction(
            {
                "chainId": self.dao.chain_id,
                "to": self.dao.address,
                "data": data,
                "nonce": int(nonce, 16),
                "gas": gas,
                "maxFeePerGas": cap,
                "maxPriorityFeePerGas": tip,
            }
        )
        return str(await self.node.call("eth_sendRawTransaction", signed.raw_transaction.to_0x_hex()))


class Race:
    """Both sides, block by block."""

    def __init__(self, node: Node, sides: list[Side], orders: list[tuple[str, ...]]) -> None:
        self._node = node
        self._sides = sides
        self.queue = collections.deque(orders)
        self.done: list[tuple[str, ...]] = []

    async def run(self) -> None:
        fruitless = 0
        while self.queue:
            before = len(self.done)
            orders = [self.queue.popleft() for _ in range(min(TUTORS, len(self.queue)))]
            lessons = [await side.begin(len(orders)) for side in self._sides]
            came = await asyncio.gather(
                *(self._one_block(side, some, orders) for side, some in zip(self._sides, lessons, strict=True))
            )
            for order, *blocks in zip(orders, *came, strict=True):
                if None in blocks:
                    self.queue.append(order)
                else:
                    self.done.append(order)
            await asyncio.gather(*(side.clean_up(some) for side, some in zip(self._sides, lessons, strict=True)))
            say(f"{len(self.done)} orders")
            fruitless = fruitless + 1 if len(self.done) == before else 0
            if fruitless == FRUITLESS:
                raise Failed(f"no order comes about in {FRUITLESS} rounds: too slow for blocks of {BLOCK_S} s")

    async def _one_block(self, side: Side, lessons: list[Lesson], orders: list[tuple[str, ...]]) -> list[int | None]:
        height = await self._node.height()
        while await self._node.height() == height:  # noqa: ASYNC110 (another program's event)
            await asyncio.sleep(0.02)
        side.ask(lessons)
        pool = await side.in_pool(lessons, time.monotonic() + POOL_S)
        sent: dict[int, dict[str, str]] = {}
        for lesson, order in zip(lessons, orders, strict=True):
            if lesson.session_id in pool:
                sent[lesson.session_id] = await side.race(lesson, pool[lesson.session_id], order)
        return [
            await side.took_place(sent[lesson.session_id], order) if lesson.session_id in sent else None
            for lesson, order in zip(lessons, orders, strict=True)
        ]


async def play(crew: processes.Crew, seed: int, count: int) -> dict[str, int]:
    accounts = deployment.ACCOUNTS_PER_WORLD * 2
    options = ["--gas-limit", str(BLOCK_GAS)]
    _, node = await anvil.start(crew, block_time_s=BLOCK_S, accounts=accounts, options=options)
    try:
        worlds = await deployment.deploy(crew, node, worlds=2, students=2 * TUTORS, tutors=TUTORS)
        await delegate(node, worlds[1])
        sides = [Side(crew, node, one, guarded=guarded) for one, guarded in zip(worlds, (False, True), strict=True)]
        await asyncio.gather(*(side.keeper.start() for side in sides))
        first = await node.height()
        draw = random.Random(seed)
        race = Race(node, sides, [draw.choice(ORDERS) for _ in range(count)])
        await race.run()
        direct, guarded = [await side.wrongly_ended(first) for side in sides]
        return {
            "orders": len(race.done),
            "wrong_direct": len(direct),
            "wrong_guarded": len(guarded),
            "incidents_reported": sides[0].incidents(),
        } | {"_must": race.done.count(WRONG), "_guarded_incidents": sides[1].incidents()}
    finally:
        await node.close()


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make race")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    asked = parser.parse_args()
    async with processes.crew("race") as crew:
        try:
            async with processes.interruptible():
                found = await play(crew, asked.seed, asked.count)
        except Failed as error:
            say(f"can't be raced: {error}; logs: {crew.folder}")
            return 1
        except processes.Interrupted:
            return 130
    must, false_alarms = found.pop("_must"), found.pop("_guarded_incidents")
    say(f"{must} of these orders leave a bare endSession no choice; {false_alarms} incidents in guarded mode")
    good = (
        found["orders"] == asked.count
        and found["wrong_guarded"] == false_alarms == 0
        and found["wrong_direct"] == found["incidents_reported"] >= must
    )
    if good:
        shutil.rmtree(crew.folder, ignore_errors=True)
    else:
        say(f"logs: {crew.folder}")
    print(json.dumps(found))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
