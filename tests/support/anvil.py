"""A real Anvil of a test's own, with LangDAO on it and people who hold lessons.

Promises: the node listens on a port that was free, is a child of this process, and is gone when its `with` block is
left. Its blocks are those of no other node of this process. Transactions are sent by Anvil's unlocked accounts and
mined at once, unless mining is switched off.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from eth_abi import decode, encode
from eth_hash.auto import keccak

from bot.domain.address import checksum
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, SPANISH = 0, 1
RATE = 1_000  # base units of PYUSD per second
DEPOSIT = 1_000_000_000
OWNER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # of Anvil's first account
_COINBASES = itertools.count(0xC0)


class CallFailed(Exception):
    """The node answered with an error."""


class Anvil:
    """A running node, spoken to synchronously."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process
        self._ids = itertools.count(1)

    def rpc(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = json.load(reply)
        if "error" in answer:
            raise CallFailed(answer["error"]["message"])
        return answer["result"]

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The results of many calls in one request, in their order."""
        body = [
            {"jsonrpc": "2.0", "id": at, "method": name, "params": values} for at, (name, values) in enumerate(calls)
        ]
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            answers = sorted(json.load(reply), key=lambda answer: answer["id"])
        for answer in answers:
            if "error" in answer:
                raise CallFailed(answer["error"]["message"])
        return [answer["result"] for answer in answers]

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def number(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    def header(self, at: int | str = "latest") -> dict[str, Any]:
        return self.rpc("eth_getBlockByNumber", hex(at) if isinstance(at, int) else at, False)

    def snapshot(self) -> str:
        return self.rpc("evm_snapshot")

    def back_to(self, snapshot: str) -> None:
        """Forgets all blocks since the snapshot; what is mined next differs from what was there."""
        assert self.rpc("evm_revert", snapshot)
        self.differ()

    def differ(self) -> None:
        """What is mined from now on is in no other node's chain, nor in what this one forgot.

        The same transactions in blocks of the same second are the same blocks, by hash.
        """
        self.rpc("anvil_setCoinbase", f"0x{next(_COINBASES):040x}")


@contextmanager
def anvil(*options: str, port: int | None = None, wait_s: float = 20) -> Iterator[Anvil]:
    """Starts a node of one's own, which has `wait_s` to answer, and stops it."""
    binary = ROOT / "node_modules" / ".bin" / "anvil"
    command = str(binary) if binary.exists() else shutil.which("anvil")
    assert command, "no anvil: run `make setup`"
    port = port or free_port()
    process = subprocess.Popen(
        [command, "--port", str(port), "--silent", "--hardfork", "prague", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    node = Anvil(f"http://127.0.0.1:{port}", process)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            assert process.poll() is None, "anvil ended by itself"
            try:
                node.differ()
                break
            except OSError:
                assert time.monotonic() < deadline, "anvil doesn't answer"
                time.sleep(0.02)
        yield node
    finally:
        process.kill()
        process.wait()


@lru_cache
def compiled(path: str) -> str:
    """The deployment bytecode of a contract under contracts/, by the vyper of this environment."""
    source = ROOT / "contracts" / path
    vyper = ROOT / ".venv" / "bin" / "vyper"
    command = str(vyper) if vyper.exists() else "vyper"
    environment = {**os.environ, "PATH": f"{vyper.parent}:{os.environ.get('PATH', '')}"}
    done = subprocess.run([command, "-f", "bytecode", str(source)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def calldata(signature: str, *values: Any) -> str:
    """`calldata("endSession(address)", tutor)`."""
    selector = keccak(signature.encode())[:4]
    types = signature[signature.index("(") + 1 : -1]
    return "0x" + (selector + encode(types.split(",") if types else [], values)).hex()


@dataclass
class World:
    """LangDAO on a node, with students who have funds and tutors who teach English and Spanish."""

    node: Anvil
    owner: str
    students: list[str]
    tutors: list[str]
    token: str = ""
    contract: str = ""
    deploy_block: int = 0
    mining: bool = True

    def send(self, sender: str, to: str | None, data: str, gas: int = 3_000_000) -> str:
        """The hash of the transaction, mined by then unless mining is switched off."""
        request = {"from": sender, "data": data, "gas": hex(gas)}
        tx = str(self.node.rpc("eth_sendTransaction", request | ({"to": to} if to else {})))
        deadline = time.monotonic() + 10
        while self.mining and self.receipt(tx) is None:
            assert time.monotonic() < deadline, f"{tx} isn't mined"
            time.sleep(0.001)
        return tx

    def stop_mining(self) -> None:
        """From now on transactions wait in the pool."""
        self.mining = False
        self.node.rpc("evm_setAutomine", False)

    def receipt(self, tx: str) -> Any:
        return self.node.rpc("eth_getTransactionReceipt", tx)

    def do(self, sender: str, signature: str, *values: Any, to: str | None = None) -> str:
        return self.send(sender, to or self.contract, calldata(signature, *values))

    def start(self, student: int = 0, tutor: int = 0) -> str:
        return self.do(self.students[student], "startSession(address,uint8)", self.tutors[tutor], ENGLISH)

    def end(self, tutor: int = 0, by: str | None = None) -> str:
        return self.do(by or self.owner, "endSession(address)", self.tutors[tutor])

    def deposit(self, student: int = 0, amount: int = 5_000) -> str:
        return self.do(self.students[student], "depositFunds(uint256)", amount)

    def counter(self) -> int:
        call = {"to": self.contract, "data": calldata("sessionCounter()")}
        return decode(["uint256"], bytes.fromhex(self.node.rpc("eth_call", call, "latest")[2:]))[0]

    def is_active(self, tutor: int = 0) -> bool:
        call = {"to": self.contract, "data": calldata("activeSessions(address)", self.tutors[tutor])}
        return int(self.node.rpc("eth_call", call, "latest"), 16) != 0

    def deploy(self, path: str, types: Sequence[str] = (), values: Sequence[Any] = ()) -> tuple[str, int]:
        """Address and block of a contract deployed by the owner."""
        done = self.receipt(self.send(self.owner, None, compiled(path) + encode(types, values).hex(), 16_000_000))
        assert done["status"] == "0x1", f"{path} wasn't deployed"
        return str(checksum(done["contractAddress"])), int(done["blockNumber"], 16)


def found(node: Anvil, students: int = 3, tutors: int = 3) -> World:
    """Deploys the contracts and registers everybody."""
    accounts = [str(checksum(account)) for account in node.rpc("eth_accounts")]
    world = World(node, accounts[0], accounts[1 : 1 + students], accounts[1 + students : 1 + students + tutors])
    world.token, _ = world.deploy("mocks/PYUSD.vy")
    world.contract, world.deploy_block = world.deploy("LangDAO.vy", ["address"], [world.token])
    for student in world.students:
        world.do(world.owner, "mint(address,uint256)", student, 10 * DEPOSIT, to=world.token)
        world.do(student, "approve(address,uint256)", world.contract, 10 * DEPOSIT, to=world.token)
        world.do(student, "registerStudent(uint8,uint256)", ENGLISH, 10 * RATE)
        world.do(student, "depositFunds(uint256)", DEPOSIT)
    for tutor in world.tutors:
        world.do(tutor, "registerTutor(uint8[],uint256)", [ENGLISH, SPANISH], RATE)
    return world


@contextmanager
def langdao(*options: str, students: int = 3, tutors: int = 3) -> Iterator[World]:
    """A node of one's own with LangDAO on it."""
    with anvil(*options) as node:
        yield found(node, students, tutors)
