"""Signs, stores, and says: the only place from which a transaction leaves.

Promises
 - Every transaction was stored, signed, durably, before its first byte left.
 - A stored transaction counts as broadcast, whatever the nodes said of it, until it is dropped; it is only dropped when
   no byte of it has left.
 - One slow endpoint delays nothing: who hasn't answered within SAY_S is heard in the background.
Doesn't promise that a node has it: it is looked up at the next head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from bot.chain.fees import Fees
from bot.chain.refusals import Refusal, classify
from bot.chain.rpc import Rpc, leaving
from bot.chain.sender.carrier import Call, Carrier
from bot.chain.sender.look import Standing
from bot.chain.sender.nonces import Group, Limit, groups_of
from bot.chain.sender.terms import Hooks, SenderConfig
from bot.chain.signer import Signer
from bot.domain.facts import SessionKey
from bot.errors import TryAgain
from bot.store import txs
from bot.store.db import Writer
from bot.store.txs import Item, Step, Tx

log = structlog.get_logger("sender")

FREE_GAS = 30_000  # a self-transfer; 21,000 isn't enough where the account is delegated (EIP-7702)
SAY_S = 1.0
SAY_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction to be signed."""

    items: tuple[Item, ...]
    kind: str
    nonce: int
    bid: Fees


@dataclass(frozen=True, slots=True)
class Heard:
    """What each endpoint said of a transaction; None: accepted."""

    tx: Tx
    said: dict[str, Refusal | None]


