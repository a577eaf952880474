"""Which connection is whose page, and which of them has proved it.

Promises: anybody may bind any address, as documented; a binding is verified only by that address's signature
(`bot.domain.statement.Binding`), used once, on this connection alone. While the chain can't be asked nothing is
used up. One peer may have so many proofs looked at in a minute: each may cost a look at the chain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from bot.domain.address import Address
from bot.errors import TryAgain, Untrue
from bot.feeds.posts import Limiter
from bot.feeds.statements import binding_of, signature_of
from bot.web.gateway.events import Hub
from bot.web.gateway.lessons import Lessons

PROOFS_PER_MINUTE = 30


class Bindings:
    def __init__(self, hub: Hub, lessons: Lessons) -> None:
        self._hub = hub
        self._lessons = lessons
        self._address_of: dict[str, Address] = {}
        self._bound: defaultdict[Address, set[str]] = defaultdict(set)
        self._verified: set[str] = set()
        self._proofs = Limiter(PROOFS_PER_MINUTE)

    def address_of(self, sid: str) -> Address | None:
        return self._address_of.get(sid)

    def pages_of(self, address: Address) -> Iterable[str]:
        return tuple(self._bound.get(address, ()))

    def is_verified(self, sid: str) -> bool:
        return sid in self._verified

    async def verify(self, address: Address, proof: object, peer: str) -> None:
        """That `{expires, nonce, signature}` is this address's word. Raises Refused, Untrue, TryAgain."""
        signature = signature_of(proof)
        if self._proofs.wait_s(peer):
            raise TryAgain("too many signatures came from this network address; send the same one in a minute")
        witness = self._lessons.looked()
        binding = binding_of(proof, await witness.chain_id(), witness.contract, address)
        await witness.verify_binding(binding, signature, self._hub.now_ms() // 1000)
        if not self._hub.used.use(binding.mark(), binding.expires_s * 1000):
            raise Untrue("used", "this signature was used already; sign one with a new nonce")
        await self._hub.kept.flush()

    def bind(self, sid: str, address: Address, *, verified: bool) -> None:
        """Another address than before is another page: what was proved of the first says nothing of it."""
        if self._address_of.get(sid) != address:
            self.unbind(sid)
            self._address_of[sid] = address
            self._bound[address].add(sid)
        if verified:
            self._verified.add(sid)

    def unbind(self, sid: str) -> None:
        self._verified.discard(sid)
        address = self._address_of.pop(sid, None)
        if address is not None:
            self._bound[address].discard(sid)
            if not self._bound[address]:
                del self._bound[address]
