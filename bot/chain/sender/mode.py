"""Which mode a key works in: `direct` with the owner's key, `guarded` through the owner's account.

Promises: a key that can end nothing is refused in one line that says why and what to do; what is chosen is what the
chain says now, not what it was at the last start.
"""

from __future__ import annotations

from bot.chain.guard import Delegation, delegation
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Carrier, Direct
from bot.chain.sender.guarded import Guarded
from bot.domain.address import Address
from bot.errors import Misconfigured


async def carrier_for(
    rpc: Rpc, langdao: LangDAO, owner: Address, key: Address, *, source: str, gas_limit: int
) -> Carrier:
    """How this key ends sessions. Raises Misconfigured when it can't; `source` names its setting."""
    seen = await delegation(rpc, owner)
    if seen.admits(key, langdao.address):  # the owner's own key as well: the guard names sessions, a bare call doesn't
        return Guarded(rpc, langdao.address, seen, key, gas_limit)
    if key == owner:
        return Direct(langdao.address, owner, gas_limit)
    raise Misconfigured(why_refused(seen, key, langdao.address, source))


def why_refused(seen: Delegation, key: Address, langdao: Address, source: str) -> str:
    """One line about a key that is neither the owner's nor the guard's keeper's."""
    if seen.delegate is None:
        return (
            f"{source} is for {key}, but the owner of {langdao} is {seen.account}; only the owner, student or tutor "
            "may end a session. Use the owner's key, or the guard: docs/guard.md"
        )
    return (
        f"{source} is for {key}, but the owner of {langdao}, {seen.account}, {seen.why_not(key, langdao)}. "
        f"{'Use that key' if seen.langdao == langdao else 'Delegate it to the guard'}: docs/guard.md"
    )
