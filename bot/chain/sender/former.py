"""What earlier keys of this keeper left under way, after the key was changed, e.g. from direct to guarded mode.

Promises
 - It is watched, reported and stored as if its key were here, until its nonce is used in a final block.
 - While any endpoint knows an unmined one, its sessions are signed for by no other key: it may end them any moment, and
   one of direct mode would end the tutor's next lesson once they are over. An endpoint that doesn't answer counts by
   what it said last; one that has said nothing yet is waited for, REPLACE_AFTER_BLOCKS long. So long
   it counts for the day's budget too, at the most that it can cost: from the start on, before it was looked at.
 - Nothing of it is said to a node again, and nothing is signed in its place: only its own key could take it back.
   After REPLACE_AFTER_BLOCKS, `alert.former-key` says so.
Doesn't promise that one that no node knows is gone for good: whoever kept its bytes can send them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from bot.chain.errors import RpcError
from bot.chain.langdao import LangDAO, pinned
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.flight import Flight
from bot.chain.sender.look import Call, Standing, count
from bot.chain.sender.nonces import Group
from bot.chain.sender.outbox import Outbox
from bot.chain.sender.terms import Hooks, SenderConfig
from bot.chain.sender.unmined import undo
from bot.chain.signer import Signed
from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.errors import KeeperError, TryAgain
from bot.store import txs
from bot.store.db import Writer

log = structlog.get_logger("sender")


class Former:
    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        langdao: LangDAO,
        carrier: Carrier,
        config: SenderConfig,
        hooks: Hooks,
        clock_ms: Callable[[], int],
    ) -> None:
        self._rpc = rpc
        self._writer = writer
        self._langdao = langdao
        self._given = (carrier, config, hooks, clock_ms)
        self._keys: list[_FormerKey] = []

    @property
    def held(self) -> set[SessionKey]:
        """Sessions that may still be ended by what an earlier key signed."""
        return {key for one in self._keys for key in one.left.held}

    @property
    def under_way_wei(self) -> int:
        """The most that what may still be mined can cost."""
        return sum(one.left.wei for one in self._keys)

    async def load(self, address: Address) -> None:
        """Reads what others than this key left."""
        live = await self._writer(lambda session: txs.live_of_others(session, address))
        self._keys = []  # it may be read again, where the first look at the chain failed
        for sender in sorted({tx.sender for tx in live}):
            mine = [tx for tx in live if tx.sender == sender]
            log.info("sender.former-key", sender=sender, transactions=len(mine))
            one = _FormerKey(self._rpc, self._writer, self._langdao, sender, *self._given)
            one.outbox.live = mine
            one.left.wei = sum(group.most for group in one.outbox.groups if group.unmined)
            self._keys.append(one)

    async def watch(self, standing: Standing, requested: dict[SessionKey, int]) -> None:
        """Accounts for all of it at this head. `requested` loses those that are answered by it."""
        for one in self._keys:
            here = ("eth_getTransactionCount", (one.outbox.address, pinned(standing.at.hash)))
            [used] = await self._rpc.batch_of([here])
            theirs = Standing(standing.at, count(used), 0, standing.market, "its key isn't here")
            await one.flight.watch(theirs, requested)
            # Used, but not beyond a small reorg.
            shallow = [group for group in one.outbox.groups if group.nonce < theirs.nonce and not group.deep]
            one.left.held |= {item.key for group in shallow for item in group.items}
        self._keys = [one for one in self._keys if one.outbox.live]


class _FormerKey:
    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        langdao: LangDAO,
        address: Address,
        carrier: Carrier,
        config: SenderConfig,
        hooks: Hooks,
        clock_ms: Callable[[], int],
    ) -> None:
        self.outbox = Outbox(rpc, writer, carrier, _Absent(address), config, hooks, clock_ms)
        self.left = _Left(rpc, self.outbox, config)
        self.flight = Flight(rpc, langdao, self.outbox, config, hooks, self.left)


class _Left:
    """In the place of `Unmined`: looks, and does nothing."""

    def __init__(self, rpc: Rpc, outbox: Outbox, config: SenderConfig) -> None:
        self._rpc = rpc
        self._outbox = outbox
        self._config = config
        self._since: dict[int, int] = {}  # nonce → the block at which it was first seen unmined
        self._known: dict[str, dict[int, bool]] = {}  # hash → endpoint → whether it had it when it answered last
        self.held: set[SessionKey] = set()
        self.wei = 0

    async def see_through(self, groups: Sequence[Group], standing: Standing) -> None:
        await undo(self._outbox, groups)
        await self._ask([tx.hash for group in groups for tx in group.txs])
        self.held, self.wei = set(), 0  # and not before: until it is known anew, what was known counts
        for group in groups:
            since = self._since.setdefault(group.nonce, standing.at.number)
            aged = standing.at.number - since >= self._config.replace_after_blocks
            said = [self._known[tx.hash] for tx in group.txs]
            known = any(had for one in said for had in one.values())
            if known or (not aged and any(len(one) < self._rpc.count for one in said)):
                self.held.update(item.key for item in group.items)
                self.wei += group.most
            if known and aged:
                await self._tell(group)

    async def _ask(self, hashes: Sequence[str]) -> None:
        """Asks every endpoint for these."""
        calls: list[Call] = [("eth_getTransactionByHash", (tx_hash,)) for tx_hash in hashes]
        self._known = {tx_hash: self._known.get(tx_hash, {}) for tx_hash in hashes}
        for place, answers in await self._rpc.each_as(Any, calls):
            if not isinstance(answers, KeeperError):
                for tx_hash, answer in zip(hashes, answers, strict=True):
                    if not isinstance(answer, RpcError):
                        self._known[tx_hash][place] = answer is not None

    async def _tell(self, group: Group) -> None:
        tx = group.newest
        about = ", ".join(str(item.key.session_id) for item in group.items)
        text = (
            f"Transaction {tx.hash} of {tx.sender}, an earlier key of this keeper, isn't mined, and can't be replaced "
            f"or taken back without that key. Session {about or 'none'} waits for it. Start the keeper with that key "
            f"until it is over, or use its nonce {tx.nonce} for something else"
        )
        await self._outbox.alert_once(f"former:{tx.hash}", "alert.former-key", text, tx.key)


class _Absent:
    """The signer of a key that isn't here."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def sign(self, transaction: dict[str, Any]) -> Signed:
        raise TryAgain(f"the key of {self.address} isn't here")

    async def close(self) -> None:
        """Nothing is open."""
