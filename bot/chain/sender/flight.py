"""What is in flight: accounts for every live transaction at every head.

Promises
 - Only the receipt of the transaction itself, in a block up to the head, makes it mined; only `SessionEnded` with the
   expected id makes it `settled`.
 - A transaction is watched until its nonce is used in a final block. What a reorg brings back is treated as if it had
   never been mined.
 - What one head says of all of them is stored together, and told together.
Doesn't ask again what can't have changed: a receipt is asked for once its nonce is used, and again only when its block
isn't canonical any more. What isn't mined yet is `unmined`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import structlog

from bot.chain.errors import RpcError
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.sender.look import Call, Standing, count
from bot.chain.sender.nonces import Group
from bot.chain.sender.outbox import Outbox
from bot.chain.sender.proof import ended_in, mined_by, what_came
from bot.chain.sender.terms import At, Hooks, Outcome, SenderConfig
from bot.chain.sender.unmined import UNDONE
from bot.domain.facts import SessionKey
from bot.store import txs
from bot.store.txs import Step, Tx

log = structlog.get_logger("sender")

FINAL_DEPTH = 64  # blocks, where the node has no `finalized` tag
FINAL_EVERY = 8  # blocks between looks at finality
SCAN_MOST = 32  # blocks searched for the transaction that took a nonce of ours


@dataclass(slots=True)
class News:
    """What a head says of live transactions: what is to be stored, then told."""

    steps: list[Step] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    alerts: list[tuple[str, str, SessionKey | None]] = field(default_factory=list)
    mined: list[int] = field(default_factory=list)  # nonces


class SeesThrough(Protocol):
    """What is done about transactions whose nonces aren't used yet."""

    async def see_through(self, groups: list[Group], standing: Standing) -> None: ...


