"""What is in flight: accounts for every live transaction at every head.

Promises
 - As soon as the session of an unmined settlement isn't the tutor's active one any more, or its end isn't due any more,
   it is retracted: its nonce is used for nothing, whatever that costs within the retraction cap.
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
from bot.chain.sender.nonces import Gaps, Group
from bot.chain.sender.outbox import Draft, Outbox
from bot.chain.sender.proof import ended_in, holds, mined_by
from bot.chain.sender.terms import UNPROVEN, At, Hooks, SenderConfig
from bot.domain.facts import SessionKey
from bot.store import txs
from bot.store.txs import Step, Tx

log = structlog.get_logger("sender")

FINAL_DEPTH = 64  # blocks, where the node has no `finalized` tag
FINAL_EVERY = 8  # blocks between looks at finality
UNDONE = {"state": txs.SENT, "mined_block": None, "mined_hash": None, "gas_cost": None}
SCAN_MOST = 32  # blocks searched for the transaction that took a nonce of ours


class Flight:
    def __init__(self, rpc: Rpc, langdao: LangDAO, outbox: Outbox, config: SenderConfig, hooks: Hooks) -> None:
        self._rpc = rpc
        self._langdao = langdao
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
            log.info("tx.mined", session=mined.key.session_id, hash=mined.hash, block=block, kind=mined.kind)
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
            await self._report_mined(mined, receipt, requested)

    async def _report_mined(self, mined: Tx, receipt: dict[str, Any], requested: dict[SessionKey, int]) -> None:
        key = mined.key
        if mined.kind == txs.FILL:
            return
        action = requested.pop(key, mined.action_id)
        if mined.kind == txs.RETRACT:
            await self._hooks.report(key, action, "retracted", "its end was no longer to be sent", mined.hash)
            return
        ended = ended_in(receipt, self._langdao.address)
        if key.session_id in ended:
            await self._hooks.report(key, action, "settled", None, mined.hash)
        elif ended:
            text = f"endSession for session {key.session_id} ended session {ended[0]} instead ({mined.hash})"
            await self._hooks.alert("alert.wrong-session", text, key)
            await self._hooks.report(key, action, "over", "another session was in the slot", mined.hash)
        else:
            await self._hooks.report(key, action, "failed", UNPROVEN, mined.hash)

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
        if tx.kind != txs.FILL:
            action = requested.pop(tx.key, tx.action_id)
            await self._hooks.report(tx.key, action, "lost", note, tx.hash)

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
            log.warning("tx.reorged-out", session=tx.key.session_id, hash=tx.hash)
        await self._outbox.take([Step(tx, "reorged-out", dict(UNDONE)) for tx in back])
        newest = [group.newest for group in groups]
        settling = [tx for tx in newest if tx.kind == txs.SETTLE]
        slots = [("eth_call", self._langdao.active_call(tx.key.tutor, at.hash)) for tx in settling]
        every = [tx for group in groups for tx in group.txs]
        known = [("eth_getTransactionByHash", (tx.hash,)) for tx in every]
        pending_call = ("eth_getTransactionCount", (self._outbox.address, "pending"))
        answers = await self._ask([*slots, *known, pending_call])
        active = {tx.hash: _session(answer) for tx, answer in zip(settling, answers, strict=False)}
        unknown = {tx.hash for tx, answer in zip(every, answers[len(slots) :], strict=False) if answer is None}
        pending = int(answers[-1], 16)
        self._contested = {
            group.nonce
            for group in groups
            if group.nonce in self._outbox.outbid and group.nonce < pending and unknown >= {tx.hash for tx in group.txs}
        }
        retract, going = self._sorted_out(groups, active)
        signed = await self._retract(retract, at)
        signed |= await self._fill(groups, used, pending, at)
        if groups[0].nonce <= used:  # else a nonce below is missing, and no bid helps
            signed |= await self._replace([group for group in groups if group.nonce not in signed], retract, at)
        again = [group.newest for group in going if group.nonce not in signed]
        await self._outbox.say([tx for tx in again if tx.state == txs.STORED or tx.hash in unknown])

    def _sorted_out(
        self, groups: Sequence[Group], active: dict[str, codec.OnChainSession | None]
    ) -> tuple[list[Group], list[Group]]:
        """Which are to be retracted, and which go on."""
        retract, going = [], []
        seen: set[SessionKey] = set()
        for group in groups:
            tx = group.newest
            if tx.kind != txs.SETTLE:
                going.append(group)
                continue
            why = None
            if not holds(active[tx.hash], tx.key):
                why = "its session isn't the tutor's active one"
            elif self._hooks.withdrawn(tx.key):
                why = "its end isn't due any more"
            elif tx.key in seen:
                why = "its session is signed for at a lower nonce"
            seen.add(tx.key)
            if why is None:
                going.append(group)
            elif group.nonce not in self._contested:  # else no node has it, and somebody else's is there
                log.warning("tx.retracting", session=tx.key.session_id, hash=tx.hash, nonce=tx.nonce, reason=why)
                retract.append(group)
        return retract, going

    async def _retract(self, groups: Sequence[Group], at: At) -> set[int]:
        """Uses these nonces for nothing: an unmined endSession is a weapon against the tutor's next lesson."""
        drafts = []
        for group in groups:
            tx = group.newest
            market = await self._outbox.market(at)
            cap = self._config.caps.retract
            bid = fees.replacement(_bid_of(tx), market.bid(self._hooks.urgency(tx.key)), cap)
            if bid is None:
                await self._at_cap(tx)
            else:
                drafts.append(Draft(tx.key, tx.action_id, txs.RETRACT, tx.nonce, bid))
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
        above = groups[0].newest
        cap = fees.settle_cap(market.bid(), self._config.caps)
        wanted = fees.highest(market.bid(), *(_bid_of(group.newest) for group in groups))
        bid = Fees(min(wanted.max_fee, cap), min(wanted.tip, wanted.max_fee, cap))
        log.warning("nonce.filling", nonce=nonce, above=above.nonce)
        return await self._send([Draft(above.key, above.action_id, txs.FILL, nonce, bid)], at)

    async def _replace(self, groups: Sequence[Group], retract: Sequence[Group], at: At) -> set[int]:
        """Raises the lowest bid first; those behind it only if their own is too low for the next block."""
        drafts = []
        for number, group in enumerate(groups):
            tx = group.newest
            if group.nonce in self._contested:
                break
            if group in retract:
                continue  # couldn't be priced
            settle = tx.kind == txs.SETTLE
            if settle and not self._hooks.still_due(tx.key):
                continue  # e.g. paused: what is there may be mined, nothing new is signed
            aged = at.number - tx.stored_block >= self._config.replace_after_blocks
            behind = [_bid_of(other.newest) for other in groups[number + 1 :]] if number == 0 else []
            led = any(fees.outbids(bid, _bid_of(tx)) for bid in behind)
            if not aged and not led:
                continue
            market = await self._outbox.market(at)
            if number > 0 and tx.max_fee >= market.floor():
                continue
            suggested = market.bid(self._hooks.urgency(tx.key))
            cap = fees.settle_cap(suggested, self._config.caps) if settle else self._config.caps.retract
            bid = fees.replacement(_bid_of(tx), fees.highest(suggested, *behind), cap)
            if bid is None:
                if aged:
                    await self._at_cap(tx)
                break
            log.info("tx.replaced", session=tx.key.session_id, hash=tx.hash, nonce=tx.nonce)
            drafts.append(Draft(tx.key, tx.action_id, tx.kind, tx.nonce, bid))
        return await self._send(drafts, at)

    async def _send(self, drafts: Sequence[Draft], at: At) -> set[int]:
        if drafts:
            await self._outbox.send(drafts, at)
        return {draft.nonce for draft in drafts}

    async def _at_cap(self, tx: Tx) -> None:
        text = (
            f"Transaction {tx.hash} for session {tx.key.session_id} bids its cap and waits: raise MAX_FEE_GWEI, or wait"
        )
        await self._outbox.alert_once(f"cap:{tx.hash}", "alert.fee-cap", text, tx.key)

    async def _ask(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        answers = await self._rpc.batch(calls)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers


def _bid_of(tx: Tx) -> Fees:
    return Fees(tx.max_fee, tx.tip)


def _session(answer: Any) -> codec.OnChainSession | None:
    try:
        return codec.decode_session(bytes.fromhex(answer[2:]))
    except (ValueError, TypeError):
        raise WrongAnswer("the node's answer about the tutor's slot can't be read") from None
