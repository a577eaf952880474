"""Looking at the chain: all that a signature rests on, at one block.

Promises
 - Slot and outcome of a call, nonce and balance are of one block, pinned by its hash. An endpoint that lacks that block
   isn't used.
 - What is pending is asked anew for each look, of every endpoint that answers soon.
 - A look may be taken ahead, while what asks for it is still being stored; it serves for the same block only, and not
   for long.
Doesn't promise that the slot can't change after the look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bot.chain import codec
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.fees import PERCENTILES, Market
from bot.chain.langdao import LangDAO, pinned
from bot.chain.refusals import reverted
from bot.chain.rpc import Rpc, leaving
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.terms import At, SenderConfig
from bot.domain.address import Address
from bot.domain.facts import SessionKey

OTHERS_S = 0.5  # how long the other endpoints may take to say what is pending
AHEAD_GOOD_S = 0.5  # how old a look taken ahead may be

Call = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the key stands at a block, and what is paid there. `why_not`: why nothing can be ended now.

    `pending`: what a node said of the nonces above it when the head was new; asked anew before anything leaves.
    """

    at: At
    nonce: int
    balance: int
    market: Market
    why_not: str | None = None
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One session at one block: the tutor's slot, and what the call to end it would do (None: succeed)."""

    active: codec.OnChainSession | None
    refused: RpcError | None
    broken: Exception | None = None  # the node couldn't say


@dataclass(frozen=True, slots=True)
class Look:
    """The chain's answer at one block, and what is pending above it. `payers`: whose own end waits in the pool."""

    seen: dict[SessionKey, Seen]
    pending: list[int]
    payers: dict[SessionKey, str]


@dataclass(frozen=True, slots=True)
class _Ahead:
    keys: frozenset[SessionKey]
    at: At
    began_s: float
    look: asyncio.Task[Look]

    def serves(self, keys: Sequence[SessionKey], at: At) -> bool:
        return self.at == at and time.monotonic() - self.began_s < AHEAD_GOOD_S and self.keys.issuperset(keys)


