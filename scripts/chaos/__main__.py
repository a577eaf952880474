"""`make chaos SEED=… COUNT=…`: so many runs, each with a crash, on one Anvil, several keepers side by side.

Half of the runs are of direct mode, half of guarded mode, in turns of `plan.ROUND`.

A run that broke off, e.g. as the machine was too busy for a start, is no verdict: it is played again, TRIES times at
most, and said on stderr. A keeper that ended by itself is one.

Promises: the last line on stdout is one JSON object (`runs, decided, ended, lost, double, wrong_session,
unexplained`); the exit code is 0 only if all runs took place and the last four are 0. What was wrong is said on stderr
with the run's number: `--only N` plays that plan again. It can be interrupted: then all that is about the runs that
were played. The logs stay when something was wrong, else nothing does.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator

import aiohttp

from scripts.chaos.lane import BLOCK_S, Died, Lane, Result
from scripts.chaos.nursery import Nursery
from scripts.chaos.patience import PatientNode
from scripts.chaos.plan import Plan, is_guarded, plan
from scripts.world import anvil, deployment, processes
from scripts.world.chain import Reverted, RpcError
from scripts.world.processes import Crew, Failed

LESSONS = 4
TRIES = 3
SAY_EVERY = 25
FAULTS = ("lost", "double", "wrong_session", "unexplained")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.asynccontextmanager
async def lanes(crew: Crew, modes: list[bool]) -> AsyncIterator[list[Lane]]:
    """A keeper for each of these on one node, running; True: a guarded one."""
    count = len(modes)
    accounts = deployment.ACCOUNTS_PER_WORLD * count
    _, plain = await anvil.start(crew, block_time_s=BLOCK_S, accounts=accounts)
    await plain.close()
    node = PatientNode(plain.url)
    deployed = await deployment.deploy(crew, node, worlds=count, students=2 * LESSONS, tutors=LESSONS)
    nursery = Nursery(crew)
    await nursery.open()
    made = [
        Lane(crew, nursery, node, one, number, guarded=guarded)
        for number, (one, guarded) in enumerate(zip(deployed, modes, strict=True))
    ]
    try:
        await asyncio.gather(*(lane.open() for lane in made))
        yield made
    finally:
        await asyncio.gather(*(lane.close() for lane in made))
        await node.close()


async def play(made: list[Lane], seed: int, numbers: list[int], results: list[Result]) -> None:
    """All runs, each by the first lane of its mode that is free; what came of them is added to `results`."""
    queues = {mode: collections.deque(n for n in numbers if is_guarded(n) is mode) for mode in (False, True)}
    began = time.monotonic()

    async def work(lane: Lane) -> None:
        queue = queues[lane.guarded]
        while queue:
            result = await judged(lane, plan(seed, queue.popleft(), LESSONS))
            if result is None:
                say(f"{lane.name} gives up; {len(queue)} runs are left to the others")
                return
            results.append(result)
            for fault in result.faults:
                say(f"{result.plan} on {lane.name}: {fault}")
            if len(results) % SAY_EVERY == 0:
                say(progress(results, len(numbers), time.monotonic() - began))

    await asyncio.gather(*(work(lane) for lane in made))


async def judged(lane: Lane, drawn: Plan) -> Result | None:
    """What came of this run, played until it can be judged; None when this lane can't go on."""
    for _ in range(TRIES):
        died = None
        try:
            return await lane.run(drawn)
        except Died as error:
            died = Result(drawn, unexplained=[str(error)])
        except (Failed, RpcError, Reverted, OSError, TimeoutError, aiohttp.ClientError) as error:
            say(f"{drawn} on {lane.name} broke off, it is played again: {type(error).__name__} {error}")
        try:
            await lane.recover()
        except (Failed, RpcError, Reverted, OSError, TimeoutError, aiohttp.ClientError) as error:
            say(f"{lane.name} can't go on: {type(error).__name__} {error}")
            return died
        if died is not None:
            return died
    return None


def progress(results: list[Result], wanted: int, took_s: float) -> str:
    faults = sum(len(result.faults) for result in results)
    left_s = took_s / len(results) * (wanted - len(results))
    return f"{len(results)} of {wanted} runs, {faults} faults, {took_s / 60:.0f} min, about {left_s / 60:.0f} to go"


def summary(results: list[Result]) -> dict[str, int]:
    counts = {name: sum(len(getattr(result, name)) for result in results) for name in FAULTS}
    return {
        "runs": len(results),
        "decided": sum(result.decided for result in results),
        "ended": sum(result.ended for result in results),
        **counts,
    }


def tell_windows(results: list[Result], took_s: float) -> None:
    drawn = collections.Counter(result.plan.kill.window for result in results)
    met = collections.Counter(result.plan.kill.window for result in results if result.hit)
    say("killed at: " + ", ".join(f"{window} {met[window]} of {count}" for window, count in sorted(drawn.items())))
    each = sorted(result.took_s for result in results)
    if each:
        say(f"{took_s:.0f} s in all; a run took {each[len(each) // 2]:.1f} s (median), {each[-1]:.1f} s (longest)")


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--lanes", type=int, default=4, help="keepers side by side, half of them guarded")
    parser.add_argument("--only", type=int, help="play this run of the seed alone")
    asked = parser.parse_args()
    numbers = list(range(asked.count)) if asked.only is None else [asked.only]
    wanted = len(numbers)
    needed = sorted({is_guarded(number) for number in numbers})
    modes = [needed[lane % len(needed)] for lane in range(max(len(needed), min(asked.lanes, wanted)))]
    results: list[Result] = []
    interrupted = False
    began = time.monotonic()
    async with processes.crew("chaos") as crew:
        try:
            async with processes.interruptible(), lanes(crew, modes) as made:
                await play(made, asked.seed, numbers, results)
        except Failed as error:
            say(f"chaos can't be played: {error}")
        except processes.Interrupted:
            interrupted = True
            say(f"interrupted: what follows is about the {len(results)} of {wanted} runs that were played")
    tell_windows(results, time.monotonic() - began)
    counts = summary(results)
    faultless = not any(counts[name] for name in FAULTS)
    good = counts["runs"] == wanted and faultless
    if good or (interrupted and faultless):
        shutil.rmtree(crew.folder, ignore_errors=True)
    else:
        say(f"logs: {crew.folder}")
    print(json.dumps(counts))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
