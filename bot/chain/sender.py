"""Ends sessions on chain.

Promises
 - Every transaction was stored, signed, durably, before its first byte left.
 - At most one effective settlement per session: while a nonce signed for a session may still be used, nothing is
   signed for that session at another nonce.
 - After a crash each stored, unmined transaction is accounted for before anything new is signed: looked up; said
   again only if its session still holds at the newest block; else retracted at its own nonce.
 - A stored transaction counts as broadcast.
 - It never reports an end that `SessionEnded` with the expected id, in the receipt, doesn't prove.
Doesn't promise inclusion time; nor, in direct mode, that the tutor's slot can't change between the last look and
inclusion: `endSession(tutor)` names no session. The gap is narrowed (a look at every block, retraction) and what
slips through is reported as `alert.wrong-session`.

Crash windows, by number, here and in the tests:
  W1 decided, nothing stored        → the action is open; it is checked and signed as if new
  W2 stored, not broadcast          → looked up, unknown; said again or retracted
  W3 broadcast, not marked as sent  → looked up, known or mined
  W4 sent, no receipt seen          → as W3
  W5 mined, outcome not reported    → SessionEnded in the follower's logs closes the action; without it, as W1
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from bot.chain import codec, fees
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.fees import Caps, Fees
from bot.chain.langdao import LangDAO, pinned
from bot.chain.refusals import Refusal, classify, revert_reason, reverted
from bot.chain.rpc import Rpc
from bot.chain.signer import Signer
from bot.domain.facts import SessionKey
from bot.errors import TryAgain
from bot.store import txs
from bot.store.db import Writer
from bot.store.txs import Tx

log = structlog.get_logger("sender")

RETRACT_GAS = 30_000  # a self-transfer; 21,000 isn't enough where the account is delegated (EIP-7702)
DAY_MS = 86_400_000
ETHER = 10**18
FEE_HISTORY = ("0x5", "pending", [50.0])


@dataclass(frozen=True, slots=True)
class SenderConfig:
    chain_id: int
    gas_limit: int
    confirmations: int
    replace_after_blocks: int
    max_in_flight: int
    caps: Caps
    min_balance_wei: int
    daily_budget_wei: int


class Hooks(Protocol):
    """What the sender asks and tells."""

    def still_due(self, key: SessionKey) -> bool: ...
    def may_pay_wait(self, key: SessionKey) -> bool: ...
    async def paying(self, key: SessionKey, payer: str) -> None: ...
    async def report(
        self, key: SessionKey, action_id: int, outcome: str, reason: str | None, tx_hash: str | None
    ) -> None:
        """`outcome`: settled, over, failed, refused, withdrawn, waiting, lost, retracted."""
        ...

    async def alert(self, name: str, text: str, key: SessionKey | None) -> None: ...


@dataclass(frozen=True, slots=True)
class At:
    """The head that a look is pinned to."""

    number: int
    hash: str


@dataclass(slots=True)
class Look:
    """One answer of the chain at one block: all that a signature needs."""

    active: codec.OnChainSession | None
    refused: RpcError | None
    nonce: int
    pending_nonce: int
    balance: int
    suggested: Fees


class Sender:
    """One task works off requests and watches what is in flight, at every head. See the module's promises."""

    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        langdao: LangDAO,
        signer: Signer,
        config: SenderConfig,
        hooks: Hooks,
        clock_ms: Callable[[], int],
    ) -> None:
        self._rpc = rpc
        self._writer = writer
        self._langdao = langdao
        self._signer = signer
        self._config = config
        self._hooks = hooks
        self._clock = clock_ms
        self._requests: dict[SessionKey, int] = {}
        self._live: list[Tx] = []
        self._recovered = False
        self._head: At | None = None
        self._seen: At | None = None
        self._wake = asyncio.Event()
        self._alerted: set[str] = set()
        self.address = signer.address
        self.balance_wei: int | None = None

    @property
    def in_flight(self) -> int:
        """Transactions that were signed and aren't accounted for yet."""
        return len({tx.nonce for tx in self._live if tx.state != txs.MINED})

    @property
    def busy(self) -> bool:
        return bool(self._requests) or self.in_flight > 0

    def settle(self, action_id: int, key: SessionKey) -> None:
        """Asks for `key` to be ended. The outcome comes by `Hooks.report`."""
        self._requests[key] = action_id
        self._wake.set()

    def head(self, number: int, block_hash: str) -> None:
        """The follower's newest head: everything in flight is looked at again."""
        self._head = At(number, block_hash)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. What fails for the moment is tried again at the next head."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._head is None:
                continue
            try:
                await self._round(self._head)
            except (TryAgain, RpcError) as error:
                log.warning("sender.later", reason=str(error)[:200])
                await asyncio.sleep(0.5)
                self._wake.set()

    async def _round(self, at: At) -> None:
        if not self._recovered:
            self._live = await self._writer(lambda tx: txs.live(tx, self.address))
            if self._live:
                log.info("sender.recovering", transactions=len(self._live))
        if self._seen != at:
            self.balance_wei = int(await self._rpc.call("eth_getBalance", (self.address, pinned(at.hash))), 16)
        if self._live and (self._seen != at or not self._recovered):
            await self._watch(at)
        self._seen = at
        self._recovered = True
        later: Exception | None = None
        for key, action_id in list(self._requests.items()):
            if self.in_flight >= self._config.max_in_flight:
                break
            try:
                await self._try(key, action_id, at)
            except (TryAgain, RpcError) as error:  # this one waits; the others behind it don't
                log.warning("settle.later", session=key.session_id, reason=str(error)[:200])
                later = error
        if later is not None:
            raise later

    # What is in flight ----------------------------------------------------------------------------------------------

    async def _watch(self, at: At) -> None:
        """Accounts for every live transaction at this head."""
        calls: list[tuple[str, Sequence[Any]]] = [("eth_getTransactionReceipt", (tx.hash,)) for tx in self._live]
        deep = hex(max(0, at.number - self._config.confirmations + 1))
        calls.append(("eth_getTransactionCount", (self.address, deep)))
        calls.append(("eth_getTransactionCount", (self.address, pinned(at.hash))))
        answers = await self._rpc.batch(calls)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        used_deep, used = int(answers[-2], 16), int(answers[-1], 16)
        receipts = dict(zip([tx.hash for tx in self._live], answers, strict=False))
        for nonce in sorted({tx.nonce for tx in self._live}):
            group = [tx for tx in self._live if tx.nonce == nonce]
            mined = next((tx for tx in group if _mined_by(receipts[tx.hash], at.number)), None)
            if mined is not None:
                await self._was_mined(group, mined, receipts[mined.hash], at)
            elif nonce < used_deep:
                await self._was_lost(group)
            elif nonce >= used:  # else a foreign transaction used it, which a small reorg may still undo
                await self._unmined(group, at)

    async def _was_mined(self, group: list[Tx], mined: Tx, receipt: dict[str, Any], at: At) -> None:
        block = int(receipt["blockNumber"], 16)
        first = mined.state != txs.MINED or mined.mined_block != block
        deep = at.number - block + 1 >= self._config.confirmations
        cost = int(receipt["gasUsed"], 16) * int(receipt.get("effectiveGasPrice", "0x0"), 16)
        if first or deep:
            await self._store(
                mined,
                state=txs.DONE if deep else txs.MINED,
                mined_block=block,
                mined_hash=receipt["blockHash"],
                gas_cost=str(cost),
            )
        if deep:
            for other in group:
                if other is not mined:
                    await self._store(other, state=txs.REPLACED)
            self._live = [tx for tx in self._live if tx.nonce != mined.nonce]
        if first:
            log.info("tx.mined", session=mined.key.session_id, hash=mined.hash, block=block, kind=mined.kind)
            await self._report_mined(mined, receipt)

    async def _report_mined(self, mined: Tx, receipt: dict[str, Any]) -> None:
        key = mined.key
        action = self._requests.pop(key, mined.action_id)
        if mined.kind == txs.RETRACT:
            return await self._hooks.report(key, action, "retracted", "its session was no longer active", mined.hash)
        ended = ended_in(receipt, self._langdao.address)
        if key.session_id in ended:
            return await self._hooks.report(key, action, "settled", None, mined.hash)
        if ended:
            text = f"endSession for session {key.session_id} ended session {ended[0]} instead ({mined.hash})"
            await self._hooks.alert("alert.wrong-session", text, key)
            return await self._hooks.report(key, action, "over", "another session was in the slot", mined.hash)
        await self._hooks.report(key, action, "failed", "mined without SessionEnded", mined.hash)

    async def _was_lost(self, group: list[Tx]) -> None:
        for tx in group:
            await self._store(tx, state=txs.LOST)
        self._live = [tx for tx in self._live if tx.nonce != group[0].nonce]
        tx = group[-1]
        action = self._requests.pop(tx.key, tx.action_id)
        text = f"Nonce {tx.nonce} of {tx.sender} was used by a transaction that isn't ours: another program has its key"
        await self._hooks.alert("alert.foreign-nonce", text, tx.key)
        await self._hooks.report(tx.key, action, "lost", "its nonce was used by another sender", tx.hash)

    async def _unmined(self, group: list[Tx], at: At) -> None:
        newest = group[-1]
        for tx in group:
            if tx.state == txs.MINED:  # a reorg took it back
                log.warning("tx.reorged-out", session=tx.key.session_id, hash=tx.hash)
                await self._store(tx, state=txs.SENT, mined_block=None, mined_hash=None)
        if newest.kind == txs.SETTLE:
            active = await self._langdao.active(newest.key.tutor, at.hash)
            if not _holds(active, newest.key):
                return await self._retract(newest, at)
        if at.number - newest.stored_block >= self._config.replace_after_blocks:
            return await self._replace(newest, at)
        if newest.state == txs.STORED or not await self._rpc.call("eth_getTransactionByHash", (newest.hash,)):
            await self._broadcast(newest)

    async def _retract(self, settle: Tx, at: At) -> None:
        """Uses the nonce for nothing: an unmined endSession is a weapon against the tutor's next lesson."""
        suggested = await self._suggested()
        bid = fees.replacement(Fees(settle.max_fee, settle.tip), suggested, self._config.caps.retract)
        if bid is None:
            return await self._at_cap(settle)
        log.warning("tx.retracting", session=settle.key.session_id, hash=settle.hash, nonce=settle.nonce)
        await self._sign(settle.key, settle.action_id, txs.RETRACT, settle.nonce, bid, at)

    async def _replace(self, old: Tx, at: At) -> None:
        suggested = await self._suggested()
        caps = self._config.caps
        cap = caps.retract if old.kind == txs.RETRACT else fees.settle_cap(suggested, caps)
        bid = fees.replacement(Fees(old.max_fee, old.tip), suggested, cap)
        if bid is None:
            await self._at_cap(old)
            return await self._broadcast(old)
        log.info("tx.replaced", session=old.key.session_id, hash=old.hash, nonce=old.nonce)
        await self._sign(old.key, old.action_id, old.kind, old.nonce, bid, at)

    async def _at_cap(self, tx: Tx) -> None:
        text = (
            f"Transaction {tx.hash} for session {tx.key.session_id} bids its cap and waits: raise MAX_FEE_GWEI, or wait"
        )
        await self._alert_once(f"cap:{tx.hash}", "alert.fee-cap", text, tx.key)

    # What is asked for ----------------------------------------------------------------------------------------------

    async def _try(self, key: SessionKey, action_id: int, at: At) -> None:
        """One request: checks, signs, stores, broadcasts, or says why not."""
        if any(tx.key == key for tx in self._live):
            return  # signed for already; `_watch` sees it through at that nonce, until it is used beyond a small reorg
        if not self._hooks.still_due(key):
            return await self._done(key, action_id, "withdrawn", "no longer due")
        look = await self._look(key, at)
        if not _holds(look.active, key):
            return await self._done(key, action_id, "over", "not the tutor's active session at the newest block")
        if self._hooks.may_pay_wait(key):
            payer = await self._langdao.pending_end_by((key.student, key.tutor), key.tutor)
            if payer is not None:
                await self._hooks.paying(key, payer)
                return await self._done(key, action_id, "waiting", f"{payer} is paying")
        if look.refused is not None:
            return await self._done(key, action_id, *_why_refused(look.refused))
        if look.pending_nonce > look.nonce + len({tx.nonce for tx in self._live}):
            log.info("sender.foreign-pending", nonce=look.nonce, pending=look.pending_nonce)
        bid = fees.first_bid(look.suggested, self._config.caps)
        need = self._config.min_balance_wei + self._config.gas_limit * bid.max_fee
        if look.balance < need:
            text = f"{self.address} has {look.balance / ETHER:.4f} ETH, too little to end sessions: send it ETH"
            await self._alert_once("balance", "alert.balance", text, key)
            return await self._done(key, action_id, "refused", "balance of the key below MIN_BALANCE_ETH")
        self._alerted.discard("balance")
        spent = await self._writer(lambda tx: txs.spent_since(tx, self._clock() - DAY_MS))
        if spent >= self._config.daily_budget_wei:
            text = f"{spent / ETHER:.4f} ETH spent in 24 hours: DAILY_GAS_BUDGET_ETH is used up, nothing is signed"
            await self._alert_once("budget", "alert.gas-budget", text, key)
            return await self._done(key, action_id, "refused", "daily gas budget used up")
        self._alerted.discard("budget")
        nonce = max([look.nonce, look.pending_nonce, *(tx.nonce + 1 for tx in self._live)])
        del self._requests[key]
        await self._sign(key, action_id, txs.SETTLE, nonce, bid, at)

    async def _look(self, key: SessionKey, at: At) -> Look:
        """All that a signature needs, in one request, pinned to the follower's head."""
        me, here = self.address, pinned(at.hash)
        contract = self._langdao.address
        end = {"from": me, "to": contract, "data": codec.end_session(key.tutor), "gas": hex(self._config.gas_limit)}
        active = {"to": contract, "data": codec.active_sessions(key.tutor)}
        answers = await self._rpc.batch(
            [
                ("eth_call", (active, here)),
                ("eth_call", (end, here)),
                ("eth_getTransactionCount", (me, here)),
                ("eth_getTransactionCount", (me, "pending")),
                ("eth_getBalance", (me, here)),
                ("eth_feeHistory", FEE_HISTORY),
            ]
        )
        simulated = answers.pop(1)
        refused = simulated if isinstance(simulated, RpcError) else None
        if refused is not None and not reverted(refused):
            raise refused
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        try:
            return Look(
                active=codec.decode_session(bytes.fromhex(answers[0][2:])),
                refused=refused,
                nonce=int(answers[1], 16),
                pending_nonce=int(answers[2], 16),
                balance=int(answers[3], 16),
                suggested=fees.suggestion(answers[4]),
            )
        except (ValueError, TypeError, LookupError, AttributeError):
            raise WrongAnswer("the node's answers to the look before signing can't be read") from None

    async def _suggested(self) -> Fees:
        return fees.suggestion(await self._rpc.call("eth_feeHistory", FEE_HISTORY))

    async def _done(self, key: SessionKey, action_id: int, outcome: str, reason: str | None) -> None:
        self._requests.pop(key, None)
        log.info("settle.not-sent", session=key.session_id, outcome=outcome, reason=reason)
        await self._hooks.report(key, action_id, outcome, reason, None)

    # Signing and sending --------------------------------------------------------------------------------------------

    async def _sign(self, key: SessionKey, action_id: int, kind: str, nonce: int, bid: Fees, at: At) -> None:
        settle = kind == txs.SETTLE
        gas = self._config.gas_limit if settle else RETRACT_GAS
        signed = await self._signer.sign(
            {
                "type": 2,
                "chainId": self._config.chain_id,
                "nonce": nonce,
                "to": self._langdao.address if settle else self.address,
                "value": 0,
                "data": codec.end_session(key.tutor) if settle else "0x",
                "gas": gas,
                "maxFeePerGas": bid.max_fee,
                "maxPriorityFeePerGas": bid.tip,
            }
        )
        tx = Tx(
            hash=signed.hash,
            nonce=nonce,
            sender=self.address,
            kind=kind,
            key=key,
            action_id=action_id,
            raw=signed.raw,
            gas=gas,
            max_fee=bid.max_fee,
            tip=bid.tip,
            state=txs.STORED,
            stored_ms=self._clock(),
            stored_block=at.number,
        )
        await self._writer(lambda session: txs.add(session, tx), durable=True)
        self._live.append(tx)
        log.info("tx.stored", session=key.session_id, hash=tx.hash, nonce=nonce, kind=kind, max_fee_wei=bid.max_fee)
        await self._broadcast(tx)  # W2 ends and W3 begins inside

    async def _broadcast(self, tx: Tx) -> None:
        answers = await self._rpc.on_each("eth_sendRawTransaction", (tx.raw,))
        said = {where: _heard(answer) for where, answer in answers}
        if any(word in (None, Refusal.ALREADY_KNOWN) for word in said.values()):
            log.info("tx.sent", session=tx.key.session_id, hash=tx.hash, nonce=tx.nonce, kind=tx.kind)
            await self._store(tx, state=txs.SENT, sent_ms=self._clock())
            return
        # Refused or unheard of everywhere: it stays "stored", counts as broadcast, and is looked up at the next head.
        log.warning(
            "tx.not-accepted", session=tx.key.session_id, hash=tx.hash, said={k: str(v) for k, v in said.items()}
        )

    async def _store(self, tx: Tx, **values: Any) -> None:
        await self._writer(lambda session: txs.change(session, tx.hash, **values))
        tx.state = values.get("state", tx.state)
        tx.mined_block = values.get("mined_block", tx.mined_block)

    async def _alert_once(self, mark: str, name: str, text: str, key: SessionKey) -> None:
        if mark not in self._alerted:
            self._alerted.add(mark)
            await self._hooks.alert(name, text, key)


