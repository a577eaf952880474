"""A node that speaks real JSON-RPC over HTTP, on a tree of blocks that a test grows as it likes.

Promises: it can do what Anvil can't: come back to a branch that was left, block by block the same; reorg any depth at
once; put finality where it wants; lag. Answers are consistent with the branch that is canonical at that moment, and a
block that isn't canonical is known by its hash alone. Blooms are true.
Doesn't promise to execute anything: a test says which logs a block has.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web
from eth_hash.auto import keccak

from bot.chain import codec
from bot.domain.address import checksum

CONTRACT = str(checksum("0x" + "c0" * 20))
STUDENTS = [str(checksum(f"0x{0x5000 + number:040x}")) for number in range(4)]
TUTORS = [str(checksum(f"0x{0x7000 + number:040x}")) for number in range(4)]
TOKEN = str(checksum("0x" + "70" * 20))
BLOCK_S = 12


def word(value: int | str) -> str:
    return f"{value:064x}" if isinstance(value, int) else value[2:].lower().rjust(64, "0")


def started(session_id: int, student: str, tutor: str) -> dict[str, Any]:
    topics = [codec.SESSION_STARTED, "0x" + word(session_id), "0x" + word(student), "0x" + word(tutor)]
    return {"topics": topics, "data": "0x" + word(1)}


def ended(session_id: int, tutor: str, billed_s: int) -> dict[str, Any]:
    topics = [codec.SESSION_ENDED, "0x" + word(session_id), "0x" + word(tutor)]
    return {"topics": topics, "data": "0x" + word(billed_s) + word(billed_s * 1_000)}


def deposited(student: str, amount: int) -> dict[str, Any]:
    return {"topics": [codec.FUNDS_DEPOSITED, "0x" + word(student), "0x" + word(TOKEN)], "data": "0x" + word(amount)}


def unknown(number: int) -> dict[str, Any]:
    return {"topics": ["0x" + "ee" * 32], "data": "0x" + word(number)}


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the tree. `running`: tutor -> (session, student); `counter`: sessions that started up to here."""

    number: int
    hash: str
    parent: Block | None
    logs: tuple[dict[str, Any], ...] = ()
    counter: int = 0
    running: dict[str, tuple[int, str]] = field(default_factory=dict)

    def header(self) -> dict[str, Any]:
        return {
            "number": hex(self.number),
            "hash": self.hash,
            "parentHash": self.parent.hash if self.parent else "0x" + "00" * 32,
            "timestamp": hex(1_700_000_000 + self.number * BLOCK_S),
            "baseFeePerGas": "0x7",
            "logsBloom": _bloom(bool(self.logs)),
        }

    def wire_logs(self) -> list[dict[str, Any]]:
        where = {"address": CONTRACT.lower(), "blockHash": self.hash, "blockNumber": hex(self.number)}
        return [
            where
            | one
            | {
                "transactionHash": _hash(self.hash, index),
                "transactionIndex": hex(index),
                "logIndex": hex(index),
                "blockTimestamp": self.header()["timestamp"],
                "removed": False,
            }
            for index, one in enumerate(self.logs)
        ]

    def at(self, number: int) -> Block | None:
        """The block of this height on the branch that ends here."""
        one: Block | None = self
        while one is not None and one.number > number:
            one = one.parent
        return one if one is not None and one.number == number else None


class NodeDouble:
    """`head` is the canonical head, `shown` how far the node admits to be, `finalized` the block behind the tag."""

    contract = CONTRACT
    deploy_block = 1

    def __init__(self) -> None:
        self.url = ""
        self._made = 0
        self.known: dict[str, Block] = {}
        genesis = Block(0, _hash("genesis", 0), None)
        self.known[genesis.hash] = genesis
        self.head = genesis
        self.lag = 0
        self.finalized = 0
        self.mine()

    @property
    def node(self) -> NodeDouble:
        return self

    @property
    def shown(self) -> Block:
        block = self.head.at(self.head.number - self.lag)
        assert block is not None
        return block

    def header(self) -> dict[str, Any]:
        return self.shown.header()

    def mine(self, *logs: dict[str, Any], counter: int | None = None, running: Any = None) -> Block:
        """The next block on the head."""
        self._made += 1
        parent = self.head
        self.head = Block(
            parent.number + 1,
            _hash(parent.hash, self._made),
            parent,
            tuple(logs),
            parent.counter if counter is None else counter,
            parent.running if running is None else running,
        )
        self.known[self.head.hash] = self.head
        return self.head

    def start(self, student: str, tutor: str) -> None:
        """A block in which a session starts; a quiet one while the tutor is busy."""
        if tutor in self.head.running:
            self.mine()
            return
        number = self.head.counter + 1
        running = self.head.running | {tutor: (number, student)}
        self.mine(started(number, student, tutor), counter=number, running=running)

    def end(self, tutor: str) -> None:
        """A block in which the tutor's session ends; a quiet one without any."""
        if tutor not in self.head.running:
            self.mine()
            return
        running = dict(self.head.running)
        number, _ = running.pop(tutor)
        self.mine(ended(number, tutor, 60 + number), running=running)

    def fork(self, depth: int) -> Block:
        """Leaves the newest `depth` blocks; what is mined next is another branch. The head that was left."""
        left = self.head
        base = left.at(left.number - depth)
        assert base is not None
        self.head = base
        return left

    # JSON-RPC

    async def __aenter__(self) -> NodeDouble:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        return web.json_response([self._reply(one) for one in body] if isinstance(body, list) else self._reply(body))

    def _reply(self, call: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = {"result": getattr(self, call["method"])(*call["params"])}
        except (LookupError, AttributeError) as error:
            answer = {"error": {"code": -32000, "message": f"{type(error).__name__}: {error}"}}
        return {"jsonrpc": "2.0", "id": call["id"]} | answer

    def eth_chainId(self) -> str:
        return "0x7a69"

    def eth_getCode(self, address: str, at: str) -> str:
        return "0x60"

    def eth_getBlockByNumber(self, at: str, _: bool) -> dict[str, Any] | None:
        if at == "latest":
            return self.shown.header()
        number = self.finalized if at == "finalized" else int(at, 16)
        block = self.shown.at(number)
        return block.header() if block else None

    def eth_getBlockByHash(self, block_hash: str, _: bool) -> dict[str, Any] | None:
        block = self.known.get(block_hash)
        return block.header() if block else None

    def eth_getLogs(self, where: dict[str, Any]) -> list[dict[str, Any]]:
        if "blockHash" in where:
            return self.known[where["blockHash"]].wire_logs()
        found: list[dict[str, Any]] = []
        for number in range(int(where["fromBlock"], 16), int(where["toBlock"], 16) + 1):
            block = self.shown.at(number)
            found += block.wire_logs() if block else []
        return found


def _hash(text: str, number: int) -> str:
    return "0x" + hashlib.sha256(f"{text}:{number}".encode()).hexdigest()


def _bloom(has_logs: bool) -> str:
    marks = keccak(bytes.fromhex(CONTRACT[2:]))
    bits = sum({1 << (int.from_bytes(marks[at : at + 2], "big") & 2047) for at in (0, 2, 4)}) if has_logs else 0
    return f"0x{bits:0512x}"
