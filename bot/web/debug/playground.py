"""Mock lessons: really started on the local chain, by accounts that its node has unlocked; played by this process.

Promises: nothing is sent unless the chain is a development one (`LOCAL_CHAINS`) and its node says that it is Anvil or
Hardhat; no key is held here. A lesson's room is told to the gateway as a signalling server would: both are in it, their
heartbeats come, until somebody hangs up, is lost or freezes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from eth_hash.auto import keccak

from bot.chain import codec
from bot.chain.errors import RpcError
from bot.chain.rpc import Rpc
from bot.domain.address import Address, checksum
from bot.domain.facts import Source
from bot.errors import KeeperError
from bot.feeds import wire
from bot.web.gateway.events import Hub
from bot.web.gateway.mappings import Mapping

LOCAL_CHAINS: Final = (31337, 1337)
LOCAL_NODES: Final = ("anvil", "hardhat")
BEAT_S: Final = 4.0
START_GAS: Final = hex(700_000)
LANGUAGES: Final = 38
LOOKS, LOOK_EVERY_S = 150, 0.2

# What a page's wallet may ask of the node through here.
WALLET_METHODS: Final = frozenset(
    "eth_chainId eth_call eth_getBalance eth_gasPrice eth_sendTransaction personal_sign eth_blockNumber "
    "eth_getTransactionReceipt eth_getTransactionByHash".split()
)


class NotHere(KeeperError):
    """It can't be played: the chain is no local one, nobody is free, or the contract refused."""


@dataclass
class Play:
    """One mock lesson."""

    session_id: int
    room: str
    student: Address
    tutor: Address
    beats: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class Playground:
    def __init__(self, hub: Hub, rpc: Rpc, contract: Address) -> None:
        self.plays: dict[str, Play] = {}
        self._hub = hub
        self._rpc = rpc
        self._contract = contract
        self._turn = asyncio.Lock()

    async def ensure_local(self) -> None:
        """Raises NotHere on any chain but a developer's own; TryAgain when the node is away."""
        try:
            chain_id = int(await self._rpc.call("eth_chainId"), 16)
            node = str(await self._rpc.call("web3_clientVersion")).lower()
        except (RpcError, ValueError, TypeError):
            chain_id, node = 0, ""
        if chain_id not in LOCAL_CHAINS or not node.startswith(LOCAL_NODES):
            raise NotHere(f"the debug page is for Anvil or Hardhat on this machine, and this is chain {chain_id}")

    async def begin(self) -> Play:
        """Starts a lesson between two who are free. Raises NotHere, TryAgain."""
        async with self._turn:  # or two would take the same people
            await self.ensure_local()
            student, tutor, language = await self._free()
            room = f"debug_{secrets.token_hex(3)}"
            await self._hub.create(Mapping(room, student, tutor, language, self._hub.now_ms()))
            play = Play(await self._start(student, tutor, language), room, student, tutor)
        self.plays[room] = play
        for role in ("student", "tutor"):
            await self._join(play, role)
        return play

    async def act(self, room: str, act: str) -> None:
        """`end`, `lose`, `return` or `freeze`. Raises NotHere for a room that isn't played here, or another act."""
        play = self.plays.get(room)
        match act if play is not None else None, play:
            case "end", Play():
                self._silence(play)
                await self._say(play, "session-ended", endedBy="student", userAddress=play.student)
            case "lose", Play():
                self._silence(play, "student")
                await self._say(play, "user-disconnected", userRole="student", reason="connection-closed")
            case "return", Play():
                await self._join(play, "student")
            case "freeze", Play():
                self._silence(play)
            case _:
                raise NotHere("no such lesson is played here, or there is no such act")

    async def wallet(self, method: str, params: list[Any]) -> Any:
        """A request of the page's built-in wallet. Raises NotHere, RpcError, TryAgain."""
        if method not in WALLET_METHODS:
            raise NotHere("the built-in wallet doesn't do that")
        await self.ensure_local()
        return await self._rpc.call(method, params)

    async def close(self) -> None:
        for play in self.plays.values():
            self._silence(play)

    async def _free(self) -> tuple[Address, Address, int]:
        """A student and a tutor without a lesson, and a language of the tutor's; those registered last come first."""
        accounts = [found for name in await self._rpc.call("eth_accounts") if (found := checksum(name))][::-1]
        students = await self._those(accounts, "students(address)", 2, "isStudying(address)")
        tutors = await self._those(accounts, "tutors(address)", 2, "activeSessions(address)")
        for tutor in tutors:
            asked = [self._asking("getTutorLanguage(address,uint8)", tutor, number) for number in range(LANGUAGES)]
            spoken = [n for n, said in enumerate(await self._rpc.batch(asked)) if _is_true(said, 0)]
            if spoken and students:
                return students[0], tutor, spoken[0]
        raise NotHere("no registered student and tutor are free; end a lesson first")

    async def _those(self, accounts: list[Address], registered: str, word: int, busy: str) -> list[Address]:
        said = await self._rpc.batch([self._asking(registered, one) for one in accounts])
        known = [one for one, answer in zip(accounts, said, strict=True) if _is_true(answer, word)]
        said = await self._rpc.batch([self._asking(busy, one) for one in known])
        # Of no session all words are zero, as is false.
        return [
            one for one, answer in zip(known, said, strict=True) if isinstance(answer, str) and int(answer, 16) == 0
        ]

    async def _start(self, student: Address, tutor: Address, language: int) -> int:
        data = codec.START_SESSION + tutor[2:].lower().rjust(64, "0") + f"{language:064x}"
        sending = {"from": student, "to": self._contract, "data": data, "gas": START_GAS}
        try:
            tx_hash = await self._rpc.call("eth_sendTransaction", [sending])
            receipt = None
            for _ in range(LOOKS):
                receipt = await self._rpc.call("eth_getTransactionReceipt", [tx_hash])
                if receipt is not None:
                    break
                await asyncio.sleep(LOOK_EVERY_S)
        except RpcError as error:
            raise NotHere(f"the contract refused: {error.message}") from None
        if receipt is None:
            raise NotHere("the node mines nothing")
        for log in receipt["logs"]:
            if log["topics"][0] == codec.SESSION_STARTED:
                return int(log["topics"][1], 16)
        raise NotHere("the contract refused to start a session")

    def _asking(self, signature: str, who: Address, *numbers: int) -> tuple[str, list[Any]]:
        data = "0x" + keccak(signature.encode())[:4].hex() + who[2:].lower().rjust(64, "0")
        data += "".join(f"{number:064x}" for number in numbers)
        return "eth_call", [{"to": self._contract, "data": data}, "latest"]

    async def _join(self, play: Play, role: str) -> None:
        await self._say(play, "user-connected", userRole=role)
        self._silence(play, role)
        play.beats[role] = asyncio.create_task(self._beat(play), name=f"debug {play.room} {role}")

    def _silence(self, play: Play, *roles: str) -> None:
        for role in roles or tuple(play.beats):
            if task := play.beats.pop(role, None):
                task.cancel()

    async def _beat(self, play: Play) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(wire.Refused):
                await self._say(play, "session-heartbeat")

    async def _say(self, play: Play, kind: str, **more: Any) -> None:
        said = {"type": kind, "sessionId": play.room, "timestamp": self._hub.now_ms(), **more}
        await self._hub.take(wire.from_post(said, self._hub.now_ms(), Source.WEBHOOK))


def _is_true(answer: Any, word: int) -> bool:
    return isinstance(answer, str) and int(answer[2 + 64 * word : 66 + 64 * word] or "0", 16) != 0
