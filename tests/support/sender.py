"""A sender on a real node and a database of its own, that can be killed and made anew; and a proxy that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from sqlmodel import col, select

from bot.chain import guard
from bot.chain.fees import GWEI, Caps
from bot.chain.guard_code import delegate_of
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.sender import Carrier, Direct, Guarded, Outcome, Sender, SenderConfig, ended_in
from bot.chain.signer import KeySigner
from bot.domain.facts import SessionKey
from bot.domain.urgency import Urgency
from bot.store import schema
from bot.store.db import Database, Writer
from bot.store.tables import FactRow, TxItemRow, TxRow
from tests.support.anvil import OWNER_KEY, World, calldata
from tests.support.servers import serving, until

HIGH_FEE = 40 * GWEI


@dataclass
class Recorded:
    """Answers and remembers what the sender asks and tells."""

    due: bool = True
    alive: set[SessionKey] = field(default_factory=set)  # no longer due, of all
    paused: bool = False
    waits: bool = True
    reports: list[tuple[SessionKey, int, str, str | None]] = field(default_factory=list)
    told_at_once: list[int] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    payers: list[str] = field(default_factory=list)
    block_reports: bool = False
    urgent: dict[SessionKey, Urgency] = field(default_factory=dict)
    aside: list[tuple[SessionKey, str]] = field(default_factory=list)
    cures: list[SessionKey] = field(default_factory=list)
    changes: list[tuple[SessionKey, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def still_due(self, key: SessionKey) -> bool:
        return self.due and not self.paused and key not in self.alive

    def withdrawn(self, key: SessionKey) -> bool:
        return not self.due or key in self.alive

    def urgency(self, key: SessionKey) -> Urgency:
        return self.urgent.get(key, Urgency.BILLED)

    def set_aside(self) -> list[tuple[SessionKey, str]]:
        return self.aside

    async def cured(self, key: SessionKey, reason: str | None = None) -> None:
        if reason is None:
            self.cures.append(key)
        else:
            self.aside = [(one, reason if one == key else known) for one, known in self.aside]
            self.changes.append((key, reason))

    def may_pay_wait(self, key: SessionKey) -> bool:
        return self.waits

    async def paying(self, key: SessionKey, payer: str) -> None:
        self.payers.append(payer)
        self.waits = False

    async def report(self, outcomes: Sequence[Outcome]) -> None:
        if self.block_reports:
            await asyncio.Event().wait()
        self.told_at_once.append(len(outcomes))
        self.reports += [(one.key, one.action_id, one.outcome, one.reason) for one in outcomes]

    async def alert(self, name: str, text: str, key: SessionKey | None) -> None:
        self.alerts.append(name)
        self.texts.append(text)

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, _, outcome, _ in self.reports]


class Proxy:
    """Passes JSON-RPC on. `before` and `after` may look at each call, fail it, or hold it back; `instead` may answer it
    with an error or a result of its own: {"error": …} or {"result": …}."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.before: Callable[[str, list[Any]], Awaitable[None]] | None = None
        self.after: Callable[[str, list[Any]], Awaitable[None]] | None = None
        self.instead: Callable[[str, list[Any]], dict[str, Any] | None] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        said = json.loads(body)
        calls = [(one["method"], one["params"]) for one in (said if isinstance(said, list) else [said])]
        for call in calls:
            if self.before is not None:
                await self.before(*call)
        async with aiohttp.ClientSession() as http, http.post(self.upstream, json=said) as answer:
            content = self._mended(said, await answer.read())
        for call in calls:
            if self.after is not None:
                await self.after(*call)
        headers: list[Any] = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _mended(self, said: Any, content: bytes) -> bytes:
        if self.instead is None:
            return content
        asked = {one["id"]: (one["method"], one["params"]) for one in (said if isinstance(said, list) else [said])}
        found = json.loads(content)
        for reply in found if isinstance(found, list) else [found]:
            own = self.instead(*asked[reply["id"]])
            if own is not None:
                reply.pop("result", None)
                reply.pop("error", None)
                reply.update(own)
        return json.dumps(found).encode()


