"""`make bench-settle`: what a settlement costs, one at a time and five hundred at once.

*Latency*: from the decision, as stored, to the node's acceptance of the signed bytes, one settlement at a time.
Beside each, the same calls are made bare (`bench.bare`): the requests that the daemon has just made, in the same order
(together where it made them together), with one durable commit before the transaction is sent, by a process that does
nothing else. Both end by the proxy's clock. The ratios are the daemon's percentiles over the bare ones. What the daemon
has to do besides counts against it: store the decision, decode, check, sign.
*Burst*: all sessions are given to `settle` at once, through the inbox, with blocks of 30 M gas every 2 s.

Promises: one JSON line on stdout (`latency_ratio_p50, latency_ratio_p99, burst_settled, burst_blocks, last_broadcast_s,
rpc_per_settlement, gas_per_settlement`); the profile goes to stderr. Settings are the defaults, but for the gas budget.
Doesn't promise anything about a node that is far away: both sides speak to the same Anvil, through the same proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import shutil
import sqlite3
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from eth_abi import encode
from eth_account import Account
from eth_utils import keccak, to_checksum_address

from bot.chain import codec
from scripts.world import anvil, deployment, processes
from scripts.world.chain import END_SESSION, START_GAS, LangDAO, Node
from scripts.world.keeper import Keeper
from scripts.world.processes import Failed
from scripts.world.rpc_proxy import JSON, RpcProxy

STUDENTS = 25  # each holds lessons with many tutors
RATE = deployment.RATE
BLOCK_S = 2
BLOCK_GAS = 30_000_000
BURST_LIMIT_S = 240.0
QUIET_S = 0.15
# What the follower and the readers behind it ask on their own account, whoever settles.
FOLLOWING = {"eth_getBlockByNumber", "eth_getBlockByHash", "eth_getLogs", "eth_blockNumber"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Exchange:
    """One HTTP exchange of the daemon, epoch seconds."""

    body: bytes
    methods: tuple[str, ...]
    began: float
    ended: float = 0.0

    @property
    def sends(self) -> bool:
        return "eth_sendRawTransaction" in self.methods


class Listening(RpcProxy):
    """Forwards, and notes who asked what and when."""

    def __init__(self, target: str) -> None:
        super().__init__(target, kill=lambda: None)
        self.exchanges: list[Exchange] = []

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        document = json.loads(body)
        calls = document if isinstance(document, list) else [document]
        exchange = Exchange(body, tuple(call["method"] for call in calls), time.time())
        self.exchanges.append(exchange)
        assert self._http is not None
        async with self._http.post(self.target, data=body, headers=JSON) as answer:
            content = await answer.read()
        exchange.ended = time.time()
        return web.Response(body=content, status=answer.status, content_type="application/json")

    async def quiet(self) -> None:
        """Return when the daemon has asked nothing for a moment: each measurement begins from rest."""
        while time.time() - max((one.began for one in self.exchanges[-50:]), default=0.0) < QUIET_S:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


# The crowd -----------------------------------------------------------------------------------------------------------


def account(kind: int, number: int) -> str:
    return to_checksum_address(f"0x{kind:02x}{number:038x}")


def calldata(signature: str, *values: Any) -> str:
    types = signature[signature.index("(") + 1 : -1]
    return "0x" + (keccak(text=signature)[:4] + encode(types.split(",") if types else [], values)).hex()


class Crowd:
    """Students and tutors without keys: Anvil sends for them."""

    def __init__(self, node: Node, dao: LangDAO) -> None:
        self.node = node
        self.dao = dao

    async def register(self, tutors: int) -> None:
        asked = {"to": self.dao.address, "data": calldata("PYUSD_TOKEN()")}
        token = to_checksum_address("0x" + (await self.node.call("eth_call", asked, "latest"))[-40:])
        await self.node.call("anvil_autoImpersonateAccount", True)
        everybody = [account(0xAA, number) for number in range(STUDENTS)] + [account(0xBB, n) for n in range(tutors)]
        for start in range(0, len(everybody), 100):
            some = everybody[start : start + 100]
            await asyncio.gather(*(self.node.call("anvil_setBalance", one, hex(10**20)) for one in some))
        deposit = 10**10
        for number in range(STUDENTS):
            who = account(0xAA, number)
            await self.send(who, token, calldata("mint(address,uint256)", who, deposit))
            await self.send(who, token, calldata("approve(address,uint256)", self.dao.address, deposit))
            register = calldata("registerStudent(uint8,uint256)", self.dao.language, 10**18)
            await self.send(who, self.dao.address, register)
            await self.send(who, self.dao.address, calldata("depositFunds(uint256)", deposit))
        data = calldata("registerTutor(uint8[],uint256)", [self.dao.language], RATE)
        await self.all([(account(0xBB, number), data, 300_000) for number in range(tutors)])

    async def start(self, tutors: list[int]) -> None:
        """A lesson for each of these tutors."""
        signature, language = "startSession(address,uint8)", self.dao.language
        calls = [
            (account(0xAA, tutor % STUDENTS), calldata(signature, account(0xBB, tutor), language), START_GAS)
            for tutor in tutors
        ]
        await self.all(calls)

    async def send(self, who: str, to: str, data: str, gas: int = 300_000) -> str:
        """The transaction's hash."""
        return str(await self.node.call("eth_sendTransaction", {"from": who, "to": to, "data": data, "gas": hex(gas)}))

    async def all(self, calls: list[tuple[str, str, int]]) -> None:
        """In full blocks; fails if one of them did."""
        await self.node.call("evm_setAutomine", False)
        await self.node.call("anvil_mine", "0x1")  # what was sent before and is under way
        for start in range(0, len(calls), 40):
            some = calls[start : start + 40]
            hashes = [await self.send(who, self.dao.address, data, gas) for who, data, gas in some]
            receipts: list[Any] = [None]
            for _ in range(5):  # what was sent a moment ago isn't always in the next block
                await self.node.call("anvil_mine", "0x1")
                receipts = [await self.node.call("eth_getTransactionReceipt", one) for one in hashes]
                if None not in receipts:
                    break
            if any(receipt is None or receipt["status"] != "0x1" for receipt in receipts):
                raise Failed("the crowd can't be registered, or its lessons can't be started")
        await self.node.call("evm_setAutomine", True)


