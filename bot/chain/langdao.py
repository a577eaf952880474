"""Reads of the LangDAO contract, each pinned to a block.

Promises: every read says at which block it looks: by number, or by hash, and then the node answers only while that
block is on its canonical chain (EIP-1898). What the contract can't answer is an `RpcError`, what isn't its layout is
a `WrongAnswer`. Doesn't promise that the block is still the newest: the caller chose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from bot.chain import codec, multicall
from bot.chain.codec import OnChainSession
from bot.chain.errors import RpcError, Unreachable, WrongAnswer
from bot.chain.rpc import Rpc
from bot.chain.wire import RawPending
from bot.domain.address import Address, checksum

SESSIONS_A_CALL = 500  # 13 million gas; nodes allow 30 to 50 million for a call

log = structlog.get_logger()
Block = int | str  # a number, a hash, or a tag


def pinned(at: Block) -> Any:
    """The block parameter of a call: a number, a tag, or a hash that has to be canonical."""
    if isinstance(at, int):
        return hex(at)
    if len(at) == 66:
        return {"blockHash": at, "requireCanonical": True}
    return at


class LangDAO:
    """The contract at `address`."""

    def __init__(self, rpc: Rpc, address: Address) -> None:
        self._rpc = rpc
        self.address = address
        self._overrides = True  # as far as is known, the node takes state overrides

    async def owner(self, at: Block = "latest") -> Address:
        return _read(codec.address, await self._call(codec.OWNER, at))

    async def token(self, at: Block = "latest") -> Address:
        """The token that lessons are paid in."""
        return _read(codec.address, await self._call(codec.PYUSD_TOKEN, at))

    async def decimals(self, token: Address, at: Block = "latest") -> int:
        """Decimals of an ERC-20."""
        result = await self._rpc.call("eth_call", ({"to": token, "data": codec.DECIMALS}, pinned(at)))
        return _read(codec.uint, result)

    async def counter(self, at: Block = "latest") -> int:
        """`sessionCounter()`, as the contract says it."""
        return _read(codec.uint, await self._call(codec.SESSION_COUNTER, at))

    async def active(self, tutor: Address, at: Block) -> OnChainSession | None:
        """The tutor's running session, None when there is none."""
        return _read(_session, await self._call(codec.active_sessions(tutor), at))

    async def session(self, session_id: int, at: Block) -> OnChainSession | None:
        """The session with this id, running or ended; None when it doesn't exist at that block."""
        return _read(_session, await self._call(codec.get_session(session_id), at))

    async def sessions(self, ids: Sequence[int], at: Block) -> list[OnChainSession | RpcError | None]:
        """Many sessions at once: each one as `session` gives it, or the error that the node gave for it."""
        found: list[OnChainSession | RpcError | None] = []
        for start in range(0, len(ids), SESSIONS_A_CALL):
            found += await self._sessions(ids[start : start + SESSIONS_A_CALL], at)
        return found

    async def _sessions(self, ids: Sequence[int], at: Block) -> list[OnChainSession | RpcError | None]:
        if self._overrides and len(ids) > 1:
            asked = multicall.pack(self.address, codec.GET_SESSION, ids, codec.SESSION_BYTES, pinned(at))
            try:
                answers = multicall.unpack(await self._rpc.call("eth_call", asked), len(ids), codec.SESSION_BYTES)
                return [_read(codec.decode_session, answer) for answer in answers]
            except ValueError:
                self._overrides = False  # as if there were none: such a node answers nothing for an unused address
            except RpcError as error:
                # One of them fails, or the node takes no overrides: one by one says which.
                log.info("sessions.one_by_one", sessions=len(ids), reason=str(error)[:120])
        calls = [("eth_call", self._params(codec.get_session(one), at)) for one in ids]
        return [
            result if isinstance(result, RpcError) else _read(_session, result)
            for result in await self._rpc.batch(calls)
        ]

    async def balances(
        self, purses: Sequence[tuple[Address, Address]], at: Block
    ) -> dict[tuple[Address, Address], int]:
        """What each (student, token) holds in the contract. Raises RpcError when one of them can't be told."""
        calls = [("eth_call", self._params(codec.student_balances(*purse), at)) for purse in purses]
        balances = {}
        for purse, answer in zip(purses, await self._rpc.batch(calls), strict=True):
            if isinstance(answer, RpcError):
                raise answer
            balances[purse] = _read(codec.uint, answer)
        return balances

    async def held(self, token: Address, at: Block) -> int:
        """How much of an ERC-20 the contract itself holds."""
        result = await self._rpc.call("eth_call", ({"to": token, "data": codec.balance_of(self.address)}, pinned(at)))
        return _read(codec.uint, result)

    async def balance(self, student: Address, token: Address, at: Block) -> int:
        """What the student holds in the contract, in base units of the token."""
        return _read(codec.uint, await self._call(codec.student_balances(student, token), at))

    async def code(self, at: Block = "latest") -> bytes:
        """The contract's code; empty when there is none."""
        return bytes.fromhex(str(await self._rpc.call("eth_getCode", (self.address, pinned(at))))[2:])

    async def pending_ends(self) -> set[tuple[Address, Address]]:
        """(sender, tutor) of every `endSession(tutor)` in the node's pool; empty also where the node can't say."""
        try:
            pending = await self._rpc.call_as(RawPending | None, "eth_getBlockByNumber", ("pending", True))
            latest = int(await self._rpc.call("eth_blockNumber"), 16)
        except (RpcError, Unreachable, ValueError, TypeError):
            return set()
        # Many public nodes answer with the newest mined block instead.
        if pending is None or (pending.number is not None and int(pending.number, 16) <= latest):
            return set()
        found = set()
        for transaction in pending.transactions:
            tutor = codec.tutor_of_end(transaction.input)
            sender = checksum(transaction.sender)
            if sender is not None and tutor is not None and checksum(transaction.to or "") == self.address:
                found.add((sender, tutor))
        return found

    def active_call(self, tutor: Address, at: Block) -> Sequence[Any]:
        """The parameters of the `eth_call` that `active` makes, for a batch."""
        return self._params(codec.active_sessions(tutor), at)

    async def _call(self, data: str, at: Block) -> Any:
        return await self._rpc.call("eth_call", self._params(data, at))

    def _params(self, data: str, at: Block) -> Sequence[Any]:
        return ({"to": self.address, "data": data}, pinned(at))


def _read(decode: Any, result: Any) -> Any:
    try:
        return decode(result)
    except (ValueError, TypeError):
        raise WrongAnswer("the contract's answer has another layout than LangDAO's") from None


def _session(result: str) -> OnChainSession | None:
    return codec.decode_session(bytes.fromhex(result[2:]))
