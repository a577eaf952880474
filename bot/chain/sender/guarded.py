"""Guarded mode: the owner's account runs the settlement guard (EIP-7702) and is called by the keeper's own key.

Promises
 - Before anything is signed, the account's delegation and the guard's code are read at the hash of the newest block. A
   call to a plain account would succeed and do nothing: where the code isn't the guard's for this key and this
   LangDAO, nothing is signed.
 - A transaction stays below the limit of one (EIP-7825), and below a quarter of a block. Its limit is more than it
   uses, and has to find room whole: what is larger leaves more of a block empty than it saves in gas.
 - Each item may burn GAS_LIMIT, and the last one still finds the gas that the guard asks for. Where some burn the
   guard's whole cap, those that the gas doesn't reach are decided anew.
Doesn't promise that the account is still delegated when the transaction is mined: then it does nothing, and only
SessionEnded counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.chain import guard, guard_codec
from bot.chain.guard import Delegation
from bot.chain.langdao import pinned
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Call
from bot.chain.sender.terms import At
from bot.domain.address import Address
from bot.domain.facts import SessionKey

TX_GAS = 2**24  # the most that a transaction may have (EIP-7825)
BLOCK_GAS = 30_000_000  # until a block has said its own limit


class Guarded:
    mode = "guarded"

    def __init__(self, rpc: Rpc, langdao: Address, seen: Delegation, key: Address, gas_limit: int) -> None:
        self._rpc = rpc
        self._langdao = langdao
        self._key = key
        self._delegate = seen.delegate
        self._gas_limit = gas_limit
        self._block_gas = BLOCK_GAS
        self.caller = seen.account

    @property
    def most(self) -> int:
        return guard_codec.most_within(min(TX_GAS, self._block_gas // 4), self._gas_limit)

    def gas(self, count: int) -> int:
        return guard_codec.gas_limit(count, self._gas_limit)

    def call(self, keys: Sequence[SessionKey]) -> Call:
        return Call(self.caller, guard_codec.settle(keys), self.gas(len(keys)))

    def checks(self, at: At) -> list[tuple[str, Sequence[Any]]]:
        here = pinned(at.hash)
        return [
            ("eth_getCode", (self.caller, here)),
            ("eth_getCode", (self._delegate or self.caller, here)),
            ("eth_getBlockByHash", (at.hash, False)),
        ]

    async def why_not(self, at: At, answers: Sequence[Any]) -> str | None:
        account, known, block = answers
        if isinstance(block, dict) and block.get("gasLimit"):
            self._block_gas = int(block["gasLimit"], 16)
        seen = guard.read(self.caller, guard.code_in(account), guard.code_in(known))
        if seen.delegate not in (None, self._delegate):
            seen = await guard.delegation(self._rpc, self.caller, at.hash)  # another one: its code wasn't asked for
        self._delegate = seen.delegate or self._delegate
        if seen.admits(self._key, self._langdao):
            return None
        return (
            f"LangDAO's owner {self.caller} {seen.why_not(self._key, self._langdao)}: nothing is signed until it "
            "delegates to the guard for this keeper again (ape run delegate, docs/guard.md)"
        )
