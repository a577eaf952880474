"""What isn't mined yet: retracted, replaced, said again, or a gap below it filled.

Promises
 - As soon as the session of an unmined settlement isn't the tutor's active one any more, or its end isn't due any more,
   it is retracted: its nonce is used for nothing, whatever that costs within the retraction cap (or, where that was
   lowered since, for the least that replaces it: see `fees`). Each head is a look.
   Where the guard compares the session itself, only what isn't due any more is taken out: the rest is signed anew at
   the same nonce, or, where that can't be priced or mustn't be signed now, all of it is retracted. Which
   of the two it is, the transaction says, and not the mode: the owner's key may have signed it before the account was
   delegated, or after.
 - Of two unmined settlements of one session, which only a deep reorg can bring about, the first goes on.
 - The lowest unmined nonce is the first to be replaced, and bids at least as high as any behind it. At its cap it
   waits, with an alert, as it does when the balance or the day's budget is used up. Nothing is replaced while a nonce
   below is missing or somebody else's.
 - A settlement that no node has taken isn't said where the node has somebody else's at its nonce: it would take that
   one's place. It waits for what becomes of it. If its session is over it is retracted all the same, as any.
 - After a crash each transaction is looked up; later those that may have gone: refused, old, taken back by a reorg, or
   above what the node says is pending.
Doesn't promise that a retraction is in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from bot.chain import codec, envelope, fees
from bot.chain.errors import WrongAnswer
from bot.chain.fees import Fees
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.funds import Funds, Purse
from bot.chain.sender.look import Call, Standing, count
from bot.chain.sender.nonces import Gaps, Group
from bot.chain.sender.outbox import Draft, Outbox
from bot.chain.sender.proof import holds
from bot.chain.sender.terms import At, Hooks, SenderConfig
from bot.domain.facts import SessionKey
from bot.domain.urgency import Urgency
from bot.store import txs
from bot.store.txs import Item, Step, Tx

log = structlog.get_logger("sender")

UNDONE = {"state": txs.SENT, "mined_block": None, "mined_hash": None, "mined_ms": None, "gas_cost": None}


async def undo(outbox: Outbox, groups: Sequence[Group]) -> list[Tx]:
    """These nonces aren't used: what was known as mined there was taken back by a reorg."""
    back = [tx for group in groups for tx in group.txs if tx.state not in (txs.STORED, txs.SENT)]
    for tx in back:
        log.warning("tx.reorged-out", sessions=tx.sessions, hash=tx.hash)
    await outbox.take([Step(tx, "reorged-out", dict(UNDONE)) for tx in back])
    return back