class Flight:
    def __init__(
        self, rpc: Rpc, langdao: LangDAO, outbox: Outbox, config: SenderConfig, hooks: Hooks, unmined: SeesThrough
    ) -> None:
        self._rpc = rpc
        self._langdao = langdao
        self._outbox = outbox
        self._config = config
        self._hooks = hooks
        self._unmined = unmined
        self._final_to = -1
        self._final_looked = -FINAL_EVERY
        self._used_at: tuple[int, int] | None = None  # a head, and our nonce there

    async def watch(self, standing: Standing, requested: dict[SessionKey, int]) -> None:
        """Accounts for every live transaction at this head. `requested` loses those that are answered by it."""
        at, used = standing.at, standing.nonce
        groups = self._outbox.groups
        await self._look_at_finality(at, groups)
        spent = [group for group in groups if group.nonce < used]
        deep = [group for group in spent if group.deep]
        shallow = [group for group in spent if not group.deep]
        await self._finish([g for g in deep if max(tx.mined_block or 0 for tx in g.txs) <= self._final_to])
        news = await self._news(shallow, at)
        await self._tell(news, requested)
        await self._unmined.see_through([group for group in groups if group.nonce >= used], standing)
        self._used_at = (at.number, used)

    # Mined ----------------------------------------------------------------------------------------------------------

    async def _news(self, groups: Sequence[Group], at: At) -> News:
        """What became of these, whose nonces are used."""
        news = News()
        there = await self._still_there(groups)
        receipts = await self._receipts([group for group in groups if group.nonce not in there])
        times = await self._times(receipts.values(), at)
        missing = []
        for group in groups:
            if group.nonce in there:
                self._deeper(group, there[group.nonce], at, news)
            elif (mined := next((tx for tx in group.txs if mined_by(receipts[tx.hash], at.number)), None)) is not None:
                self._was_mined(group, mined, receipts[mined.hash], times, at, news)
            else:
                missing.append(group)
        if missing:
            deep_at = hex(max(0, at.number - self._config.confirmations + 1))
            used_deep = count(await self._rpc.call("eth_getTransactionCount", (self._outbox.address, deep_at)))
            for group in missing:
                if group.nonce < used_deep:
                    await self._was_lost(group, at, news)
                else:
                    log.info("tx.nonce-taken", nonce=group.nonce)  # by a foreign one; a small reorg may still undo it
        return news

    async def _still_there(self, groups: Sequence[Group]) -> dict[int, Tx]:
        """By nonce, those known as mined whose block is still canonical. One question a block, not a transaction."""
        mined = [tx for group in groups if (tx := group.mined) is not None]
        blocks = sorted({tx.mined_block for tx in mined if tx.mined_block is not None})
        if not blocks:
            return {}
        canonical = {header.hash for header in await self._rpc.headers(blocks) if header is not None}
        return {tx.nonce: tx for tx in mined if tx.mined_hash in canonical}

    def _deeper(self, group: Group, mined: Tx, at: At, news: News) -> None:
        """A block or more came on top of it."""
        if mined.mined_block is None or at.number - mined.mined_block + 1 < self._config.confirmations:
            return
        news.steps.append(Step(mined, txs.CONFIRMED, {"state": txs.CONFIRMED}))
        others = [tx for tx in group.txs if tx is not mined]
        news.steps += [Step(tx, txs.REPLACED, {"state": txs.REPLACED}) for tx in others]

    def _was_mined(
        self, group: Group, mined: Tx, receipt: dict[str, Any], times: dict[int, int], at: At, news: News
    ) -> None:
        block = int(receipt["blockNumber"], 16)
        cost = int(receipt["gasUsed"], 16) * int(receipt.get("effectiveGasPrice", "0x0"), 16)
        values = {"mined_block": block, "mined_hash": receipt["blockHash"], "gas_cost": str(cost)}
        values["mined_ms"] = times.get(block)
        log.info("tx.mined", sessions=mined.sessions, hash=mined.hash, block=block, kind=mined.kind)
        news.steps.append(Step(mined, txs.MINED, values | {"state": txs.MINED}))
        others = [tx for tx in group.txs if tx is not mined and tx.state in (txs.MINED, txs.CONFIRMED)]
        news.steps += [Step(tx, "reorged-out", dict(UNDONE)) for tx in others]  # a reorg took the other one
        if at.number - block + 1 >= self._config.confirmations:
            news.steps.append(Step(mined, txs.CONFIRMED, values | {"state": txs.CONFIRMED}))
            others = [tx for tx in group.txs if tx is not mined]
            news.steps += [Step(tx, txs.REPLACED, {"state": txs.REPLACED}) for tx in others]
        news.mined.append(mined.nonce)
        self._say_what_it_did(group, mined, receipt, news)

    def _say_what_it_did(self, group: Group, mined: Tx, receipt: dict[str, Any], news: News) -> None:
        sent = mined.items if mined.kind == txs.SETTLE else ()
        for number in ended_in(receipt, self._langdao.address):
            if sent and number not in mined.sessions:
                text = f"endSession for session {mined.sessions[0]} ended session {number} instead ({mined.hash})"
                news.alerts.append(("alert.wrong-session", text, mined.key))
        came = {one.item.key: one for one in what_came(receipt, sent, self._langdao.address)}
        for item in group.items:
            one = came.get(item.key)
            outcome, reason = (one.outcome, one.reason) if one else ("retracted", "its end was no longer to be sent")
            news.outcomes.append(Outcome(*item, outcome, reason, mined.hash))

    async def _was_lost(self, group: Group, at: At, news: News) -> None:
        by = await self._who_took(group, at)
        note = f"nonce used by {by or 'another sender'}"
        # `mined_block` is the block at which this was known: when it is final, so is the loss.
        values = {"state": txs.LOST, "mined_block": at.number, "mined_hash": None, "note": note}
        news.steps += [Step(tx, txs.LOST, values) for tx in group.txs]
        self._outbox.outbid.discard(group.nonce)
        tx = group.newest
        text = (
            f"Nonce {tx.nonce} of {tx.sender} was used by a transaction that isn't ours"
            f"{f' ({by})' if by else ''}: another program has its key"
        )
        news.alerts.append(("alert.foreign-nonce", text, tx.key))
        news.outcomes += [Outcome(*item, "lost", note, tx.hash) for item in group.items]

    async def _tell(self, news: News, requested: dict[SessionKey, int]) -> None:
        await self._outbox.take(news.steps)  # W4 until here; then W5 until it is reported, and W7 until it is final
        self._outbox.limit.grow(len(news.mined))
        self._outbox.outbid.difference_update(news.mined)
        for name, text, key in news.alerts:
            await self._hooks.alert(name, text, key)
        if news.outcomes:
            # A session that was asked for again meanwhile is answered by this.
            told = [replace(one, action_id=requested.pop(one.key, one.action_id)) for one in news.outcomes]
            await self._hooks.report(told)

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

    # Final ----------------------------------------------------------------------------------------------------------

    async def _finish(self, groups: Sequence[Group]) -> None:
        """Their nonces are used in final blocks: nothing brings them back."""
        receipts = await self._receipts(groups)
        steps = []
        for group in groups:
            mined = next((tx for tx in group.txs if mined_by(receipts[tx.hash], self._final_to)), None)
            if mined is None and any(receipts[tx.hash] for tx in group.txs):
                continue  # mined anew further up, by a deep reorg
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

    async def _receipts(self, groups: Sequence[Group]) -> dict[str, Any]:
        """By hash, of all that was signed at these nonces; None where there is none."""
        hashes = [tx.hash for group in groups for tx in group.txs]
        calls: list[Call] = [("eth_getTransactionReceipt", (tx_hash,)) for tx_hash in hashes]
        return dict(zip(hashes, await self._rpc.batch_of(calls), strict=True))

    async def _times(self, receipts: Iterable[Any], at: At) -> dict[int, int]:
        """The times, in ms, of the blocks that these receipts are of."""
        blocks = sorted({int(one["blockNumber"], 16) for one in receipts if mined_by(one, at.number)})
        headers = await self._rpc.headers(blocks) if blocks else []
        return {int(one.number, 16): int(one.timestamp, 16) * 1000 for one in headers if one is not None}