class Looks:
    """The sender's eyes. `standing` is asked once for each head, `of` once for each round of signing."""

    def __init__(self, rpc: Rpc, langdao: LangDAO, carrier: Carrier, address: Address, config: SenderConfig) -> None:
        self._rpc = rpc
        self._langdao = langdao
        self._carrier = carrier
        self._address = address
        self._pending_call: Call = ("eth_getTransactionCount", (address, "pending"))
        self._config = config
        self._standing: Standing | None = None
        self._ahead: _Ahead | None = None

    async def standing(self, at: At) -> Standing:
        """Nonce, balance, market and the carrier's checks; asked once for each head."""
        if self._standing is None or self._standing.at != at:
            here = pinned(at.hash)
            nonce, pending, balance, history, *checked = await self.pinned(
                [
                    ("eth_getTransactionCount", (self._address, here)),
                    self._pending_call,
                    ("eth_getBalance", (self._address, here)),
                    ("eth_feeHistory", ("0x5", "pending", list(PERCENTILES))),
                    *self._carrier.checks(at),
                ]
            )
            market = _market(history) or Market.of_price(int(await self._rpc.call("eth_gasPrice"), 16))
            why_not = await self._carrier.why_not(at, checked)
            self._standing = Standing(at, count(nonce), count(balance), market, why_not, count(pending))
        return self._standing

    @property
    def known(self) -> Standing | None:
        """The newest standing that was asked for."""
        return self._standing

    # Sessions -------------------------------------------------------------------------------------------------------

    async def ahead(self, keys: Sequence[SessionKey], pay_wait: Sequence[SessionKey], at: At) -> None:
        """Begins a look that `of` is about to be asked for; returns when the questions have left."""
        if self._ahead is not None:
            self._ahead.look.cancel()
        look = asyncio.create_task(self._look(keys, pay_wait, at), name="sender.look-ahead")
        look.add_done_callback(_heard)
        self._ahead = _Ahead(frozenset(keys), at, time.monotonic(), look)
        await leaving()

    async def of(self, keys: Sequence[SessionKey], pay_wait: Sequence[SessionKey], at: At) -> Look:
        """These sessions at this head; for `pay_wait`, whether a participant's own end waits in the pool."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if ahead.serves(keys, at):
                return await ahead.look
            ahead.look.cancel()
        return await self._look(keys, pay_wait, at)

    def under_way(self, keys: Sequence[SessionKey], at: At) -> bool:
        """Is the answer that `of` would give still on its way, to a look that was taken ahead?"""
        return self._ahead is not None and self._ahead.serves(keys, at) and not self._ahead.look.done()

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.look.cancel()

    async def _look(self, keys: Sequence[SessionKey], pay_wait: Sequence[SessionKey], at: At) -> Look:
        calls: list[Call] = [self._pending_call]
        for key in keys:
            calls += self.calls(key, at)
        if self._rpc.alone and not pay_wait:  # one question, and not a turn of the loop before it is asked
            answers, others, payers = await self.pinned(calls), [], {}
        else:
            answers, others, payers = await asyncio.gather(
                self.pinned(calls), self._pending_elsewhere(), self._payers(pay_wait)
            )
        seen = dict(zip(keys, seen_in(answers[1:]), strict=True))
        return Look(seen, [count(answers[0]), *others], payers)

    def calls(self, key: SessionKey, at: At) -> list[Call]:
        """The slot, and the call itself."""
        end = {
            "from": self._carrier.caller,
            "to": self._langdao.address,
            "data": codec.end_session(key.tutor),
            "gas": hex(self._config.gas_limit),
        }
        return [
            ("eth_call", self._langdao.active_call(key.tutor, at.hash)),
            ("eth_call", (end, pinned(at.hash))),
        ]

    async def pinned(self, calls: Sequence[Call]) -> list[Any]:
        """The answers; what the first endpoint can't say, as it lacks the block, is asked of all."""
        answers = await self._rpc.batch(calls)
        for number, answer in enumerate(answers):
            if isinstance(answer, RpcError) and not reverted(answer) and not self._rpc.alone:
                method, params = calls[number]
                said = [one for _, one in await self._rpc.on_each(method, params)]
                better = [one for one in said if not isinstance(one, Exception)]
                better += [one for one in said if isinstance(one, RpcError) and reverted(one)]
                answers[number] = better[0] if better else answer
        return answers

    async def _payers(self, keys: Sequence[SessionKey]) -> dict[SessionKey, str]:
        """For whom a participant's own endSession waits in the node's pool; one question for all."""
        if not keys:
            return {}
        ends = await self._langdao.pending_ends()
        return {key: who for key in keys for who in (key.student, key.tutor) if (who, key.tutor) in ends}

    async def _pending_elsewhere(self) -> list[int]:
        """What the endpoints say is pending, of those that answer soon: another may know what the first doesn't."""
        if self._rpc.alone:
            return []
        try:
            said = await asyncio.wait_for(self._rpc.on_each(*self._pending_call), OTHERS_S)
        except TimeoutError:
            return []
        return [int(answer, 16) for _, answer in said if isinstance(answer, str)]


def seen_in(answers: Sequence[Any]) -> list[Seen]:
    """What the answers to `Looks.calls` say, two for each session."""
    return [_one_seen(slot, simulated) for slot, simulated in zip(answers[::2], answers[1::2], strict=True)]


def count(answer: Any) -> int:
    """A quantity; raises the node's own error, or WrongAnswer."""
    if isinstance(answer, RpcError):
        raise answer
    try:
        return int(answer, 16)
    except (ValueError, TypeError):
        raise WrongAnswer("the node's answers to the look before signing can't be read") from None


def _one_seen(slot: Any, simulated: Any) -> Seen:
    if isinstance(slot, RpcError):
        return Seen(None, None, slot)
    refused = simulated if isinstance(simulated, RpcError) else None
    if refused is not None and not reverted(refused):
        return Seen(None, None, refused)
    try:
        return Seen(codec.decode_session(bytes.fromhex(slot[2:])), refused)
    except (ValueError, TypeError, LookupError):
        return Seen(None, None, WrongAnswer("the node's answer about the tutor's slot can't be read"))


def _market(history: Any) -> Market | None:
    try:
        return None if isinstance(history, RpcError) else Market.of(history)
    except (AttributeError, TypeError, ValueError):
        return None


def _heard(look: asyncio.Task[Look]) -> None:
    """A look that nobody waited for may fail unheard."""
    if not look.cancelled():
        look.exception()
