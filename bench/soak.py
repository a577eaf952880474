"""Does the keeper stay as it was? One line of JSON, and exit code 0 when it does and no lesson was lost.

    make soak MINUTES=30        LESSONS=200 lessons at a time, coming and going

A real node with two-second blocks, the bundled backend, the signalling server's double, `langdao-keeper run` with the
owner's key, and a student and a tutor for each lesson, who leave it in all the ways of `scripts/world/lessons.py` and
then hold the next one. Each POLL_S the keeper's memory and open files are read by /proc, and how many blocks it is
behind the node. `begin` and `end` are medians of the first and last fifth after the warm-up, in which the caches fill;
`slope` is the line's through all of that, by Theil and Sen, for the whole of it: what it grew by. It is flat when that
is less than GROWTH allows. `lost` are lessons that were left and whose session is active on chain GIVEN_UP_S later.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from eth_account import Account

from bench.process import Usage
from scripts.world import processes
from scripts.world.backends import Gateway
from scripts.world.chain import Key, LangDAO, Node
from scripts.world.devnet import POLICY, TROUBLE
from scripts.world.keeper import Keeper
from scripts.world.lessons import Ending, Lesson, begin
from scripts.world.participants import Participant
from scripts.world.processes import Crew
from scripts.world.signalling import Signalling
from tests.support.anvil import ENGLISH, World, langdao

MNEMONIC = "test test test test test test test test test test test junk"  # Anvil's
CHAIN_ID = 31337
POLL_S = 2.0
LESSON_S = (35.0, 75.0)  # long enough for the heartbeats that arm their silence
PAUSE_S = (1.0, 10.0)
SPREAD_S = 60.0  # the first ones begin within this
GIVEN_UP_S = 150.0  # the longest way to an end by POLICY is a minute; the rest is blocks and load
WARM_UP_S = 150.0  # until sessions of the beginning are final and forgotten; a third of the time at most
# What it may grow by, beside the share of what it was: pages that the allocator keeps; connections in their turn.
GROWTH = {"rss_mb": (8.0, 0.05), "files": (8.0, 0.05), "lag_blocks": (0.5, 0.0)}

Pair = tuple[Participant, Participant]


@dataclass(slots=True)
class Lessons:
    """What became of them."""

    begun: int = 0
    left_at: dict[int, float] = field(default_factory=dict)  # session -> when, by time.monotonic()
    ended: set[int] = field(default_factory=set)
    over: dict[int, asyncio.Event] = field(default_factory=dict)

    def lost(self) -> int:
        late = time.monotonic() - GIVEN_UP_S
        return sum(at < late for number, at in self.left_at.items() if number not in self.ended)


@dataclass(frozen=True, slots=True)
class Sample:
    rss_mb: float
    files: float
    lag_blocks: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--lessons", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    random.seed(asked.seed)
    people = asked.lessons
    with langdao(
        "--accounts", str(2 * people + 1), "--slots-in-an-epoch", "1", students=people, tutors=people
    ) as world:
        world.node.rpc("evm_setAutomine", False)
        world.node.rpc("evm_setIntervalMining", 2)
        result = asyncio.run(soaked(world, asked.minutes * 60))
    print(json.dumps(result))
    sys.exit(0 if good(result) else 1)


async def soaked(world: World, seconds: float) -> dict[str, object]:
    told = Lessons()
    samples: list[Sample] = []
    async with processes.crew("soak") as crew, contextlib.AsyncExitStack() as cleanup:
        node = Node(world.node.url)
        cleanup.push_async_callback(node.close)
        dao = LangDAO(node, world.contract, CHAIN_ID, ENGLISH)
        gateway, keeper = programs(crew, world)
        await gateway.start()
        await keeper.start()
        signalling = Signalling(gateway.webhook)
        cleanup.push_async_callback(signalling.stop)
        pairs = participants(world, dao)
        for student, _ in pairs:
            cleanup.push_async_callback(student.disconnect)
        for some in batched(pairs, 20):
            await asyncio.gather(*(student.connect(gateway.url) for student, _ in some))
        watching = asyncio.create_task(watch(dao, told))
        measuring = asyncio.create_task(measure(world.node.url, keeper, samples))
        stop = asyncio.Event()
        holding = [asyncio.create_task(hold(pair, gateway, signalling, told, stop)) for pair in pairs]
        await asyncio.wait([watching, measuring, *holding], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        measuring.cancel()
        await asyncio.wait(holding, timeout=LESSON_S[1] + GIVEN_UP_S + 10)
        for task in (watching, measuring, *holding):
            task.cancel()
        await asyncio.wait([watching, measuring, *holding])
        for task in (watching, measuring, *holding):
            if not task.cancelled():
                task.result()
        alive = keeper.running
    result = judged(samples, told, alive)
    if good(result):
        shutil.rmtree(crew.folder, ignore_errors=True)
    else:
        print(f"logs: {crew.folder}", file=sys.stderr)
    return result


def programs(crew: Crew, world: World) -> tuple[Gateway, Keeper]:
    gateway = Gateway(crew, POLICY | {"RPC_URL": world.node.url, "CONTRACT_ADDRESS": world.contract})
    owner = keys(1)[0]
    assert owner.address == world.owner
    given = {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "START_BLOCK": world.deploy_block,
        "BACKEND_PRIVATE_KEY": owner.key,
        "SOCKET_URL": gateway.url,
        "GATEWAY_TOKEN": gateway.token,
        "DAILY_GAS_BUDGET_ETH": 1_000,
        "MASS_END_COUNT": len(world.students),  # so many ends at a time are what is wanted here
        "LOG_LEVEL": "warning",
    }
    return gateway, Keeper(crew, "keeper", given | POLICY)


def batched(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    return (pairs[at : at + size] for at in range(0, len(pairs), size))


def keys(count: int) -> list[Key]:
    Account.enable_unaudited_hdwallet_features()
    found = (Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{number}") for number in range(count))
    return [Key(account.address, account.key.hex()) for account in found]


def participants(world: World, dao: LangDAO) -> list[Pair]:
    people = len(world.students)
    accounts = keys(2 * people + 1)[1:]
    return [
        (Participant(f"student {at}", accounts[at], dao), Participant(f"tutor {at}", accounts[people + at], dao))
        for at in range(people)
    ]


async def hold(
    pair: Pair,
    gateway: Gateway,
    signalling: Signalling,
    told: Lessons,
    stop: asyncio.Event,
) -> None:
    """One lesson after the other, until told to stop; the last one is left too, and waited for."""
    endings = itertools.cycle(random.sample(list(Ending), len(Ending)))
    await pause(stop, random.uniform(0, SPREAD_S))
    while not stop.is_set():
        try:
            lesson = await begin(*pair, gateway, signalling)
        except TROUBLE:
            await pause(stop, PAUSE_S[1])  # the lesson before may be in the way still
            continue
        told.begun += 1
        over = told.over.setdefault(lesson.session_id, asyncio.Event())
        await asyncio.sleep(random.uniform(*LESSON_S))
        await leave(lesson, next(endings))
        told.left_at[lesson.session_id] = time.monotonic()
        await over.wait()
        del told.over[lesson.session_id]
        await pause(stop, random.uniform(*PAUSE_S))


async def leave(lesson: Lesson, ending: Ending) -> None:
    # What somebody's own payment comes to is for the keeper to see, like everything else.
    with contextlib.suppress(*TROUBLE):
        await lesson.leave(ending)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def watch(dao: LangDAO, told: Lessons) -> None:
    """Notes each end on chain."""
    next_block = 0
    while True:
        for end in await dao.ends(next_block):
            told.ended.add(end.session_id)
            told.over.setdefault(end.session_id, asyncio.Event()).set()
            next_block = max(next_block, end.block + 1)
        await asyncio.sleep(1)


async def measure(node_url: str, keeper: Keeper, samples: list[Sample]) -> None:
    node = Node(node_url)
    try:
        while keeper.running:
            used = Usage.of(keeper.pid)
            height = await node.height()
            seen = await asyncio.to_thread(indexed, keeper.port)
            samples.append(Sample(used.rss_mb, used.files, max(0, height - seen)))
            await asyncio.sleep(POLL_S)
    finally:
        await node.close()


def indexed(port: int) -> int:
    """The newest block whose rows the keeper has."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        values = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return int(float(values["langdao_keeper_head_block"]))


