"""The chain above the finalized block: headers that hang together, their logs by hash, the common ancestor.

Promises: `headers` gives consecutive blocks, each the child of the one before, or raises Moved; `rows` gives the logs
of exactly these blocks, whatever the chain does meanwhile. Nothing is stored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.chain import rows as chainrows
from bot.chain.bloom import Bloom
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.follower.news import Moved, number_of
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader, RawLog
from bot.domain.identity import Identity
from bot.store.chain_rows import Rows

ANCESTOR_STEP = 32  # headers compared at a time on the way down to the common ancestor


class Branch:
    """One contract's blocks near the head, from the node that answers."""

    def __init__(self, rpc: Rpc, identity: Identity) -> None:
        self._rpc = rpc
        self._identity = identity
        self._bloom = Bloom(identity.contract)

    async def headers(self, first: int, last: int, latest: RawHeader, parent: str | None) -> list[RawHeader]:
        """The headers from `first` to `last`, the first one a child of `parent` where that is held."""
        numbers = [number for number in range(first, last + 1) if number != number_of(latest)]
        fetched = await self._rpc.headers(numbers) if numbers else []
        found = [header for header in fetched if header is not None]
        if last == number_of(latest):
            found.append(latest)
        if len(found) != last - first + 1:
            raise Moved("a block is missing")
        for number, header in enumerate(found, first):
            if number_of(header) != number or (parent is not None and header.parent_hash != parent):
                raise Moved("a block isn't its parent's child")
            parent = header.hash
        if first == self._identity.deploy_block and found[0].hash != self._identity.deploy_hash:
            raise WrongAnswer(f"the block of deployment {first} isn't the one it was")
        return found

    async def rows(self, headers: Sequence[RawHeader]) -> Rows:
        """What these blocks add."""
        return self.made(headers, await self.logs(headers))

    async def logs(self, headers: Sequence[RawHeader]) -> list[RawLog]:
        """The logs of these blocks. Raises Moved when the node doesn't know one of them."""
        asked = [header for header in headers if self._bloom.may_have_logs(header)]
        if not asked:
            return []
        try:
            answers = await self._rpc.get_logs_of([header.hash for header in asked], self._identity.contract)
        except RpcError as error:
            raise Moved(f"the node doesn't know a block any more: {error}") from None
        return [one for header, answer in zip(asked, answers, strict=True) for one in self.checked(header, answer)]

    def checked(self, header: RawHeader, answer: list[RawLog]) -> list[RawLog]:
        """The answer for this block. Raises WrongAnswer when it is about another one."""
        number = number_of(header)
        chainrows.check(answer, self._identity.contract.lower(), number, number)
        if any(one.block_hash != header.hash for one in answer):
            raise WrongAnswer("the node gave logs of another block")
        if answer:
            self._bloom.saw_logs_in(header)
        return answer

    @staticmethod
    def made(headers: Sequence[RawHeader], logs: Sequence[RawLog]) -> Rows:
        """The rows of these blocks with these logs."""
        blocks = [chainrows.block_row(header) for header in headers]
        return chainrows.rows_of(logs, blocks, {block.number: block.timestamp_s for block in blocks})

    async def ancestor(self, latest: RawHeader, reached: int, held: Mapping[int, str]) -> int:
        """The newest held block that is on the node's branch: `reached` in the ordinary case, -1 when none is."""
        if latest.parent_hash == held[reached]:
            return reached
        below = sorted((number for number in held if number <= number_of(latest)), reverse=True)
        step = 1  # the cursor alone: a gap without a reorg is common, after a restart
        while below:
            numbers, below = below[:step], below[step:]
            step = ANCESTOR_STEP
            for number, header in zip(numbers, await self._rpc.headers(numbers), strict=True):
                if header is None:
                    raise Moved("a block is missing")
                if header.hash == held[number]:
                    return number
        return -1
