"""What is asked for: checks each session, then signs for those that pass.

Promises
 - What leaves rests on one look at the head (`look`), and on nothing older.
 - While the chain works on its answer to a look that was taken ahead, what it is expected to allow is signed and stored
   already. If it allows just that, the bytes leave; else they are dropped before anything else is signed.
 - Nothing is signed for a session while a nonce signed for it may still be used, but for a reorg deeper than
   CONFIRMATIONS; if one brings it back, the second is retracted.
 - The most urgent come first; one that waits doesn't hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from bot.chain import fees
from bot.chain.errors import RpcError
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.funds import Funds
from bot.chain.sender.look import Look, Looks, Seen, Standing, seen_in
from bot.chain.sender.nonces import next_nonce
from bot.chain.sender.outbox import Draft, Outbox
from bot.chain.sender.proof import holds, why_refused
from bot.chain.sender.terms import UNPROVEN, At, Hooks, Outcome, SenderConfig
from bot.domain.facts import SessionKey
from bot.errors import TryAgain
from bot.store import txs
from bot.store.txs import Item, Tx

log = structlog.get_logger("sender")


class Requests:
    def __init__(
        self,
        looks: Looks,
        carrier: Carrier,
        outbox: Outbox,
        funds: Funds,
        config: SenderConfig,
        hooks: Hooks,
        held: Callable[[], set[SessionKey]],
    ) -> None:
        self._looks = looks
        self._carrier = carrier
        self._outbox = outbox
        self._funds = funds
        self._config = config
        self._hooks = hooks
        self._held = held  # by what an earlier key left
        self._failing: set[SessionKey] = set()
        self.open: dict[SessionKey, int] = {}

    @property
    def room(self) -> int:
        """How many transactions may be signed now."""
        return max(0, self._outbox.limit.now - self._outbox.unmined)

    async def expect(self, keys: Sequence[SessionKey], at: At) -> None:
        """These are about to be asked for: looks at them meanwhile. Signs nothing."""
        wanted = self._by_urgency(set(keys) | self.open.keys())[: self.room * self._carrier.most]
        if wanted:
            await self._looks.ahead(wanted, self._pay_wait(wanted), at)

    async def work_off(self, standing: Standing) -> None:
        """Signs for as many as the limit allows; what has to wait stays in `open`: all, where nothing can be ended."""
        tried: set[SessionKey] = set()
        while True:
            keys = (await self._asked(tried))[: self.room * self._carrier.most]
            if not keys or standing.why_not is not None:
                return
            tried.update(keys)
            await self._try(keys, standing)

    async def _asked(self, tried: set[SessionKey]) -> list[SessionKey]:
        """Those that may be signed for now, the most urgent first."""
        # What is signed for already is seen through at its nonce, until that is used beyond a small reorg.
        busy = {item.key for group in self._outbox.groups if not group.deep for item in group.items}
        busy |= self._held()
        found, withdrawn = [], []
        for key, action in self.open.items():
            if key in busy or key in tried:
                continue
            if self._hooks.still_due(key):
                found.append(key)
            else:
                withdrawn.append(Outcome(key, action, "withdrawn", "no longer due"))
        await self._done(withdrawn)
        return self._by_urgency(found)

    def _by_urgency(self, keys: Iterable[SessionKey]) -> list[SessionKey]:
        return sorted(keys, key=self._hooks.urgency, reverse=True)

    def _pay_wait(self, keys: Iterable[SessionKey]) -> list[SessionKey]:
        return [key for key in keys if self._hooks.may_pay_wait(key)]

    async def _try(self, keys: Sequence[SessionKey], standing: Standing) -> None:
        early = await self._signed_early(keys, standing)
        try:
            look = await self._looks.of(keys, self._pay_wait(keys), standing.at)
        except (TryAgain, RpcError):
            await self._drop(early, "signed ahead; the chain gave no answer")
            raise
        passed, done, later = await self._sorted_out(keys, look)
        if early and self._allows(look, passed, early, standing):
            await self._outbox.say(early, new=True)
            signed = passed
        else:
            await self._drop(early, "signed ahead; not wanted by what is known now")
            nonce = next_nonce(standing.nonce, look.pending, self._outbox.live)
            drafts = await self._drafts(passed, standing, nonce, done)
            if drafts:  # W1 until they are stored
                await self._outbox.send(drafts, standing)
            signed = [item for draft in drafts for item in draft.items]
        for item in signed:
            self.open.pop(item.key, None)
        await self._done(done)
        if later is not None:
            raise later

    async def _signed_early(self, keys: Sequence[SessionKey], standing: Standing) -> list[Tx]:
        """Signs and stores what a look that is under way is expected to allow: all of these, and no foreign nonce."""
        if not self._looks.under_way(keys, standing.at):
            return []
        items = [Item(key, self.open[key]) for key in keys]
        nonce = next_nonce(standing.nonce, [standing.pending], self._outbox.live)
        drafts = await self._drafts(items, standing, nonce, [])
        if [item for draft in drafts for item in draft.items] != items:
            return []
        try:
            return await self._outbox.store(drafts, standing)  # W1 until then
        except TryAgain as error:  # it is signed for again when the chain has answered
            log.info("settle.not-signed-early", reason=str(error)[:200])
            return []

    def _allows(self, look: Look, passed: Sequence[Item], early: Sequence[Tx], standing: Standing) -> bool:
        """Does the answer ask for what was signed early, at the nonces that would be taken now?"""
        same = list(passed) == [item for tx in early for item in tx.items]
        others = [tx for tx in self._outbox.live if tx not in early]
        return same and early[0].nonce == next_nonce(standing.nonce, look.pending, others)

    async def _drop(self, early: Sequence[Tx], why: str) -> None:
        if early:
            await self._outbox.drop(early, why)

    async def _sorted_out(
        self, keys: Sequence[SessionKey], look: Look
    ) -> tuple[list[Item], list[Outcome], Exception | None]:
        """Those that pass, what came of others, and why some can't be told yet."""
        passed: list[Item] = []
        done: list[Outcome] = []
        later: Exception | None = None
        for key in keys:
            action, seen = self.open.get(key), look.seen[key]
            if action is None or not self._hooks.still_due(key):
                continue  # it changed meanwhile, and is asked about again
            if seen.broken is not None:  # this one waits; the others behind it don't
                log.warning("settle.later", session=key.session_id, reason=str(seen.broken)[:200])
                later = seen.broken
                continue
            outcome = await self._why_not(key, action, seen, look.payers.get(key))
            if outcome is None:
                passed.append(Item(key, action))
            else:
                done.append(outcome)
        return passed, done, later

    async def _drafts(self, passed: Sequence[Item], standing: Standing, nonce: int, done: list[Outcome]) -> list[Draft]:
        """The transactions for these, as many as there is room for: who bids the same shares one."""
        purse, room = await self._funds.purse(standing.balance), self.room
        drafts: list[Draft] = []
        for item in passed:
            bid = fees.first_bid(standing.market.bid(self._hooks.urgency(item.key)), self._config.caps)
            joins = bool(drafts) and drafts[-1].bid == bid and len(drafts[-1].items) < self._carrier.most
            if not joins and len(drafts) == room:
                break
            before = drafts[-1].items if joins else ()
            gas = self._carrier.gas(len(before) + 1) - self._carrier.gas(len(before))
            refusal = await self._funds.refuses(purse, gas, bid, item.key)
            if refusal:
                done.append(Outcome(*item, "refused", refusal))
            elif refusal is None:
                draft = Draft((*before, item), txs.SETTLE, nonce + len(drafts) - joins, bid)
                drafts[len(drafts) - joins :] = [draft]
        return drafts

    async def _why_not(self, key: SessionKey, action: int, seen: Seen, payer: str | None) -> Outcome | None:
        """What the chain says against it; None when it says nothing."""
        if not holds(seen.active, key):
            return Outcome(key, action, "over", "not the tutor's active session at the newest block")
        if payer is not None and self._hooks.may_pay_wait(key):
            await self._hooks.paying(key, payer)
            return Outcome(key, action, "waiting", f"{payer} is paying")
        if seen.refused is not None:
            outcome, reason = why_refused(seen.refused)
            return Outcome(key, action, outcome, reason)
        return None

    async def _done(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        for one in outcomes:
            self.open.pop(one.key, None)
            log.info("settle.not-sent", session=one.key.session_id, outcome=one.outcome, reason=one.reason)
        await self._hooks.report(outcomes)

    # Set aside ------------------------------------------------------------------------------------------------------

    async def probe(self, at: At) -> None:
        """Looks whether the end of a session that was set aside would succeed now, or fail for another reason.

        Signs nothing, nor does what follows while it reverts: with another reason it is tried, and set aside with that.
        """
        aside = list(self._hooks.set_aside())
        if not aside:
            return
        answers = await self._looks.pinned([call for key, _ in aside for call in self._looks.calls(key, at)])
        for (key, reason), seen in zip(aside, seen_in(answers), strict=True):
            if seen.broken is not None:
                continue
            if seen.refused is not None:
                self._failing.add(key)
                outcome, other = why_refused(seen.refused)
                if outcome == "failed" and other != reason and not reason.startswith(UNPROVEN):
                    log.info("settle.reason-changed", session=key.session_id, was=reason, reason=other)
                    await self._hooks.cured(key, other)
            # One that failed when mined, though it had been simulated, is no better for another simulation.
            elif holds(seen.active, key) and (not reason.startswith(UNPROVEN) or key in self._failing):
                self._failing.discard(key)
                log.info("settle.cured", session=key.session_id)
                await self._hooks.cured(key)