def ended_in(receipt: dict[str, Any], contract: str) -> list[int]:
    """The ids of the sessions that ended in this transaction, by the contract's own SessionEnded; none if it failed."""
    if receipt.get("status") != "0x1":
        return []
    found = []
    for entry in receipt.get("logs", ()):
        if entry["address"].lower() == contract.lower():
            event = codec.decode(entry["topics"], entry["data"])
            if isinstance(event, codec.SessionEnded):
                found.append(event.session_id)
    return found


def _mined_by(receipt: Any, head: int) -> bool:
    return (
        isinstance(receipt, dict) and receipt.get("blockNumber") is not None and int(receipt["blockNumber"], 16) <= head
    )


def _holds(active: codec.OnChainSession | None, key: SessionKey) -> bool:
    return (
        active is not None
        and active.active
        and (active.id, active.student, active.tutor) == (key.session_id, key.student, key.tutor)
    )


def _why_refused(error: RpcError) -> tuple[str, str]:
    reason = revert_reason(error)
    if reason == "Session not active":
        return "over", reason
    if reason.startswith("Caller is not"):
        return "refused", reason
    return "failed", reason or "the token refuses the payment (it reverts without a reason: paused or frozen?)"


def _heard(answer: Any) -> Refusal | None:
    """None: accepted."""
    return classify(answer) if isinstance(answer, BaseException) else None
