"""A LangDAO, a token, and the people of a lesson, on a node that is rolled back after every test.

The node is an Anvil that ape starts, or the Hardhat node at CONTRACT_TESTS_NODE (`make test-hardhat`). Where the two
put the same thing into different words, tests look at the bytes: `reverts` compares revert data.
"""

import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import on_hardhat
import pytest
from ape.exceptions import VirtualMachineError
from eth_abi import encode
from hexbytes import HexBytes
from web3 import Web3
from web3.contract.contract import ContractFunction
from web3.exceptions import ContractLogicError, Web3RPCError
from web3.logs import DISCARD

from scripts.onchain import authorization

ROOT = Path(__file__).resolve().parents[2]

ENGLISH, SPANISH, FRENCH = 0, 1, 2
RATE = 1_000  # base units per second
BUDGET = 10 * RATE
DEPOSIT = 10_000_000
BUFFER_S = 600


def free_port() -> int:
    """A loopback port nobody listens on, below those that systems hand out to outgoing connections."""
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


# Left to itself, ape takes a random port without looking; should another Anvil be there, a devnet's say, it would use
# that one and roll it back after every test. Ape reads this when it connects, which is after this file is imported.
if hardhat := os.environ.get("CONTRACT_TESTS_NODE"):
    on_hardhat.use()
os.environ["APE_FOUNDRY_HOST"] = hardhat or f"http://127.0.0.1:{free_port()}"


def data_of(error: Any) -> bytes | None:
    """The revert data in a JSON-RPC error's `data`: Anvil's hex, or Hardhat's object with hex in it."""
    if isinstance(error, dict):
        error = error.get("data")
    return bytes(HexBytes(error)) if isinstance(error, str) and error.startswith("0x") else None


def revert_data(error: BaseException | None) -> bytes:
    """What the contract answered, out of whatever ape, web3 and the node wrapped around it."""
    while error is not None:
        answer = (getattr(error, "rpc_response", None) or {}).get("error", {}).get("data", getattr(error, "data", None))
        if (data := data_of(answer)) is not None:
            return data
        error = getattr(error, "base_err", None) or error.__cause__ or error.__context__
    return b""


def error_string(reason: str) -> bytes:
    """The revert data of a failed `require` with a reason."""
    return Web3.keccak(text="Error(string)")[:4] + encode(["string"], [reason])


@contextlib.contextmanager
def reverts(reason: str | None = None) -> Iterator[None]:
    """The block has to end in a revert: with this `Error(string)`, or, when no reason is given, with empty data."""
    with pytest.raises(VirtualMachineError) as caught:
        yield
    assert revert_data(caught.value) == (b"" if reason is None else error_string(reason))


@pytest.fixture(scope="session")
def owner(accounts):
    return accounts[0]


@pytest.fixture(scope="session")
def student(accounts):
    return accounts[1]


@pytest.fixture(scope="session")
def tutor(accounts):
    return accounts[2]


@pytest.fixture(scope="session")
def other_student(accounts):
    return accounts[3]


@pytest.fixture(scope="session")
def other_tutor(accounts):
    return accounts[4]


@pytest.fixture(scope="session")
def stranger(accounts):
    return accounts[5]


@pytest.fixture(scope="session")
def keeper(accounts):
    return accounts[6]


@pytest.fixture(scope="session")
def token(project, owner):
    return owner.deploy(project.PYUSD)


@pytest.fixture(scope="session")
def langdao(project, owner, token):
    return owner.deploy(project.LangDAO, token)


@pytest.fixture(scope="session")
def web3(langdao) -> Web3:
    return langdao.provider.web3


@pytest.fixture(scope="session")
def wire(web3, langdao):
    """The same contract through the committed ABI, as the keeper sees it."""
    abi = json.loads((ROOT / "contracts" / "interfaces" / "LangDAO.json").read_text())
    return web3.eth.contract(address=langdao.address, abi=abi)


@dataclass
class World:
    """Shorthands for what nearly every test needs first."""

    langdao: Any
    token: Any
    chain: Any

    def student(self, account, *, language=SPANISH, budget=BUDGET, deposit=DEPOSIT):
        self.langdao.registerStudent(language, budget, sender=account)
        self.token.mint(account, DEPOSIT, sender=account)
        self.token.approve(self.langdao, 2**256 - 1, sender=account)
        if deposit:
            self.langdao.depositFunds(deposit, sender=account)
        return account

    def tutor(self, account, *, languages=(SPANISH,), rate=RATE):
        self.langdao.registerTutor(list(languages), rate, sender=account)
        return account

    def start(self, student, tutor, language=SPANISH) -> int:
        receipt = self.langdao.startSession(tutor, language, sender=student)
        return receipt.events.filter(self.langdao.SessionStarted)[0].sessionId

    def after(self, seconds: int, since: int | None = None) -> int:
        """Lets the next transaction be mined exactly so long after the last block, or after a block time."""
        at = (self.chain.blocks.head.timestamp if since is None else since) + seconds
        self.chain.pending_timestamp = at
        return at


@pytest.fixture
def world(langdao, token, chain) -> World:
    return World(langdao, token, chain)


