"""Nonces, and how many may be under way: derived from the chain and from live rows, never counted.

Promises
 - The next nonce is above what any endpoint knows to be pending and above every live row of ours.
 - A gap is named only below an own unmined row, when nobody has known a transaction there for k blocks.
 - `Limit` halves when a node has enough of us and grows again by one for each transaction mined.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bot.store import txs
from bot.store.txs import Item, Tx

_USED = (txs.MINED, txs.CONFIRMED, txs.FINAL)


@dataclass(slots=True)
class Group:
    """All that was signed at one nonce: of these at most one is ever mined. The newest bids most."""

    nonce: int
    txs: list[Tx]

    @property
    def newest(self) -> Tx:
        return self.txs[-1]

    @property
    def items(self) -> list[Item]:
        """Each session that any of these was signed for, once: the newest action counts."""
        return list({item.key: item for tx in self.txs for item in tx.items}.values())

    @property
    def most(self) -> int:
        """What it can cost, in wei."""
        return max(tx.gas * tx.max_fee for tx in self.txs)

    @property
    def mined(self) -> Tx | None:
        return next((tx for tx in self.txs if tx.state in _USED), None)

    @property
    def deep(self) -> bool:
        """Its nonce was used CONFIRMATIONS ago, by ours or by another; a deeper reorg may still undo that."""
        return all(tx.state in (txs.CONFIRMED, txs.REPLACED, txs.LOST) for tx in self.txs)

    @property
    def unheard_of(self) -> bool:
        """A settlement, of which no node has said that it has it."""
        return self.newest.kind == txs.SETTLE and all(tx.state == txs.STORED for tx in self.txs)

    @property
    def unmined(self) -> bool:
        return not self.deep and self.mined is None


def groups_of(live: Iterable[Tx]) -> list[Group]:
    """By nonce."""
    found: dict[int, Group] = {}
    for tx in live:
        found.setdefault(tx.nonce, Group(tx.nonce, [])).txs.append(tx)
    return [found[nonce] for nonce in sorted(found)]


def next_nonce(used: int, pending: Iterable[int], live: Iterable[Tx]) -> int:
    """The lowest nonce that is certainly nobody's."""
    return max([used, *pending, *(tx.nonce + 1 for tx in live)])


@dataclass(slots=True)
class Gaps:
    """Watches the lowest unused nonce while nothing of ours is there but something of ours is above."""

    patience_blocks: int
    _nonce: int | None = None
    _since: int = 0

    def look(self, used: int, pending: int, unmined: list[Group], block: int) -> int | None:
        """The nonce to be filled, if one is. `pending`: the highest that an endpoint says."""
        if not unmined or unmined[0].nonce <= used or pending > used:
            self._nonce = None
            return None
        if self._nonce != used:
            self._nonce, self._since = used, block
        return used if block - self._since >= self.patience_blocks else None


@dataclass(slots=True)
class Limit:
    """How many transactions may be unmined at a time."""

    most: int
    now: int = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.most

    def halve(self) -> None:
        self.now = max(1, self.now // 2)

    def grow(self, mined: int) -> None:
        self.now = min(self.most, self.now + mined)
