"""What each of several nodes holds, compared.

Promises: `strays` names the nodes that contradict the index, or lag far behind, as long as another one that is as far
along agrees with it: only then is it their fault and not a reorg. `second_look` finds what a node left out of
a block that it knew: by asking every node again, by block hash where ranges disagree.
Doesn't promise to know which of two nodes at the same height is right: what the index has stays until one is longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bot.chain.errors import RpcError
from bot.chain.follower.news import number_of
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader, RawLog
from bot.domain.address import Address

LAG_BLOCKS = 3  # a node so far behind the best one is asked last
Place = tuple[int, int]  # block number, log index


class _Seen(NamedTuple):
    place: int
    head: int
    agrees: bool | None  # with the index, at the highest block of both; None: that can't be told


class Disagreement(NamedTuple):
    """Of one block, by its hash: what a node gave and the index doesn't have, or the other way round."""

    endpoint: str
    number: int
    hash: str
    more: int  # logs that the index hasn't
    fewer: int  # logs that the node left out


class Witnesses:
    """All endpoints of an `Rpc`, each asked the same."""

    def __init__(self, rpc: Rpc, contract: Address) -> None:
        self._rpc = rpc
        self._contract = contract

    @property
    def several(self) -> bool:
        return self._rpc.count > 1

    async def strays(self, held: Mapping[int, str]) -> set[int]:
        """The nodes that contradict the blocks in `held` although one as far along agrees with them; and the laggards.

        Empty when the longest branch of all is another one: that is a reorg.
        """
        seen = await self._see(held)
        agreeing = max((one.head for one in seen if one.agrees), default=-1)
        contradicting = max((one.head for one in seen if one.agrees is False), default=-1)
        best = max(agreeing, contradicting)
        late = {one.place for one in seen if one.head < best - LAG_BLOCKS}
        if contradicting > agreeing:
            return late - {one.place for one in seen if one.agrees is False}
        return late | {one.place for one in seen if one.agrees is False}

    async def _see(self, held: Mapping[int, str]) -> list[_Seen]:
        newest = max(held)
        calls = [("eth_getBlockByNumber", (at, False)) for at in ("latest", hex(newest))]
        seen = []
        for place, answer in await self._rpc.each_as(RawHeader | None, calls):
            if isinstance(answer, Exception) or not isinstance(answer[0], RawHeader):
                continue
            latest, there = answer
            head = number_of(latest)
            at, block_hash = head, latest.hash
            if head > newest:
                at, block_hash = newest, there.hash if isinstance(there, RawHeader) else ""
            seen.append(_Seen(place, head, held[at] == block_hash if at in held and block_hash else None))
        return seen

    # The second look

    async def second_look(
        self, held: Mapping[int, str], ours: Mapping[Place, str]
    ) -> tuple[list[Disagreement], dict[int, list[RawLog]]]:
        """Asks every node for the logs of the blocks in `held` (number to hash).

        `ours`: the hash of the transaction of each log that the index has there. Gives the disagreements about blocks
        with the same hash, and of the blocks in which the index lacks logs the fullest answer.
        """
        first, last = min(held), max(held)
        where = {"fromBlock": hex(first), "toBlock": hex(last), "address": self._contract}
        found: list[Disagreement] = []
        fuller: dict[int, list[RawLog]] = {}
        for place, answer in await self._rpc.each_as(list[RawLog], [("eth_getLogs", (where,))]):
            if isinstance(answer, Exception) or isinstance(answer[0], RpcError):
                continue
            theirs = {_place(one): one.transaction_hash for one in answer[0]}
            suspects = {number for (number, _), _ in theirs.items() ^ ours.items()}
            for number in sorted(suspects & held.keys()):
                said = await self._said_of(place, held[number])
                if said is None:
                    continue  # that node is on another branch, or doesn't say
                there = {_place(one) for one in said}
                here = {at for at in ours if at[0] == number}
                if there == here:
                    continue
                more, fewer = len(there - here), len(here - there)
                found.append(Disagreement(self._rpc.name(place), number, held[number], more, fewer))
                if more and len(said) > len(fuller.get(number, ())):
                    fuller[number] = said
        return found, fuller

    async def _said_of(self, place: int, block_hash: str) -> list[RawLog] | None:
        calls = [("eth_getLogs", ({"blockHash": block_hash, "address": self._contract},))]
        ((_, answer),) = await self._rpc.each_as(list[RawLog], calls, only=place)
        if isinstance(answer, Exception) or isinstance(answer[0], RpcError):
            return None
        said: list[RawLog] = answer[0]
        return said if all(one.block_hash == block_hash for one in said) else None


def _place(one: RawLog) -> Place:
    return int(one.block_number, 16), int(one.log_index, 16)
