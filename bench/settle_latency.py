"""From the decision, as stored, to the node's acceptance of the signed bytes; beside it the same calls made bare.

Promises: both sides ask the same, through the same proxy, and end by its clock; they take turns, each from rest.
"""

from __future__ import annotations

import asyncio
import collections
import json
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


@dataclass(slots=True)
class Latency:
    daemon_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    phases_ms: dict[str, list[float]] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)  # requests and calls in them, before signing

    def phase(self, name: str, seconds: float) -> None:
        self.phases_ms.setdefault(name, []).append(seconds * 1000)


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
        latency.bare_ms.append((send.ended - said["began"]) * 1000)
        latency.phase("bare: the durable commit", said["commit_s"])
        for round_s in said["rounds_s"]:
            latency.phase("bare: one round of calls", round_s)

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
    """`count` settlements by the daemon, each followed by a bare one. Sessions 1 … 2 × count."""
    latency = Latency()
    bare = await Bare.start(world)
    try:
        for number in range(count):
            session_id, tutor, other = 2 * number + 1, account(0xBB, 2 * number), account(0xBB, 2 * number + 1)
            await world.proxy.quiet()
            mine = await settled_by_daemon(world, session_id, tutor, latency)
            await world.proxy.quiet()
            await bare.settle(mine, tutor, other, latency)
            await until("the index", lambda n=number: world.record.settled([1, 2 * n + 2]) == 2 * n + 2)
    finally:
        await bare.close()
    return latency


async def settled_by_daemon(world: World, session_id: int, tutor: str, latency: Latency) -> list[list[Exchange]]:
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
    latency.daemon_ms.append((send.ended - decided) * 1000)
    looks = [one for one in mine if not one.sends]
    asking_s = sum(one.ended - one.began for one in looks)
    latency.phase("decision → first call", (looks[0] if looks else send).began - decided)
    latency.phase("requests before signing", asking_s)
    latency.asked.append((len(looks), sum(len(one.methods) for one in looks)))
    if looks:
        latency.phase("between these requests", looks[-1].ended - looks[0].began - asking_s)
        latency.phase("last answer → bytes leave (check, sign, durable commit)", send.began - looks[-1].ended)
    latency.phase("eth_sendRawTransaction", send.ended - send.began)
    return grouped(mine)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


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
    for name, values in (("daemon", latency.daemon_ms), ("bare", latency.bare_ms)):
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        say(f"{name:7} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   n {len(values)}")
    [((requests, calls), _)] = collections.Counter(latency.asked).most_common(1)
    say(f"before signing: {calls} calls in {requests} requests")
    for name, values in latency.phases_ms.items():
        say(f"  {statistics.median(values):6.1f} ms  p99 {percentile(values, 0.99):6.1f}  {name} (n {len(values)})")