@pytest.fixture
def lesson(world, student, tutor) -> int:
    """A running lesson of `student` with `tutor`; its id."""
    world.student(student)
    world.tutor(tutor)
    return world.start(student, tutor)


@dataclass
class Node:
    """What ape's own calls hide: raw revert data, gas limits taken as given, several transactions in one block."""

    web3: Web3

    def revert_data(self, function: ContractFunction, sender) -> HexBytes:
        call = {"from": sender.address, "to": function.address, "data": function._encode_transaction_data()}
        answer = self.web3.provider.make_request("eth_call", [call, "latest"])
        assert "error" in answer, "expected a revert"
        return HexBytes(data_of(answer["error"].get("data")) or b"")

    def submit(self, function: ContractFunction, sender, *, gas: int, gas_price: int = 0) -> HexBytes:
        """Sends as it is: no estimate, no error when it fails."""
        data = function._encode_transaction_data()
        return self.send({"from": sender.address, "to": function.address, "data": data, "gas": gas}, gas_price)

    def send(self, transaction: dict, gas_price: int = 0) -> HexBytes:
        try:
            return self.web3.eth.send_transaction({**transaction, "gasPrice": gas_price})
        except (ContractLogicError, Web3RPCError) as error:
            # Hardhat mines what fails, and then answers with an error instead of the hash, which is in it.
            answer = getattr(error, "rpc_response", None)
            details = answer["error"]["data"] if answer else error.data
            return HexBytes(details["txHash"])

    def receipt(self, tx_hash: HexBytes):
        # A node that mines on arrival still answers the send first.
        return self.web3.eth.wait_for_transaction_receipt(tx_hash, timeout=20, poll_latency=0.02)

    def one_block(self, *calls: tuple[ContractFunction, Any]) -> list:
        """Mines the calls in one block, in the order given; returns their receipts."""
        self.web3.provider.make_request("evm_setAutomine", [False])
        try:
            # The node orders by price.
            hashes = [
                self.submit(function, sender, gas=1_000_000, gas_price=10**9 * (len(calls) - i))
                for i, (function, sender) in enumerate(calls)
            ]
            self.web3.provider.make_request("evm_mine", [])
        finally:
            self.web3.provider.make_request("evm_setAutomine", [True])
        receipts = [self.receipt(tx_hash) for tx_hash in hashes]
        assert [receipt["transactionIndex"] for receipt in receipts] == list(range(len(calls)))
        return receipts


@pytest.fixture
def node(web3) -> Node:
    return Node(web3)


@pytest.fixture
def call(wire):
    """`call.endSession(tutor)` builds the call without sending it."""
    return wire.functions


@dataclass
class Guarded:
    """An owner's account that runs a guard's code: what is settled through it, and what its events say."""

    node: Node
    guard: Any  # the guard's ABI at the owner's address
    keeper: Any

    def settle(self, *items: tuple, sender=None, gas: int = 16_000_000):
        """The receipt; items are (tutor, id, student)."""
        return self.node.receipt(self.node.submit(self.call(*items), sender or self.keeper, gas=gas))

    def call(self, *items: tuple) -> ContractFunction:
        return self.guard.functions.settle([(str(tutor), session, str(student)) for tutor, session, student in items])

    def said(self, receipt) -> list[tuple]:
        """What the guard's events say of each item, in order: ("Settled", id), ("Skipped", id, reason), …"""
        logs = [
            log
            for event in (self.guard.events.Settled(), self.guard.events.Skipped(), self.guard.events.Failed())
            for log in event.process_receipt(receipt, errors=DISCARD)
            if log["address"] == self.guard.address
        ]
        return [(log["event"], *log["args"].values()) for log in sorted(logs, key=lambda log: log["logIndex"])]


def delegate(node: Node, account, delegate: str, sponsor, chain_id: int | None = None) -> None:
    """Mines a type-4 transaction of `sponsor` with an authorization signed by `account`."""
    web3 = node.web3
    transaction = authorization.signed(
        HexBytes(account.private_key),
        delegate,
        sender_key=HexBytes(sponsor.private_key),
        chain_id=web3.eth.chain_id,
        authorized_chain_id=chain_id,
        account_nonce=web3.eth.get_transaction_count(account.address),
        sender_nonce=web3.eth.get_transaction_count(sponsor.address),
        max_fee=10**9,
        tip=10**9,
    )
    assert node.receipt(web3.eth.send_raw_transaction(transaction))["status"] == 1


@pytest.fixture(scope="session")
def guard_abi() -> list[dict]:
    return json.loads((ROOT / "contracts" / "interfaces" / "SettlementGuard.json").read_text())


@pytest.fixture(scope="session")
def guard(project, owner, keeper, langdao):
    return owner.deploy(project.SettlementGuard, keeper, langdao)


@pytest.fixture
def guarded(node, web3, guard, guard_abi, owner, keeper) -> Guarded:
    """The owner of LangDAO, delegated to the guard."""
    delegate(node, owner, guard.address, keeper)
    return Guarded(node, web3.eth.contract(address=owner.address, abi=guard_abi), keeper)
