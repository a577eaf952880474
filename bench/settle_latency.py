"""From the decision, as stored, to the node's acceptance of the signed bytes; beside it the same calls made bare.

Promises: both sides ask the same, through the same proxy, and end by its clock; they take turns, each from rest and
when the keeper has followed the chain so far, and who goes first changes each time. Of the slowest of either side it is
told in which step they were.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_account import Account

from bench.crowd import account
from bench.listening import Exchange, grouped
from bench.settling import World, say, until
from scripts.world.chain import END_SESSION

# What the follower and the readers behind it ask on their own account, whoever settles.
FOLLOWING = {"eth_getBlockByNumber", "eth_getBlockByHash", "eth_getLogs", "eth_blockNumber"}


ANSWERED = "answer → bytes leave"  # the check, and what signing and the commits take longer than the node
INSIDE = {  # of what `bench.staged` notes, from one step to the next; beside the calls, and not to be added to them
    "inside: the decision's commit": ("the commit begins", "the commit ends"),
    "inside: signing": ("checked", "signed"),
    "inside: the durable commit": ("the durable commit begins", "the durable commit ends"),
}
WORST = 4  # of either side, whose steps are told
RESAMPLED = 2_000
STEPS_OF_BARE = ("the same calls", "durable commit", "eth_sendRawTransaction")


@dataclass(frozen=True, slots=True)
class Settled:
    """One settlement: how long it took, and in which steps."""

    ms: float
    steps_ms: dict[str, float]


@dataclass(slots=True)
class Latency:
    daemon: list[Settled] = field(default_factory=list)
    bare: list[Settled] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)  # requests and calls in them, before signing

    def ratio(self, share: float) -> float:
        """The daemon's percentile over the bare one."""
        return _ratio([one.ms for one in self.daemon], [one.ms for one in self.bare], share)

    def spread(self, share: float) -> tuple[float, float]:
        """Within which the ratio is for nine of ten such runs, by drawing from this one anew: what it can tell."""
        chance, daemon, bare = random.Random(0), [one.ms for one in self.daemon], [one.ms for one in self.bare]
        drawn = [
            _ratio(chance.choices(daemon, k=len(daemon)), chance.choices(bare, k=len(bare)), share)
            for _ in range(RESAMPLED)
        ]
        return percentile(drawn, 0.05), percentile(drawn, 0.95)


class Bare:
    """The same calls without a keeper around them, by `bench.bare`."""

    def __init__(self, process: asyncio.subprocess.Process, world: World) -> None:
        self._process = process
        self._world = world
        self._account = Account.from_key(world.owner.key)

    @classmethod
    async def start(cls, world: World) -> Bare:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.bare", world.proxy.url, str(world.folder / "bare.db")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, world)

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def settle(self, template: list[list[Exchange]], was: str, tutor: str, latency: Latency) -> None:
        """Ends the tutor's session by the daemon's own calls, which were about the tutor `was`."""
        node, dao = self._world.node, self._world.dao
        head = await node.call("eth_getBlockByNumber", "latest", False)
        nonce, price = await asyncio.gather(
            node.call("eth_getTransactionCount", self._account.address, "latest"), node.call("eth_gasPrice")
        )
        signed = self._account.sign_transaction(
            {
                "chainId": dao.chain_id,
                "to": dao.address,
                "data": END_SESSION + "00" * 12 + tutor[2:].lower(),
                "nonce": int(nonce, 16),
                "gas": 300_000,
                "maxFeePerGas": 3 * int(price, 16),
                "maxPriorityFeePerGas": 10**9,
            }
        )
        raw = signed.raw_transaction.to_0x_hex()
        rounds = [[self._as_now(one, was, tutor, head["hash"], raw) for one in group] for group in template]
        first = len(self._world.proxy.exchanges)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"rounds": rounds, "raw": raw}).encode() + b"\n")
        said = json.loads(await self._process.stdout.readline())
        [send] = [one for one in self._world.proxy.exchanges[first:] if one.sends]
        *looks_s, send_s = said["rounds_s"]
        took_s = (sum(looks_s), said["commit_s"], send_s)
        steps_ms = {name: seconds * 1000 for name, seconds in zip(STEPS_OF_BARE, took_s, strict=True)}
        latency.bare.append(Settled((send.ended - said["began"]) * 1000, steps_ms))

    def _as_now(self, exchange: Exchange, was: str, tutor: str, head: str, raw: str) -> str:
        document = json.loads(exchange.body)
        for call in document if isinstance(document, list) else [document]:
            if call["method"] == "eth_sendRawTransaction":
                call["params"] = [raw]
            else:
                text = json.dumps(call["params"]).replace(was[2:].lower(), tutor[2:].lower())
                call["params"] = [_at(one, head) for one in json.loads(text)]
        return json.dumps(document)


def _at(parameter: Any, head: str) -> Any:
    """Pinned to the newest block instead of to the one that the daemon saw."""
    return {**parameter, "blockHash": head} if isinstance(parameter, dict) and "blockHash" in parameter else parameter


