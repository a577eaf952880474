"""The owner's account on the chain: whom it delegates to, and whether that is the settlement guard.

Promises: what is said of a delegation is said of one block; a guard is one only if its code is the guard's, byte for
byte, with the keeper and the LangDAO that it was made for. Doesn't promise that it is so a block later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.guard_code import TRANSFER_GAS, delegate_of, immutables_of
from bot.chain.langdao import Block, pinned
from bot.chain.rpc import Rpc
from bot.domain.address import Address

# What a delegation does to the owner's account, which is also the backend's.
EFFECTS = (
    "Public pools take one pending transaction of it at a time: a backend that sends several at once will see "
    "`in-flight transaction limit reached` or the like for all but the first.",
    f"Transfers to it need {TRANSFER_GAS:,} gas. Whoever sends with a limit of 21,000 fails, contracts' `transfer` "
    "included.",
    "Calls to it with data, which a plain account takes and ignores, revert.",
)


@dataclass(frozen=True, slots=True)
class Delegation:
    """What an account runs. `delegate` None: nothing, or code of its own (`is_contract`)."""

    account: Address
    delegate: Address | None = None
    keeper: Address | None = None  # of the guard that it delegates to; None if that is no guard
    langdao: Address | None = None
    is_contract: bool = False

    def admits(self, key: Address, langdao: Address) -> bool:
        """May this key end sessions of this LangDAO through it?"""
        return self.langdao == langdao and key in (self.keeper, self.account)

    def why_not(self, key: Address, langdao: Address) -> str:
        """What is wrong with it for this key and LangDAO, as the end of a sentence about the account."""
        if self.delegate is None:
            return "is a contract of its own" if self.is_contract else "delegates to nobody"
        if self.keeper is None:
            return f"delegates to {self.delegate}, which isn't the settlement guard"
        if self.langdao != langdao:
            return f"delegates to a guard for the LangDAO at {self.langdao}"
        return f"delegates to a guard for the keeper {self.keeper}, not {key}"


async def delegation(rpc: Rpc, account: Address, at: Block = "latest") -> Delegation:
    """Reads it, in one or two requests."""
    code = code_in(await rpc.call("eth_getCode", (account, pinned(at))))
    delegate = delegate_of(code)
    guard = code_in(await rpc.call("eth_getCode", (delegate, pinned(at)))) if delegate else b""
    return read(account, code, guard)


def read(account: Address, code: bytes, delegates_code: bytes) -> Delegation:
    """From the account's code, and that of whom it delegates to."""
    delegate = delegate_of(code)
    if delegate is None:
        return Delegation(account, is_contract=bool(code))
    keeper, langdao = immutables_of(delegates_code) or (None, None)
    return Delegation(account, delegate, keeper, langdao)


def code_in(answer: Any) -> bytes:
    """The code that a node answered with. Raises RpcError, WrongAnswer."""
    if isinstance(answer, RpcError):
        raise answer
    try:
        return bytes.fromhex(answer[2:])
    except (ValueError, TypeError):
        raise WrongAnswer("the node's answer about an account's code can't be read") from None
