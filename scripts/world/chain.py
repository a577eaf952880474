"""The chain as the world sees it: raw JSON-RPC, and what the LangDAO contract says there.

Written from `docs/PROTOCOL.md`, on purpose without the keeper's own code: what judges the keeper mustn't
share its mistakes. Amounts are integers in base units, times epoch seconds of blocks, addresses
checksummed.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from eth_abi import decode, encode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils import to_checksum_address

START_SESSION = "0x14974de8"
END_SESSION = "0x7ce02794"
GET_SESSION = "0x402ff0db"
SESSION_STARTED = "0xa1b15600c9aef5c5d3c0c18700942ad4caf125753a856588b1aa2a0a969b0063"
SESSION_ENDED = "0x1f566c0c31d295290bb19b5162e239dbdeeb51107556dd0c39b1a86a303ed393"
SESSION_TYPES = (
    "address", "address", "address", "uint256", "uint256", "uint256", "uint256", "uint8", "uint256", "bool",
)  # fmt: skip
# An estimate can be too low by a whole token transfer (hazard 2); the first start of a pair costs 521k.
START_GAS, END_GAS = 700_000, 350_000


class RpcError(Exception):
    """The node's answer was an error."""


class Reverted(Exception):
    """A mined transaction had status 0."""


class Node:
    """A JSON-RPC endpoint. One connection pool; close it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)

    async def call(self, method: str, *params: Any) -> Any:
        """The result. Raises RpcError, and aiohttp's errors when nobody answers."""
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        async with self._http.post(self.url, json=request) as response:
            answer = await response.json(content_type=None)
        if "error" in answer:
            raise RpcError(answer["error"].get("message", str(answer["error"])))
        return answer["result"]

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def height(self) -> int:
        return int(await self.call("eth_blockNumber"), 16)

    async def blocks(self, first: int, last: int) -> list[dict[str, Any]]:
        """Blocks with their whole transactions, in order."""
        asked = (self.call("eth_getBlockByNumber", hex(number), True) for number in range(first, last + 1))
        return list(await asyncio.gather(*asked))

    async def receipt(self, tx_hash: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until it is mined. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (found := await self.call("eth_getTransactionReceipt", tx_hash)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{tx_hash} is not mined after {timeout_s:.0f} s")
            await asyncio.sleep(0.2)
        return found


@dataclass(frozen=True, slots=True)
class Key:
    """An account that signs for itself."""

    address: str
    key: str

    @property
    def account(self) -> LocalAccount:
        return Account.from_key(self.key)


@dataclass(frozen=True, slots=True)
class Session:
    """What `getSession` says. All zero when there is none."""

    student: str
    tutor: str
    token: str
    started_at: int
    ended_at: int
    rate: int
    paid: int
    language: int
    id: int
    active: bool


@dataclass(frozen=True, slots=True)
class End:
    """A `SessionEnded`, with who sent it."""

    session_id: int
    tutor: str
    duration_s: int
    paid: int
    sender: str
    tx_hash: str
    block: int
    at: int  # time of the block


class LangDAO:
    """One deployed contract."""

    def __init__(self, node: Node, address: str, chain_id: int, language: int = 1) -> None:
        self.node = node
        self.address = address
        self.chain_id = chain_id
        self.language = language

    async def start(self, student: Key, tutor: str) -> int:
        """Start a session as its student, and wait for it. Returns its id. Raises Reverted, RpcError."""
        data = START_SESSION + encode(["address", "uint8"], [tutor, self.language]).hex()
        receipt = await self._mined(await self.send(student, data, START_GAS))
        log = next(log for log in receipt["logs"] if log["topics"][0] == SESSION_STARTED)
        return int(log["topics"][1], 16)

    async def end(self, who: Key, tutor: str) -> dict[str, Any]:
        """End whatever session the tutor has. Returns the receipt. Raises Reverted, RpcError."""
        data = END_SESSION + encode(["address"], [tutor]).hex()
        return await self._mined(await self.send(who, data, END_GAS))

    async def send(self, who: Key, data: str, gas: int) -> str:
        """Sign and send a call to the contract. Returns the hash."""
        nonce, price = await asyncio.gather(
            self.node.call("eth_getTransactionCount", who.address, "pending"), self.node.call("eth_gasPrice")
        )
        signed = who.account.sign_transaction(
            {
                "chainId": self.chain_id,
                "to": self.address,
                "data": data,
                "nonce": int(nonce, 16),
                "gas": gas,
                "maxFeePerGas": 3 * int(price, 16),
                "maxPriorityFeePerGas": min(10**9, int(price, 16)),
            }
        )
        raw = signed.raw_transaction.hex().removeprefix("0x")
        return await self.node.call("eth_sendRawTransaction", "0x" + raw)

    async def session(self, session_id: int) -> Session:
        return await self._read(GET_SESSION, session_id.to_bytes(32))

    async def ends(self, first_block: int = 0) -> list[End]:
        """All `SessionEnded` from a block on, in order."""
        logs = await self._logs(SESSION_ENDED, first_block)
        return list(await asyncio.gather(*(self._end(log) for log in logs)))

    async def _end(self, log: dict[str, Any]) -> End:
        transaction, block = await asyncio.gather(
            self.node.call("eth_getTransactionByHash", log["transactionHash"]),
            self.node.call("eth_getBlockByNumber", log["blockNumber"], False),
        )
        duration, paid = decode(["uint256", "uint256"], bytes.fromhex(log["data"].removeprefix("0x")))
        return End(
            session_id=int(log["topics"][1], 16),
            tutor=_address(log["topics"][2]),
            duration_s=duration,
            paid=paid,
            sender=to_checksum_address(transaction["from"]),
            tx_hash=log["transactionHash"],
            block=int(log["blockNumber"], 16),
            at=int(block["timestamp"], 16),
        )

    async def _logs(self, topic: str, first_block: int) -> list[dict[str, Any]]:
        if first_block > await self.node.height():
            return []  # an error on some nodes
        blocks = {"fromBlock": hex(first_block), "toBlock": "latest"}
        return await self.node.call("eth_getLogs", {"address": self.address, "topics": [topic], **blocks})

    async def _read(self, selector: str, argument: bytes) -> Session:
        call = {"to": self.address, "data": selector + argument.hex()}
        answer = await self.node.call("eth_call", call, "latest")
        fields = list(decode(SESSION_TYPES, bytes.fromhex(answer.removeprefix("0x"))))
        fields[:3] = map(to_checksum_address, fields[:3])
        return Session(*fields)

    async def _mined(self, tx_hash: str) -> dict[str, Any]:
        receipt = await self.node.receipt(tx_hash)
        if int(receipt["status"], 16) != 1:
            raise Reverted(tx_hash)
        return receipt


def _address(topic: str) -> str:
    return to_checksum_address("0x" + topic[-40:])