async def measure_latency(world: World, count: int) -> Latency:
    """`count` settlements by the daemon and as many bare ones, in turns. Sessions 1 … 2 × count."""
    latency = Latency()
    bare = await Bare.start(world)
    template: list[list[Exchange]] = []
    was = ""  # the tutor that its calls are about

    async def followed(ended: int) -> None:
        await until("the index", lambda: world.record.settled([1, ended]) == ended)
        await world.proxy.quiet()

    try:
        for done in range(0, 2 * count, 2):
            mine, other = (done, done + 1) if done % 4 == 0 else (done + 1, done)  # who goes first takes the first
            for turn in (done, done + 1):
                await followed(turn)
                if turn == mine:
                    template, was = await settled_by_daemon(world, mine + 1, latency), account(0xBB, mine)
                else:
                    await bare.settle(template, was, account(0xBB, other), latency)
        await followed(2 * count)
    finally:
        await bare.close()
    return latency


async def settled_by_daemon(world: World, session_id: int, latency: Latency) -> list[list[Exchange]]:
    """One settlement; the exchanges that made it."""
    first = len(world.proxy.exchanges)
    world.record.ask([session_id])

    def accepted() -> Exchange | None:
        return next((one for one in world.proxy.exchanges[first:] if one.sends and one.ended), None)

    send = await until(f"the settlement of {session_id}", accepted)
    decided = world.record.decided_s(session_id)
    assert decided is not None
    mine = [
        one
        for one in world.proxy.exchanges[first:]
        if one.began >= decided - 0.002 and 0 < one.ended <= send.ended and not FOLLOWING & set(one.methods)
    ]
    looks = [one for one in mine if not one.sends]
    asking_s = sum(one.ended - one.began for one in looks)
    latency.asked.append((len(looks), sum(len(one.methods) for one in looks)))
    steps_s = {"decision → first call": (looks[0] if looks else send).began - decided}
    if looks:
        steps_s["the calls"] = asking_s
        steps_s["between the calls"] = looks[-1].ended - looks[0].began - asking_s
        steps_s[ANSWERED] = send.began - looks[-1].ended
    steps_s["eth_sendRawTransaction"] = send.ended - send.began
    steps_ms = {name: seconds * 1000 for name, seconds in steps_s.items()}
    latency.daemon.append(Settled((send.ended - decided) * 1000, steps_ms))
    return grouped(mine)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def _ratio(daemon_ms: list[float], bare_ms: list[float], share: float) -> float:
    return percentile(daemon_ms, share) / percentile(bare_ms, share)


def look_inside(latency: Latency, file: Path) -> None:
    """Adds to the daemon's steps those that can't be seen from outside."""
    lines = [dict(reversed(json.loads(line)["steps"])) for line in file.read_text().splitlines()]
    for settled, at in zip(latency.daemon, lines, strict=True):
        for name, (begins, ends) in INSIDE.items():
            if begins in at and ends in at:
                settled.steps_ms[name] = (at[ends] - at[begins]) * 1000


def tell_steps(file: Path) -> None:
    """Of what `bench.staged` wrote: when each step was taken, counted from the decision; a step taken twice is two."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    taken: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        seen: collections.Counter[str] = collections.Counter()
        for name, at in line["steps"]:
            seen[name] += 1
            taken.setdefault((name, seen[name]), []).append((at - line["steps"][0][1]) * 1000)
    usual = {step: values for step, values in taken.items() if len(values) > len(lines) / 2}
    for (name, nth), values in sorted(usual.items(), key=lambda one: statistics.median(one[1])):
        again = f" ({nth})" if nth > 1 else ""
        say(f"  {statistics.median(values):7.2f} ms  p99 {percentile(values, 0.99):7.2f}  {name}{again}")
    for name in ("turns", "handovers"):
        say(f"  {name}: {statistics.median(line[name] for line in lines):.0f}")
    pages = zip(*(line["pages"] for line in lines if len(line["pages"]) == 2), strict=True)
    say("  pages written: " + ", ".join(f"{statistics.median(one):.0f}" for one in pages))


def tell(latency: Latency) -> None:
    [((requests, calls), _)] = collections.Counter(latency.asked).most_common(1)
    say(f"before signing: {calls} calls in {requests} requests")
    for name, settled in (("daemon", latency.daemon), ("bare", latency.bare)):
        all_ms = [one.ms for one in settled]
        p50, p99 = percentile(all_ms, 0.5), percentile(all_ms, 0.99)
        say(f"{name:7} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   n {len(settled)}")
        for step in settled[0].steps_ms:
            values = [one.steps_ms[step] for one in settled if step in one.steps_ms]
            say(f"  {statistics.median(values):6.1f} ms  p99 {percentile(values, 0.99):6.1f}  {step}")
        for one in sorted(settled, key=lambda one: one.ms)[-WORST:]:
            steps = ", ".join(f"{step} {ms:.1f}" for step, ms in one.steps_ms.items())
            say(f"  slow: {one.ms:6.1f} ms: {steps}")
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        low, high = latency.spread(share)
        say(f"ratio of the {name} {latency.ratio(share):.2f}, drawn anew from these {low:.2f} to {high:.2f} (9 in 10)")