class Bench:
    """A sender on a database of its own, that can be killed and made anew."""

    def __init__(self, world: World, url: str, key: str) -> None:
        self.world = world
        self.born = world.node.number()
        self.database = Database(url)
        schema.upgrade(self.database)
        self.writer = Writer(self.database)
        self.hooks = Recorded()
        self.config: dict[str, Any] = {}
        self.key = key
        self.later_ms = 0  # than this machine's clock is the sender's
        self.guards: list[str] = []  # deployed, for tests that delegate later
        self.urls = [world.node.url]
        self._rpcs: list[Rpc] = []
        self._task: asyncio.Task[None] | None = None
        self._actions = itertools.count(1)
        self.boot()

    def boot(self) -> None:
        """A new process."""
        config = {
            "chain_id": 31337,
            "gas_limit": 300_000,
            "confirmations": 2,
            "replace_after_blocks": 3,
            "max_in_flight": 64,
            "caps": Caps.of(100, 5),
            "min_balance_wei": 10**16,
            "daily_budget_wei": 2 * 10**17,
        } | self.config
        rpc = Rpc(self.urls, timeout_s=5)
        self._rpcs.append(rpc)
        contract = LangDAO(rpc, self.world.contract)
        clock = lambda: time.time_ns() // 1_000_000 + self.later_ms  # noqa: E731
        signer = KeySigner(self.key)
        carrier = self._carrier(rpc, signer.address, config["gas_limit"])
        self.sender = Sender(rpc, self.writer, contract, carrier, signer, SenderConfig(**config), self.hooks, clock)
        self._task = asyncio.create_task(self.sender.run())

    def _carrier(self, rpc: Rpc, key: str, gas_limit: int) -> Carrier:
        """As `carrier_for` chooses, without waiting."""
        owner, contract = self.world.owner, self.world.contract
        delegate = delegate_of(self.code(owner))
        seen = guard.read(owner, self.code(owner), self.code(delegate) if delegate else b"")
        if seen.admits(key, contract):
            return Guarded(rpc, contract, seen, key, gas_limit)
        return Direct(contract, owner, gas_limit)

    def code(self, address: str) -> bytes:
        return bytes.fromhex(self.world.node.rpc("eth_getCode", address, "latest")[2:])

    async def kill(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def restart(self) -> None:
        await self.kill()
        self.urls = [self.world.node.url]
        self.boot()

    async def close(self) -> None:
        await self.kill()
        for rpc in self._rpcs:
            await rpc.close()
        self.writer.close()
        self.database.dispose()

    def settle(self, key: SessionKey) -> int:
        action = next(self._actions)
        self.sender.settle(action, key)
        return action

    def look(self) -> None:
        """Tells the sender the node's head."""
        head = self.world.node.header()
        self.sender.head(int(head["number"], 16), head["hash"])

    async def until(self, condition: Callable[[], Any], *, mine: bool = False) -> Any:
        """Tells heads until something holds; with `mine` there is a new one each time."""

        def look() -> Any:
            if mine:
                self.world.node.mine()
            self.look()
            return condition()

        assert self._task is not None
        value = await until(look, every_s=0.05)
        assert not self._task.done(), "the sender died"
        return value

    async def outcome(self, number: int = 1, *, mine: bool = True) -> str:
        await self.until(lambda: len(self.hooks.reports) >= number, mine=mine)
        return self.hooks.outcomes[number - 1]

    def txs(self) -> list[TxRow]:
        with self.database.read() as session:
            rows = session.exec(select(TxRow).order_by(col(TxRow.stored_ms), col(TxRow.nonce)))
            return [row.model_copy() for row in rows]

    def sessions(self, tx_hash: str) -> list[str]:
        """The keys of the sessions that a transaction is about."""
        with self.database.read() as session:
            query = select(TxItemRow).where(TxItemRow.tx_hash == tx_hash).order_by(col(TxItemRow.position))
            return [row.session_key for row in session.exec(query)]

    def steps(self, tx_hash: str) -> list[str]:
        """The facts of a transaction, in their order."""
        with self.database.read() as session:
            rows = session.exec(select(FactRow).where(FactRow.kind == "tx").order_by(col(FactRow.id)))
            return [row.payload["step"] for row in rows if row.payload["hash"] == tx_hash]

    # The chain

    def lesson(self, student: int = 0, tutor: int = 0) -> SessionKey:
        self.world.start(student, tutor)
        return SessionKey(self.world.counter(), self.world.students[student], self.world.tutors[tutor])

    def ended(self) -> list[int]:
        """The ids of all SessionEnded, by the receipts of the blocks: Anvil's logs remember what was taken back."""
        receipts = [
            receipt
            for number in range(self.born, self.world.node.number() + 1)
            for receipt in self.world.node.rpc("eth_getBlockReceipts", hex(number))
        ]
        return [number for receipt in receipts for number in ended_in(receipt, self.world.contract)]

    def nonce(self, tag: str = "latest") -> int:
        return int(self.world.node.rpc("eth_getTransactionCount", self.sender.address, tag), 16)

    def node_knows(self, tx_hash: str) -> bool:
        return self.world.node.rpc("eth_getTransactionByHash", tx_hash) is not None

    def pay(self, sender: str, signature: str, *values: Any, fee: int = HIGH_FEE) -> str:
        """A transaction of somebody else who bids this much."""
        request = {"from": sender, "to": self.world.contract, "data": calldata(signature, *values), "gas": hex(500_000)}
        return self.world.node.rpc(
            "eth_sendTransaction", request | {"maxFeePerGas": hex(fee), "maxPriorityFeePerGas": hex(fee // 2)}
        )

    def mining(self, on: bool) -> None:
        self.world.node.rpc("evm_setAutomine", on)

    def mine_dear(self, base_fee: int = 15 * GWEI, blocks: int = 1) -> None:
        """Blocks in which only those are mined who bid more than this."""
        for _ in range(blocks):
            self.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
            self.world.node.mine()


@contextlib.asynccontextmanager
async def benched(chain: World, url: str, key: str = OWNER_KEY) -> AsyncIterator[Bench]:
    """A bench on the database at `url`, whose blocks are taken back afterwards."""
    snapshot = chain.node.snapshot()
    chain.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))  # Anvil doesn't take its next fee back with the chain
    chain.node.mine()
    bench = Bench(chain, url, key)
    try:
        yield bench
    finally:
        await bench.close()
        chain.node.rpc("evm_setAutomine", True)
        chain.node.back_to(snapshot)


@contextlib.asynccontextmanager
async def proxied(bench: Bench) -> AsyncIterator[Proxy]:
    """The sender speaks to the node through a proxy of the test's."""
    proxy = Proxy(bench.world.node.url)
    async with serving(proxy) as url:
        await bench.kill()
        bench.urls = [url]
        bench.boot()
        yield proxy


async def unmined(bench: Bench, student: int = 0) -> SessionKey:
    """A settlement that is broadcast and not mined, as its fee became too low."""
    key = bench.lesson(student)
    bench.mining(False)
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    return key


TRANSFER = {"gas": hex(21_000), "maxFeePerGas": hex(HIGH_FEE), "maxPriorityFeePerGas": hex(GWEI)}


def foreign(bench: Bench, **more: Any) -> str:
    """A transfer of nothing by somebody else who has the owner's key."""
    request = {"from": bench.world.owner, "to": bench.world.owner} | TRANSFER | more
    return str(bench.world.node.rpc("eth_sendTransaction", request))


def error(message: str) -> dict[str, Any]:
    return {"error": {"code": -32000, "message": message}}


async def quiet_blocks(bench: Bench, blocks: int, base_fee: int = 15 * GWEI) -> None:
    """Blocks that take none of ours, each looked at."""
    for _ in range(blocks):
        bench.mine_dear(base_fee)
        bench.look()
        await asyncio.sleep(0.15)