class Unmined:
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
        self._gaps = Gaps(config.replace_after_blocks)
        self._contested: set[int] = set()  # nonces where the node has somebody else's transaction, and none of ours
        self._looked_up = False  # all of them, once in this process

    async def see_through(self, groups: list[Group], standing: Standing) -> None:
        """Does for these what the head asks for."""
        if not groups:
            return
        at, used = standing.at, standing.nonce
        if not self._looked_up:
            self._say_if_dear(groups)
        back = await undo(self._outbox, groups)
        held, unknown, pending = await self._look(groups, at, {tx.nonce for tx in back})
        taken = [g for g in groups if g.nonce < pending and unknown >= {tx.hash for tx in g.txs}]
        self._contested = {group.nonce for group in taken if group.nonce in self._outbox.outbid}
        left_alone = {group.nonce for group in taken if group.unheard_of}
        anew, going = self._sorted_out(groups, held)
        signed = await self._take_out(anew, standing)
        signed |= await self._fill(groups, pending, standing)
        if groups[0].nonce <= used:  # else a nonce below is missing, and no bid helps
            others = [group for group in groups if group.nonce not in signed]
            signed |= await self._replace(others, held, self._contested | left_alone, standing)
        again = [group.newest for group in going if group.nonce not in signed | left_alone]
        await self._outbox.say([tx for tx in again if tx.state == txs.STORED or tx.hash in unknown])

    async def _look(self, groups: Sequence[Group], at: At, back: set[int]) -> tuple[set[SessionKey], set[str], int]:
        """Which sessions are in their tutors' slots; the hashes that the node doesn't know; what it says is pending."""
        newest = [group.newest for group in groups]
        settling = list({item.key: None for tx in newest if tx.kind == txs.SETTLE for item in tx.items})
        slots: list[Call] = [("eth_call", self._langdao.active_call(key.tutor, at.hash)) for key in settling]
        pending_call: Call = ("eth_getTransactionCount", (self._outbox.address, "pending"))
        doubtful = [group for group in groups if group.nonce in back or self._doubtful(group, at)]
        answers = await self._rpc.batch_of([*slots, pending_call, *_lookups(doubtful)])
        pending = count(answers[len(slots)])
        known = dict(zip(_hashes(doubtful), answers[len(slots) + 1 :], strict=True))
        beyond = [group for group in groups if group.nonce >= pending and group not in doubtful]
        known |= dict(zip(_hashes(beyond), await self._rpc.batch_of(_lookups(beyond)), strict=True))
        self._looked_up = True
        held = {key for key, answer in zip(settling, answers, strict=False) if holds(_session(answer), key)}
        return held, {tx_hash for tx_hash, answer in known.items() if answer is None}, pending

    def _doubtful(self, group: Group, at: At) -> bool:
        """Might the node not have it, though it says that something is pending there?"""
        aged = at.number - group.newest.stored_block >= self._config.replace_after_blocks
        refused = group.newest.state == txs.STORED or group.nonce in self._outbox.outbid
        return aged or refused or not self._looked_up

    def _sorted_out(
        self, groups: Sequence[Group], held: set[SessionKey]
    ) -> tuple[list[tuple[Group, tuple[Item, ...]]], list[Group]]:
        """Which have to be signed anew, each with the items that may stay; and which go on as they are."""
        anew, going = [], []
        seen: set[SessionKey] = set()
        for group in groups:
            tx = group.newest
            if tx.kind != txs.SETTLE:
                going.append(group)
                continue
            named = envelope.called(tx.raw) != self._langdao.address.lower()  # compared with the slot as it is mined
            out = {item: why for item in tx.items if (why := self._why_out(item.key, held, seen, named)) is not None}
            seen.update(item.key for item in tx.items)
            if not out:
                going.append(group)
            elif group.nonce not in self._contested:  # else no node has it, and somebody else's is there
                for item, why in out.items():
                    log.warning("tx.retracting", session=item.key.session_id, hash=tx.hash, nonce=tx.nonce, reason=why)
                stay = tuple(item for item in tx.items if item not in out and item.key in held)
                anew.append((group, stay[: self._carrier.most]))
        return anew, going

    def _why_out(self, key: SessionKey, held: set[SessionKey], seen: set[SessionKey], named: bool) -> str | None:
        """Why what is signed for this session mustn't be mined; None if it may, for good or in vain."""
        if key not in held:
            return None if named else "its session isn't the tutor's active one"
        if self._hooks.withdrawn(key):
            return "its end isn't due any more"
        return "its session is signed for at a lower nonce" if key in seen and not named else None

    async def _take_out(self, anew: Sequence[tuple[Group, tuple[Item, ...]]], standing: Standing) -> set[int]:
        """Signs what may stay, and uses the other nonces for nothing: there, an unmined end is a weapon."""
        drafts: list[Draft] = []
        purse = await self._funds.purse(standing.balance) if anew else None
        for group, stay in anew:
            tx = group.newest
            suggested = standing.market.bid(self._urgency(tx))
            caps = self._config.caps
            if stay and standing.why_not is None and all(self._hooks.still_due(item.key) for item in stay):
                bid = fees.replacement(_bid_of(tx), suggested, caps.settle)
                if bid is not None and purse is not None and await self._allowed(purse, group, stay, bid):
                    drafts.append(Draft(stay, txs.SETTLE, tx.nonce, bid))
                    continue
            bid = fees.retraction(_bid_of(tx), suggested, caps)
            drafts.append(Draft(tx.items, txs.RETRACT, tx.nonce, bid))
        return await self._send(drafts, standing)

    async def _fill(self, groups: list[Group], pending: int, standing: Standing) -> set[int]:
        """Fills a missing nonce below ours, when nobody has known a transaction there for long enough."""
        nonce = self._gaps.look(standing.nonce, pending, groups, standing.at.number)
        if nonce is None:
            return set()
        said = await self._rpc.on_each("eth_getTransactionCount", (self._outbox.address, "pending"))
        counts = [int(count, 16) for _, count in said if isinstance(count, str)]
        if len(counts) < len(said) or max(counts) > nonce:
            return set()
        market = standing.market
        cap = fees.settle_cap(market.bid(), self._config.caps)
        wanted = fees.highest(market.bid(), *(_bid_of(group.newest) for group in groups))
        bid = Fees(min(wanted.max_fee, cap), min(wanted.tip, wanted.max_fee, cap))
        log.warning("nonce.filling", nonce=nonce, above=groups[0].nonce)
        return await self._send([Draft((), txs.FILL, nonce, bid)], standing)

    async def _replace(
        self, groups: Sequence[Group], held: set[SessionKey], others: set[int], standing: Standing
    ) -> set[int]:
        """Raises the lowest bid first; those behind it only if their own is too low for the next block."""
        at, market = standing.at, standing.market
        drafts: list[Draft] = []
        purse = await self._funds.purse(standing.balance)
        for number, group in enumerate(groups):
            tx = group.newest
            if group.nonce in others:
                break
            settle = tx.kind == txs.SETTLE
            items = tuple(item for item in tx.items if item.key in held)[: self._carrier.most] if settle else tx.items
            if settle and not all(self._hooks.still_due(item.key) for item in items):
                continue  # e.g. paused: what is there may be mined, nothing new is signed
            if settle and items and standing.why_not is not None:
                continue
            aged = at.number - tx.stored_block >= self._config.replace_after_blocks
            behind = [_bid_of(other.newest) for other in groups[number + 1 :]] if number == 0 else []
            led = any(fees.outbids(bid, _bid_of(tx)) for bid in behind)
            if not aged and not led:
                continue
            if number > 0 and tx.max_fee >= market.floor():
                continue
            suggested = market.bid(self._urgency(tx))
            cap = fees.settle_cap(suggested, self._config.caps) if settle else self._config.caps.retract
            bid = fees.replacement(_bid_of(tx), fees.highest(suggested, *behind), cap)
            if bid is None:
                if aged:
                    await self._at_cap(tx)
                break
            kind = txs.RETRACT if settle and not items else tx.kind  # all of them are over meanwhile
            if kind == txs.SETTLE and not await self._allowed(purse, group, items, bid):
                break
            log.info("tx.replaced", sessions=tx.sessions, hash=tx.hash, nonce=tx.nonce)
            drafts.append(Draft(items or tx.items, kind, tx.nonce, bid))
        return await self._send(drafts, standing)

    async def _allowed(self, purse: Purse, group: Group, items: Sequence[Item], bid: Fees) -> bool:
        """May a settlement of these take this nonce at that bid, by what there is to spend?"""
        more = self._carrier.gas(len(items)) * bid.max_fee - group.most
        return await self._funds.allow(purse, more, group.newest)

    def _say_if_dear(self, groups: Sequence[Group]) -> None:
        """What an earlier process signed may bid more than this one would."""
        caps = self._config.caps
        dear = [tx for group in groups if (tx := group.newest).kind == txs.SETTLE and tx.max_fee > caps.settle]
        if dear:
            highest = max(tx.max_fee for tx in dear)
            log.warning(
                "sender.cap-lowered",
                transactions=len(dear),
                highest_gwei=highest / fees.GWEI,
                text=f"MAX_FEE_GWEI={caps.retract / fees.GWEI:g} is less than these were signed by: they are bid no "
                "higher; to take one back costs an eighth more than it bids. To have them bid more, raise it again",
            )

    async def _send(self, drafts: Sequence[Draft], standing: Standing) -> set[int]:
        if drafts:
            await self._outbox.send(drafts, standing)
        return {draft.nonce for draft in drafts}

    async def _at_cap(self, tx: Tx) -> None:
        text = f"Transaction {tx.hash} for session {_names(tx)} bids its cap and waits: raise MAX_FEE_GWEI, or wait"
        await self._outbox.alert_once(f"cap:{tx.hash}", "alert.fee-cap", text, tx.key)

    def _urgency(self, tx: Tx) -> Urgency:
        return max((self._hooks.urgency(item.key) for item in tx.items), default=Urgency.BILLED)


def _bid_of(tx: Tx) -> Fees:
    return Fees(tx.max_fee, tx.tip)


def _names(tx: Tx) -> str:
    return ", ".join(map(str, tx.sessions)) or "none"


def _session(answer: Any) -> codec.OnChainSession | None:
    try:
        return codec.decode_session(bytes.fromhex(answer[2:]))
    except (ValueError, TypeError):
        raise WrongAnswer("the node's answer about the tutor's slot can't be read") from None


def _hashes(groups: Sequence[Group]) -> list[str]:
    return [tx.hash for group in groups for tx in group.txs]


def _lookups(groups: Sequence[Group]) -> list[Call]:
    return [("eth_getTransactionByHash", (tx_hash,)) for tx_hash in _hashes(groups)]