# The verdict ---------------------------------------------------------------------------------------------------------


def judged(samples: Sequence[Sample], told: Lessons, alive: bool) -> dict[str, object]:
    warm_up = min(len(samples) // 3, round(WARM_UP_S / POLL_S))
    result: dict[str, object] = {"lessons": told.begun, "ended": len(told.ended), "lost": told.lost()}
    flat = alive and len(samples) > 10
    for name, (allowed, share) in GROWTH.items():
        values = [float(getattr(sample, name)) for sample in samples]
        steady = values[warm_up:]
        fifth = max(1, len(steady) // 5)
        began, ended = statistics.median(steady[:fifth]), statistics.median(steady[-fifth:])
        grew = slope(steady) * len(steady)
        flat = flat and grew <= allowed + share * began
        result[name] = {"begin": round(began, 1), "end": round(ended, 1), "max": max(values), "slope": round(grew, 2)}
    return result | {"flat": flat}


def good(result: dict[str, object]) -> bool:
    return bool(result["flat"]) and result["lost"] == 0


def slope(values: Sequence[float], most: int = 300) -> float:
    """The median of the slopes between all pairs of points, a step; of `most` points when there are more."""
    every = max(1, len(values) // most)
    points = list(enumerate(values))[::every]
    found = [(b - a) / (at_b - at_a) for (at_a, a), (at_b, b) in itertools.combinations(points, 2)]
    return statistics.median(found) if found else 0.0


if __name__ == "__main__":
    main()
