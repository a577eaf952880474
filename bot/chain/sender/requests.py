"""What is asked for: checks each session, then signs for those that pass.

Promises
 - One look, pinned to the head's hash, says all that a signature rests on: the tutor's slot, the call's own outcome,
   the nonce and the balance. An endpoint that lacks that block isn't used.
 - Nothing is signed for a session while a nonce signed for it may still be used, but for a reorg deeper than
   CONFIRMATIONS; if one brings it back, the second is retracted.
 - The most urgent come first; one that waits doesn't hold up the others.
Doesn't promise that the slot can't change after the look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from bot.chain import codec, fees
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.langdao import LangDAO, pinned
from bot.chain.refusals import reverted
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.funds import Funds, Purse
from bot.chain.sender.nonces import next_nonce
from bot.chain.sender.outbox import Draft, Outbox
from bot.chain.sender.proof import holds, why_refused
from bot.chain.sender.terms import UNPROVEN, At, Hooks, SenderConfig
from bot.domain.facts import SessionKey
from bot.store import txs
from bot.store.txs import Item

log = structlog.get_logger("sender")

OTHERS_S = 0.5  # how long the other endpoints may take to say what is pending


@dataclass(frozen=True, slots=True)
class Seen:
    """One session at one block: the tutor's slot, and what the call to end it would do (None: succeed)."""

    active: codec.OnChainSession | None
    refused: RpcError | None
    broken: Exception | None = None  # the node couldn't say


@dataclass(frozen=True, slots=True)
class Look:
    """The chain's answer at one block: all that signatures need."""

    seen: list[Seen]
    nonce: int
    pending: list[int]
    balance: int
    why_not: str | None  # nothing can be ended now