class Outbox:
    """The live transactions, and all that is done with them."""

    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        carrier: Carrier,
        signer: Signer,
        config: SenderConfig,
        hooks: Hooks,
        clock_ms: Callable[[], int],
    ) -> None:
        self._rpc = rpc
        self._writer = writer
        self._carrier = carrier
        self._signer = signer
        self._config = config
        self._hooks = hooks
        self._clock = clock_ms
        self._alerted: set[str] = set()
        self._saying: dict[str, asyncio.Task[Heard]] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._taking = asyncio.Lock()  # what was heard late is no news of what a head has said meanwhile
        self.address = signer.address
        self.live: list[Tx] = []
        self.limit = Limit(config.max_in_flight)
        self.costs_taken = 0  # grows with each cost that is stored: what was spent is to be counted again
        self.outbid: set[int] = set()  # nonces at which every node refused us for the price

    async def load(self) -> None:
        """Reads what an earlier process left."""
        self.live = await self._writer(lambda session: txs.live(session, self.address))

    @property
    def groups(self) -> list[Group]:
        return groups_of(self.live)

    @property
    def unmined(self) -> int:
        return sum(1 for group in self.groups if group.unmined)

    # Signing and storing --------------------------------------------------------------------------------------------

    async def send(self, drafts: Sequence[Draft], standing: Standing) -> None:
        """Stores these (`store`), and says them in the order of their nonces."""
        await self.say(await self.store(drafts, standing), new=True)

    async def store(self, drafts: Sequence[Draft], standing: Standing) -> list[Tx]:
        """Signs these, and stores them in one durable transaction. From now on they count as broadcast.

        Raises TryAgain when nothing can be ended now and one of them is to.
        """
        if standing.why_not is not None and any(draft.kind == txs.SETTLE for draft in drafts):
            raise TryAgain(standing.why_not)
        signed = [await self._sign(draft, standing) for draft in drafts]
        await self._writer.rows(lambda into: txs.add(into, signed), durable=True)
        self.live += signed
        self.live.sort(key=lambda tx: (tx.nonce, tx.max_fee))
        return signed  # W2 until the first byte leaves; at a nonce that had one before, W6

    async def drop(self, unsaid: Sequence[Tx], why: str) -> None:
        """Takes back what was stored and never said."""
        await self._writer.rows(lambda into: txs.drop(into, unsaid, why, self._clock()))
        hashes = {tx.hash for tx in unsaid}
        self.live = [tx for tx in self.live if tx.hash not in hashes]
        for tx in unsaid:
            log.info("tx.dropped", sessions=tx.sessions, hash=tx.hash, nonce=tx.nonce, reason=why)

    async def _sign(self, draft: Draft, standing: Standing) -> Tx:
        legacy = standing.market.legacy
        settle = draft.kind == txs.SETTLE
        call = self._carrier.call([item.key for item in draft.items]) if settle else Call(self.address, "0x", FREE_GAS)
        bid = draft.bid
        price: dict[str, Any] = {"type": 2, "maxFeePerGas": bid.max_fee, "maxPriorityFeePerGas": bid.tip}
        signed = await self._signer.sign(
            {
                "chainId": self._config.chain_id,
                "nonce": draft.nonce,
                "to": call.to,
                "value": 0,
                "data": call.data,
                "gas": call.gas,
            }
            | ({"gasPrice": bid.max_fee} if legacy else price)
        )
        return Tx(
            hash=signed.hash,
            nonce=draft.nonce,
            sender=self.address,
            kind=draft.kind,
            items=draft.items,
            raw=signed.raw,
            gas=call.gas,
            max_fee=bid.max_fee,
            tip=bid.max_fee if legacy else bid.tip,
            state=txs.STORED,
            stored_ms=self._clock(),
            stored_block=standing.at.number,
        )

    async def take(self, steps: Sequence[Step]) -> None:
        """Stores what became of transactions, and knows it from then on."""
        if steps:
            async with self._taking:
                await self._taken(steps)

    async def _taken(self, steps: Sequence[Step]) -> None:
        await self._writer(lambda session: txs.take(session, steps, self._clock()))
        for step in steps:
            step.tx.state = step.values.get("state", step.tx.state)
            step.tx.mined_block = step.values.get("mined_block", step.tx.mined_block)
            step.tx.mined_hash = step.values.get("mined_hash", step.tx.mined_hash)
            self.costs_taken += "gas_cost" in step.values
        closed = {step.tx.nonce for step in steps if step.values.get("closed")}
        self.live = [tx for tx in self.live if tx.nonce not in closed]

    # Saying ---------------------------------------------------------------------------------------------------------

    async def say(self, signed: Sequence[Tx], *, new: bool = False) -> None:
        """Says stored transactions to every endpoint, those of the lowest nonces first. `new`: just stored."""
        fresh = [tx for tx in signed if tx.hash not in self._saying]
        for start in range(0, len(fresh), SAY_AT_ONCE):
            tasks = [asyncio.create_task(self._say(tx)) for tx in fresh[start : start + SAY_AT_ONCE]]
            self._saying |= {tx.hash: task for tx, task in zip(fresh[start:], tasks, strict=False)}
            if new and start == 0:
                await leaving()  # they don't wait for the log to be written
                _log_stored(signed)
            done, late = await asyncio.wait(tasks, timeout=SAY_S)
            for task in late:
                self._hear_later(task)
            await self._take_in([task.result() for task in tasks if task in done])

    async def _say(self, tx: Tx) -> Heard:
        try:
            answers = await self._rpc.on_each("eth_sendRawTransaction", (tx.raw,))
            return Heard(tx, {where: _meaning(answer) for where, answer in answers})
        finally:
            self._saying.pop(tx.hash, None)

    def _hear_later(self, saying: asyncio.Task[Heard]) -> None:
        async def hear() -> None:
            await self._take_in([await saying])

        task = asyncio.create_task(hear())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _take_in(self, heard: Sequence[Heard]) -> None:
        """Takes what the nodes said into account."""
        taken = []
        for one in heard:
            words = set(one.said.values())
            if words & {None, Refusal.ALREADY_KNOWN}:
                self.outbid.discard(one.tx.nonce)
                taken.append(one.tx)
            else:
                await self._not_accepted(one, words)
        async with self._taking:
            accepted = [tx for tx in taken if tx.state == txs.STORED]
            if accepted:  # W3 until this is stored, then W4
                values = {"state": txs.SENT, "sent_ms": self._clock()}
                await self._taken([Step(tx, txs.SENT, values) for tx in accepted])
        for tx in accepted:
            log.info("tx.sent", sessions=tx.sessions, hash=tx.hash, nonce=tx.nonce, kind=tx.kind)

    async def _not_accepted(self, heard: Heard, words: set[Refusal | None]) -> None:
        """Refused or unheard of everywhere: it stays "stored", counts as broadcast, is looked up at the next head."""
        tx, said = heard.tx, {where: str(word) for where, word in heard.said.items()}
        log.warning("tx.not-accepted", sessions=tx.sessions, hash=tx.hash, said=said)
        if words & {Refusal.IN_FLIGHT_LIMIT, Refusal.POOL_FULL}:
            self.limit.halve()
            log.warning("sender.limit", in_flight=self.limit.now)
        if Refusal.INSUFFICIENT_FUNDS in words:
            text = f"A node refuses transaction {tx.hash} of {self.address} for want of ETH: send it ETH"
            await self.alert_once("funds", "alert.balance", text, tx.key)
        if words <= {Refusal.UNDERPRICED, Refusal.FEE_TOO_LOW}:
            self.outbid.add(tx.nonce)

    async def close(self) -> None:
        """Leaves what is being said; the rows know of it."""
        for task in (*self._saying.values(), *self._late):
            task.cancel()

    # Alerts ---------------------------------------------------------------------------------------------------------

    async def alert_once(self, mark: str, name: str, text: str, key: SessionKey | None) -> None:
        """Raises an alert unless it was raised already and its cause never gone since."""
        if mark not in self._alerted:
            self._alerted.add(mark)
            await self._hooks.alert(name, text, key)

    def gone(self, *marks: str) -> None:
        """The causes of these alerts are gone."""
        self._alerted.difference_update(marks)


def _log_stored(signed: Sequence[Tx]) -> None:
    for tx in signed:
        log.info(
            "tx.stored",
            sessions=tx.sessions,
            hash=tx.hash,
            nonce=tx.nonce,
            kind=tx.kind,
            max_fee_wei=tx.max_fee,
        )


def _meaning(answer: Any) -> Refusal | None:
    """None: accepted."""
    return classify(answer) if isinstance(answer, BaseException) else None
