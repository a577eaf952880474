"""Students and tutors by the hundred, whose lessons a benchmark has ended.

Promises: nobody holds a key, the node sends for them; blocks are full; what fails raises `Failed`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from eth_abi import encode
from eth_utils import keccak, to_checksum_address

from scripts.world import deployment
from scripts.world.chain import START_GAS, LangDAO, Node
from scripts.world.processes import Failed

STUDENTS = 25  # each holds lessons with many tutors
RATE = deployment.RATE


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
