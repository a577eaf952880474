"""What is in flight: accounts for every live transaction at every head.

Promises
 - As soon as the session of an unmined settlement isn't the tutor's active one any more, or its end isn't due any more,
   it is retracted: its nonce is used for nothing, whatever that costs within the retraction cap. Where the guard
   compares the session itself, only what isn't due any more is taken out: the rest is signed anew at the same nonce,
   or, where that can't be priced, all of it is retracted.
 - Only the receipt of the transaction itself, in a block up to the head, makes it mined; only `SessionEnded` with the
   expected id makes it `settled`.
 - A transaction is watched until its nonce is used in a final block. What a deep reorg brings back is treated as if it
   had never been mined, and of two unmined settlements of one session only the first goes on.
 - The lowest unmined nonce is the first to be replaced, and bids at least as high as any behind it. At its cap it
   waits, with an alert. Nothing is replaced while a nonce below is missing or somebody else's.
Doesn't promise that a retraction is in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from bot.chain import codec, fees
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.fees import Fees
from bot.chain.langdao import LangDAO, pinned
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.nonces import Gaps, Group
from bot.chain.sender.outbox import Draft, Outbox
from bot.chain.sender.proof import ended_in, holds, mined_by, what_came
from bot.chain.sender.terms import At, Hooks, SenderConfig
from bot.domain.facts import SessionKey
from bot.domain.urgency import Urgency
from bot.store import txs
from bot.store.txs import Item, Step, Tx

log = structlog.get_logger("sender")

FINAL_DEPTH = 64  # blocks, where the node has no `finalized` tag
FINAL_EVERY = 8  # blocks between looks at finality
UNDONE = {"state": txs.SENT, "mined_block": None, "mined_hash": None, "gas_cost": None}
SCAN_MOST = 32  # blocks searched for the transaction that took a nonce of ours


class Flight:
    def __init__(
        self, rpc: Rpc, langdao: LangDAO, carrier: Carrier, outbox: Outbox, config: SenderConfig, hooks: Hooks
    ) -> None:
        self._rpc = rpc
        self._langdao = langdao
        self._carrier = carrier
        self._outbox = outbox
        self._config = config
        self._hooks = hooks
        self._gaps = Gaps(config.replace_after_blocks)
        self._final_to = -1
        self._final_looked = -FINAL_EVERY
        self._contested: set[int] = set()  # nonces where the node has somebody else's transaction, and none of ours
        self._used_at: tuple[int, int] | None = None  # a head, and our nonce there

    async def watch(self, at: At, requested: dict[SessionKey, int]) -> None:
        """Accounts for every live transaction at this head. `requested` loses those that are answered by it."""
        groups = self._outbox.groups
        await self._look_at_finality(at, groups)
        final = [g for g in groups if g.deep and max(tx.mined_block or 0 for tx in g.txs) <= self._final_to]
        shallow = [g for g in groups if not g.deep]
        asked = [tx for group in (*shallow, *final) for tx in group.txs]
        deep_at = hex(max(0, at.number - self._config.confirmations + 1))
        answers = await self._ask(
            [
                ("eth_getTransactionCount", (self._outbox.address, deep_at)),
                ("eth_getTransactionCount", (self._outbox.address, pinned(at.hash))),
                *(("eth_getTransactionReceipt", (tx.hash,)) for tx in asked),
            ]
        )
        used_deep, used = int(answers[0], 16), int(answers[1], 16)
        receipts = dict(zip([tx.hash for tx in asked], answers[2:], strict=True))
        unmined: list[Group] = []
        for group in groups:
            if group.deep and group.nonce < used:
                if group in final:
                    await self._was_final(group, receipts)
                continue
            mined = next((tx for tx in group.txs if mined_by(receipts.get(tx.hash), at.number)), None)
            if mined is not None:
                await self._was_mined(group, mined, receipts[mined.hash], at, requested)
            elif group.nonce < used_deep:
                await self._was_lost(group, at, requested)
            elif group.nonce >= used:
                unmined.append(group)
            else:
                log.info("tx.nonce-taken", nonce=group.nonce)  # by a foreign one, which a small reorg may still undo
        await self._unmined(unmined, used, at)
        self._used_at = (at.number, used)

    # Mined ----------------------------------------------------------------------------------------------------------

    async def _was_mined(
        self, group: Group, mined: Tx, receipt: dict[str, Any], at: At, requested: dict[SessionKey, int]
    ) -> None:
        block = int(receipt["blockNumber"], 16)
        first = mined.state not in (txs.MINED, txs.CONFIRMED) or mined.mined_block != block
        deep = at.number - block + 1 >= self._config.confirmations
        cost = int(receipt["gasUsed"], 16) * int(receipt.get("effectiveGasPrice", "0x0"), 16)
        values = {"mined_block": block, "mined_hash": receipt["blockHash"], "gas_cost": str(cost)}
        steps = []
        if first:
            log.info("tx.mined", sessions=mined.sessions, hash=mined.hash, block=block, kind=mined.kind)
            steps.append(Step(mined, txs.MINED, values | {"state": txs.MINED}))
            others = [tx for tx in group.txs if tx is not mined and tx.state in (txs.MINED, txs.CONFIRMED)]
            steps += [Step(tx, "reorged-out", dict(UNDONE)) for tx in others]  # a reorg took the other one
        if deep:
            steps.append(Step(mined, txs.CONFIRMED, values | {"state": txs.CONFIRMED}))
            others = [tx for tx in group.txs if tx is not mined]
            steps += [Step(tx, txs.REPLACED, {"state": txs.REPLACED}) for tx in others]
        await self._outbox.take(steps)  # W4 until here; then W5 until it is reported, and W7 until it is final
        if first:
            self._outbox.limit.grow(1)
            self._outbox.outbid.discard(mined.nonce)
            await self._report_mined(group, mined, receipt, requested)

    async def _report_mined(
        self, group: Group, mined: Tx, receipt: dict[str, Any], requested: dict[SessionKey, int]
    ) -> None:
        sent = mined.items if mined.kind == txs.SETTLE else ()
        for number in ended_in(receipt, self._langdao.address):
            if sent and number not in mined.sessions:
                text = f"endSession for session {mined.sessions[0]} ended session {number} instead ({mined.hash})"
                await self._hooks.alert("alert.wrong-session", text, mined.key)
        came = {one.item.key: one for one in what_came(receipt, sent, self._langdao.address)}
        for item in group.items:
            action = requested.pop(item.key, item.action_id)
            one = came.get(item.key)
            outcome, reason = (one.outcome, one.reason) if one else ("retracted", "its end was no longer to be sent")
            await self._hooks.report(item.key, action, outcome, reason, mined.hash)

    async def _was_lost(self, group: Group, at: At, requested: dict[SessionKey, int]) -> None:
        by = await self._who_took(group, at)
        note = f"nonce used by {by or 'another sender'}"
        # `mined_block` is the block at which this was known: when it is final, so is the loss.
        values = {"state": txs.LOST, "mined_block": at.number, "mined_hash": None, "note": note}
        await self._outbox.take([Step(tx, txs.LOST, values) for tx in group.txs])
        self._outbox.outbid.discard(group.nonce)
        tx = group.newest
        text = (
            f"Nonce {tx.nonce} of {tx.sender} was used by a transaction that isn't ours"
            f"{f' ({by})' if by else ''}: another program has its key"
        )
        await self._hooks.alert("alert.foreign-nonce", text, tx.key)
        for item in group.items:
            action = requested.pop(item.key, item.action_id)
            await self._hooks.report(item.key, action, "lost", note, tx.hash)

    async def _who_took(self, group: Group, at: At) -> str | None:
        """The hash of the foreign transaction at this nonce, if it is in one of the last blocks."""
        first = max(group.txs[0].stored_block, at.number - SCAN_MOST)
        if self._used_at is not None and self._used_at[1] <= group.nonce:
            first = max(first, self._used_at[0])
        calls = [("eth_getBlockByNumber", (hex(number), True)) for number in range(at.number, first - 1, -1)]
        for block in await self._rpc.batch(calls):
            for one in block.get("transactions", ()) if isinstance(block, dict) else ():
                if one["from"].lower() == self._outbox.address.lower() and int(one["nonce"], 16) == group.nonce:
                    return str(one["hash"])
        return None

    async def _was_final(self, group: Group, receipts: dict[str, Any]) -> None:
        """Its nonce is used in a final block: nothing brings it back."""
        mined = next((tx for tx in group.txs if mined_by(receipts.get(tx.hash), self._final_to)), None)
        if mined is None and any(receipts.get(tx.hash) for tx in group.txs):
            return  # mined anew further up, by a deep reorg
        steps = []
        for tx in group.txs:
            state = txs.FINAL if tx is mined else txs.LOST if mined is None else txs.REPLACED
            steps.append(Step(tx, state if state != tx.state else None, {"state": state, "closed": True}))
        await self._outbox.take(steps)

    async def _look_at_finality(self, at: At, groups: Sequence[Group]) -> None:
        if at.number - self._final_looked < FINAL_EVERY or not any(group.deep for group in groups):
            return
        self._final_looked = at.number
        try:
            header = await self._rpc.header("finalized")
            final_to = int(header.number, 16) if header is not None else -1
        except RpcError:
            final_to = at.number - FINAL_DEPTH
        self._final_to = max(self._final_to, min(final_to, at.number))

    # Unmined --------------------------------------------------------------------------------------------------------

    async def _unmined(self, groups: list[Group], used: int, at: At) -> None:
        if not groups:
            return
        back = [tx for group in groups for tx in group.txs if tx.state not in (txs.STORED, txs.SENT)]
        for tx in back:
            log.warning("tx.reorged-out", sessions=tx.sessions, hash=tx.hash)
        await self._outbox.take([Step(tx, "reorged-out", dict(UNDONE)) for tx in back])
        newest = [group.newest for group in groups]
        settling = list({item.key: 1 for tx in newest if tx.kind == txs.SETTLE for item in tx.items})
        slots = [("eth_call", self._langdao.active_call(key.tutor, at.hash)) for key in settling]
        every = [tx for group in groups for tx in group.txs]
        known = [("eth_getTransactionByHash", (tx.hash,)) for tx in every]
        pending_call = ("eth_getTransactionCount", (self._outbox.address, "pending"))
        answers = await self._ask([*slots, *known, pending_call])
        held = {key for key, answer in zip(settling, answers, strict=False) if holds(_session(answer), key)}
        unknown = {tx.hash for tx, answer in zip(every, answers[len(slots) :], strict=False) if answer is None}
        pending = int(answers[-1], 16)
        self._contested = {
            group.nonce
            for group in groups
            if group.nonce in self._outbox.outbid and group.nonce < pending and unknown >= {tx.hash for tx in group.txs}
        }
        rest, going = self._sorted_out(groups, held)
        signed = await self._take_out(rest, at)
        signed |= await self._fill(groups, used, pending, at)
        if groups[0].nonce <= used:  # else a nonce below is missing, and no bid helps
            open_ones = [group for group in groups if group.nonce not in signed]
            signed |= await self._replace(open_ones, held, {group.nonce for group, _ in rest}, at)
        again = [group.newest for group in going if group.nonce not in signed]
        await self._outbox.say([tx for tx in again if tx.state == txs.STORED or tx.hash in unknown])

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
            out = {item: why for item in tx.items if (why := self._why_out(item.key, held, seen)) is not None}
            seen.update(item.key for item in tx.items)
            if not out:
                going.append(group)
            elif group.nonce not in self._contested:  # else no node has it, and somebody else's is there
                for item, why in out.items():
                    log.warning("tx.retracting", session=item.key.session_id, hash=tx.hash, nonce=tx.nonce, reason=why)
                stay = tuple(item for item in tx.items if item not in out and item.key in held)
                anew.append((group, stay))
        return anew, going

    def _why_out(self, key: SessionKey, held: set[SessionKey], seen: set[SessionKey]) -> str | None:
        """Why what is signed for this session mustn't be mined; None if it may, for good or in vain."""
        names = self._carrier.names_sessions
        if key not in held:
            return None if names else "its session isn't the tutor's active one"
        if self._hooks.withdrawn(key):
            return "its end isn't due any more"
        return "its session is signed for at a lower nonce" if key in seen and not names else None

    async def _take_out(self, anew: Sequence[tuple[Group, tuple[Item, ...]]], at: At) -> set[int]:
        """Signs what may stay, and uses the other nonces for nothing: there, an unmined end is a weapon."""
        drafts = []
        for group, stay in anew:
            tx = group.newest
            suggested = (await self._outbox.market(at)).bid(self._urgency(tx))
            caps = self._config.caps
            if stay and await self._carrier.why_not(at) is None:
                bid = fees.replacement(_bid_of(tx), suggested, caps.settle)
                if bid is not None:
                    drafts.append(Draft(stay, txs.SETTLE, tx.nonce, bid))
                    continue
            bid = fees.replacement(_bid_of(tx), suggested, caps.retract)
            if bid is None:
                await self._at_cap(tx)
            else:
                drafts.append(Draft(tx.items, txs.RETRACT, tx.nonce, bid))
        return await self._send(drafts, at)

    async def _fill(self, groups: list[Group], used: int, pending: int, at: At) -> set[int]:
        """Fills a missing nonce below ours, when nobody has known a transaction there for long enough."""
        nonce = self._gaps.look(used, pending, groups, at.number)
        if nonce is None:
            return set()
        said = await self._rpc.on_each("eth_getTransactionCount", (self._outbox.address, "pending"))
        counts = [int(count, 16) for _, count in said if isinstance(count, str)]
        if len(counts) < len(said) or max(counts) > nonce:
            return set()
        market = await self._outbox.market(at)
        cap = fees.settle_cap(market.bid(), self._config.caps)
        wanted = fees.highest(market.bid(), *(_bid_of(group.newest) for group in groups))
        bid = Fees(min(wanted.max_fee, cap), min(wanted.tip, wanted.max_fee, cap))
        log.warning("nonce.filling", nonce=nonce, above=groups[0].nonce)
        return await self._send([Draft((), txs.FILL, nonce, bid)], at)

    async def _replace(self, groups: Sequence[Group], held: set[SessionKey], stuck: set[int], at: At) -> set[int]:
        """Raises the lowest bid first; those behind it only if their own is too low for the next block."""
        drafts = []
        for number, group in enumerate(groups):
            tx = group.newest
            if group.nonce in self._contested:
                break
            if group.nonce in stuck:
                continue  # couldn't be priced
            settle = tx.kind == txs.SETTLE
            items = tuple(item for item in tx.items if item.key in held) if settle else tx.items
            if settle and not all(self._hooks.still_due(item.key) for item in items):
                continue  # e.g. paused: what is there may be mined, nothing new is signed
            if settle and items and await self._carrier.why_not(at) is not None:
                continue
            aged = at.number - tx.stored_block >= self._config.replace_after_blocks
            behind = [_bid_of(other.newest) for other in groups[number + 1 :]] if number == 0 else []
            led = any(fees.outbids(bid, _bid_of(tx)) for bid in behind)
            if not aged and not led:
                continue
            market = await self._outbox.market(at)
            if number > 0 and tx.max_fee >= market.floor():
                continue
            suggested = market.bid(self._urgency(tx))
            cap = fees.settle_cap(suggested, self._config.caps) if settle else self._config.caps.retract
            bid = fees.replacement(_bid_of(tx), fees.highest(suggested, *behind), cap)
            if bid is None:
                if aged:
                    await self._at_cap(tx)
                break
            log.info("tx.replaced", sessions=tx.sessions, hash=tx.hash, nonce=tx.nonce)
            kind = txs.RETRACT if settle and not items else tx.kind  # all of them are over meanwhile
            drafts.append(Draft(items or tx.items, kind, tx.nonce, bid))
        return await self._send(drafts, at)

    async def _send(self, drafts: Sequence[Draft], at: At) -> set[int]:
        if drafts:
            await self._outbox.send(drafts, at)
        return {draft.nonce for draft in drafts}

    async def _at_cap(self, tx: Tx) -> None:
        text = f"Transaction {tx.hash} for session {_names(tx)} bids its cap and waits: raise MAX_FEE_GWEI, or wait"
        await self._outbox.alert_once(f"cap:{tx.hash}", "alert.fee-cap", text, tx.key)

    def _urgency(self, tx: Tx) -> Urgency:
        return max((self._hooks.urgency(item.key) for item in tx.items), default=Urgency.BILLED)

    async def _ask(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        answers = await self._rpc.batch(calls)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers


def _bid_of(tx: Tx) -> Fees:
    return Fees(tx.max_fee, tx.tip)


def _names(tx: Tx) -> str:
    return ", ".join(map(str, tx.sessions)) or "none"


def _session(answer: Any) -> codec.OnChainSession | None:
    try:
        return codec.decode_session(bytes.fromhex(answer[2:]))
    except (ValueError, TypeError):
        raise WrongAnswer("the node's answer about the tutor's slot can't be read") from None