# The daemon's record -------------------------------------------------------------------------------------------------


class Record:
    """The keeper's SQLite file: requests in, times out."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def ask(self, sessions: list[int]) -> None:
        """What `langdao-keeper settle` leaves, for all of them in one transaction."""
        now_ms = round(time.time() * 1000)
        rows = [("settle", json.dumps({"session_id": one, "by": "operator"}), now_ms) for one in sessions]
        with contextlib.closing(sqlite3.connect(self._file, timeout=30)) as connection, connection:
            connection.executemany("INSERT INTO inbox (kind, payload, asked_ms) VALUES (?, ?, ?)", rows)

    def decided_s(self, session_id: int) -> float | None:
        rows = self._rows(
            "SELECT created_ms FROM actions WHERE kind = 'settle' AND session_key LIKE ?", (f"{session_id}:%",)
        )
        # Stored in whole milliseconds, the rest cut off: half of one on average.
        return (rows[0][0] + 0.5) / 1000 if rows else None

    def settled(self, sessions: list[int]) -> int:
        low, high = min(sessions), max(sessions)
        query = "SELECT count(*) FROM settlements WHERE ended_by IS NOT NULL AND session_id BETWEEN ? AND ?"
        return int(self._rows(query, (low, high))[0][0])

    def active(self) -> int:
        return int(self._rows("SELECT count(*) FROM sessions WHERE end_block IS NULL AND rate IS NOT NULL", ())[0][0])

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self._file, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()


async def until(what: str, look: Any, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failed(f"not within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.02)
    return found


# Latency -------------------------------------------------------------------------------------------------------------


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


def grouped(exchanges: list[Exchange]) -> list[list[Exchange]]:
    """What the daemon asked at the same time is one group."""
    groups: list[list[Exchange]] = []
    for one in exchanges:
        if groups and one.began < max(other.ended for other in groups[-1]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


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
    await until("the index", lambda: world.record.settled([session_id]) == 1)
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


# Burst ---------------------------------------------------------------------------------------------------------------


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


# Everything ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class World:
    node: Node
    dao: LangDAO
    owner: Any
    proxy: Listening
    record: Record
    folder: Path


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


async def measure(crew: processes.Crew, count: int, burst: int) -> dict[str, Any]:
    _, node = await anvil.start(crew, block_time_s=None)
    try:
        return await measure_on(node, crew, count, burst)
    finally:
        await node.close()


async def measure_on(node: Node, crew: processes.Crew, count: int, burst: int) -> dict[str, Any]:
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
    keeper = Keeper(crew, "keeper", settings)
    world = World(node, dao, deployed.owner, proxy, Record(keeper.folder / "keeper.db"), crew.folder)
    try:
        await keeper.start()
        await until("the sessions' details", lambda: world.record.active() == 2 * count + burst)
        say("the keeper runs")
        latency = await measure_latency(world, count)
        tell(latency)
        found = await measure_burst(world, list(range(2 * count + 1, 2 * count + burst + 1)))
    finally:
        await proxy.stop()
    ratios = {
        f"latency_ratio_{name}": round(percentile(latency.daemon_ms, share) / percentile(latency.bare_ms, share), 2)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return ratios | found


def tell(latency: Latency) -> None:
    for name, values in (("daemon", latency.daemon_ms), ("bare", latency.bare_ms)):
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        say(f"{name:7} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   n {len(values)}")
    [((requests, calls), _)] = collections.Counter(latency.asked).most_common(1)
    say(f"before signing: {calls} calls in {requests} requests")
    for name, values in latency.phases_ms.items():
        say(f"  {statistics.median(values):6.1f} ms  p99 {percentile(values, 0.99):6.1f}  {name} (n {len(values)})")


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-settle")
    parser.add_argument("--latency", type=int, default=100, help="settlements one at a time")
    parser.add_argument("--burst", type=int, default=500, help="settlements at once")
    asked = parser.parse_args()
    async with processes.crew("bench-settle") as crew:
        try:
            async with processes.interruptible():
                found = await measure(crew, asked.latency, asked.burst)
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