class Requests:
    def __init__(
        self,
        rpc: Rpc,
        langdao: LangDAO,
        carrier: Carrier,
        outbox: Outbox,
        funds: Funds,
        config: SenderConfig,
        hooks: Hooks,
    ) -> None:
        self._rpc = rpc
        self._langdao = langdao
        self._carrier = carrier
        self._outbox = outbox
        self._funds = funds
        self._config = config
        self._hooks = hooks
        self._failing: set[SessionKey] = set()
        self.open: dict[SessionKey, int] = {}

    async def work_off(self, at: At) -> None:
        """Signs for as many as the limit allows; what has to wait stays in `open`."""
        tried: set[SessionKey] = set()
        while True:
            keys = [key for key in await self._asked(tried) if key not in tried]
            room = self._outbox.limit.now - self._outbox.unmined
            keys = keys[: max(0, room) * self._carrier.most]
            if not keys:
                return
            tried.update(keys)
            await self._try(keys, at, room)

    async def _asked(self, tried: set[SessionKey]) -> list[SessionKey]:
        """Those that may be signed for now, the most urgent first."""
        # What is signed for already is seen through at its nonce, until that is used beyond a small reorg.
        busy = {item.key for group in self._outbox.groups if not group.deep for item in group.items}
        found = []
        for key, action in list(self.open.items()):
            if key in busy or key in tried:
                continue
            if self._hooks.still_due(key):
                found.append(key)
            else:
                await self._done(key, action, "withdrawn", "no longer due")
        return sorted(found, key=self._hooks.urgency, reverse=True)

    async def _try(self, keys: Sequence[SessionKey], at: At, room: int) -> None:
        look, payers, market = await asyncio.gather(self._look(keys, at), self._payers(keys), self._outbox.market(at))
        if not await self._can_end(look.why_not):
            return
        passed: list[Item] = []
        later: Exception | None = None
        for key, seen in zip(keys, look.seen, strict=True):
            action = self.open.get(key)
            if action is None or not self._hooks.still_due(key):
                continue  # it changed meanwhile, and is asked about again
            if seen.broken is not None:  # this one waits; the others behind it don't
                log.warning("settle.later", session=key.session_id, reason=str(seen.broken)[:200])
                later = seen.broken
                continue
            if not holds(seen.active, key):
                await self._done(key, action, "over", "not the tutor's active session at the newest block")
                continue
            payer = payers.get(key)
            if payer is not None:
                await self._hooks.paying(key, payer)
                await self._done(key, action, "waiting", f"{payer} is paying")
                continue
            if seen.refused is not None:
                await self._done(key, action, *why_refused(seen.refused))
                continue
            passed.append(Item(key, action))
        purse = await self._funds.purse(look.balance)
        nonce = next_nonce(look.nonce, look.pending, self._outbox.live)
        drafts = await self._drafts(passed, purse, market, nonce, room)
        if drafts:  # W1 until they are stored
            await self._outbox.send(drafts, at)
            for draft in drafts:
                for item in draft.items:
                    self.open.pop(item.key, None)
        if later is not None:
            raise later

    async def _drafts(
        self, passed: Sequence[Item], purse: Purse, market: fees.Market, nonce: int, room: int
    ) -> list[Draft]:
        """The transactions for these, as many as there is room for: sessions of one urgency share one."""
        drafts: list[Draft] = []
        for item in passed:
            bid = fees.first_bid(market.bid(self._hooks.urgency(item.key)), self._config.caps)
            joins = bool(drafts) and drafts[-1].bid == bid and len(drafts[-1].items) < self._carrier.most
            if not joins and len(drafts) == room:
                break
            before = drafts[-1].items if joins else ()
            gas = self._carrier.gas(len(before) + 1) - self._carrier.gas(len(before))
            refusal = await self._funds.refuses(purse, gas, bid, item.key)
            if refusal:
                await self._done(*item, "refused", refusal)
            elif refusal is None:
                draft = Draft((*before, item), txs.SETTLE, nonce + len(drafts) - joins, bid)
                drafts[len(drafts) - joins :] = [draft]
        return drafts

    async def _can_end(self, why_not: str | None) -> bool:
        """Whether anything can be ended now; if not, everything stays open and is looked at again at the next head."""
        if why_not is None:
            self._outbox.gone("delegation")
            return True
        log.warning("settle.later", reason=why_not)
        await self._outbox.alert_once("delegation", "alert.delegation", why_not, None)
        return False

    async def _payers(self, keys: Sequence[SessionKey]) -> dict[SessionKey, str]:
        """For whom a participant's own endSession waits in the node's pool; one question for all."""
        asking = [key for key in keys if self._hooks.may_pay_wait(key)]
        if not asking:
            return {}
        ends = await self._langdao.pending_ends()
        return {key: who for key in asking for who in (key.student, key.tutor) if (who, key.tutor) in ends}

    # Looking --------------------------------------------------------------------------------------------------------

    async def _look(self, keys: Sequence[SessionKey], at: At) -> Look:
        me, here = self._outbox.address, pinned(at.hash)
        calls: list[tuple[str, Sequence[Any]]] = [
            ("eth_getTransactionCount", (me, here)),
            ("eth_getTransactionCount", (me, "pending")),
            ("eth_getBalance", (me, here)),
        ]
        checks = self._carrier.checks(at)
        calls += checks
        for key in keys:
            calls += self._calls(key, at)
        answers, others = await asyncio.gather(self._pinned(calls), self._pending_elsewhere())
        for answer in answers[:3]:
            if isinstance(answer, RpcError):
                raise answer
        try:
            nonce, pending, balance = (int(answer, 16) for answer in answers[:3])
        except (ValueError, TypeError):
            raise WrongAnswer("the node's answers to the look before signing can't be read") from None
        seen = 3 + len(checks)
        why_not = await self._carrier.why_not(at, answers[3:seen] if checks else None)
        return Look(_seen(answers[seen:]), nonce, [pending, *others], balance, why_not)

    async def _pinned(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The answers; what the first endpoint can't say, as it lacks the block, is asked of all."""
        answers = await self._rpc.batch(calls)
        for number, answer in enumerate(answers):
            if isinstance(answer, RpcError) and not reverted(answer):
                method, params = calls[number]
                said = [one for _, one in await self._rpc.on_each(method, params)]
                better = [one for one in said if isinstance(one, str) or (isinstance(one, RpcError) and reverted(one))]
                answers[number] = better[0] if better else answer
        return answers

    def _calls(self, key: SessionKey, at: At) -> list[tuple[str, Sequence[Any]]]:
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

    async def _pending_elsewhere(self) -> list[int]:
        """What the endpoints say is pending, of those that answer soon: another may know what the first doesn't."""
        try:
            said = await asyncio.wait_for(
                self._rpc.on_each("eth_getTransactionCount", (self._outbox.address, "pending")), OTHERS_S
            )
        except TimeoutError:
            return []
        return [int(count, 16) for _, count in said if isinstance(count, str)]

    async def _done(self, key: SessionKey, action_id: int, outcome: str, reason: str) -> None:
        self.open.pop(key, None)
        log.info("settle.not-sent", session=key.session_id, outcome=outcome, reason=reason)
        await self._hooks.report(key, action_id, outcome, reason, None)

    # Set aside ------------------------------------------------------------------------------------------------------

    async def probe(self, at: At) -> None:
        """Looks whether the end of a session that was set aside would succeed now. Signs nothing."""
        aside = list(self._hooks.set_aside())
        if not aside:
            return
        answers = await self._pinned([call for key, _ in aside for call in self._calls(key, at)])
        for (key, reason), seen in zip(aside, _seen(answers), strict=True):
            if seen.broken is not None:
                continue
            if seen.refused is not None:
                self._failing.add(key)
            # One that failed when mined, though it had been simulated, is no better for another simulation.
            elif holds(seen.active, key) and (not reason.startswith(UNPROVEN) or key in self._failing):
                self._failing.discard(key)
                log.info("settle.cured", session=key.session_id)
                await self._hooks.cured(key)


def _seen(answers: Sequence[Any]) -> list[Seen]:
    return [_one_seen(slot, simulated) for slot, simulated in zip(answers[::2], answers[1::2], strict=True)]


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
