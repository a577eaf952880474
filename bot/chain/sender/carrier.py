"""How sessions become a transaction, and what its receipt says of each.

    direct    the owner's key calls LangDAO's `endSession(tutor)`: one session each
    guarded   the keeper's key calls the owner's account, whose code is the settlement guard: many in one (`guarded`)

Promises: the rest of the sender asks here and nowhere else which of the two it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from bot.chain import codec
from bot.chain.sender.terms import At
from bot.domain.address import Address
from bot.domain.facts import SessionKey


class Call(NamedTuple):
    """What is called, and with how much gas at most."""

    to: Address
    data: str
    gas: int


class Carrier(Protocol):
    @property
    def mode(self) -> str: ...

    @property
    def caller(self) -> Address:
        """Whom LangDAO sees, in either mode its owner."""
        ...

    @property
    def most(self) -> int:
        """Sessions in one transaction."""
        ...

    def gas(self, count: int) -> int:
        """The limit of a transaction for so many; 0 for none."""
        ...

    def call(self, keys: Sequence[SessionKey]) -> Call: ...

    def checks(self, at: At) -> list[tuple[str, Sequence[Any]]]:
        """What has to be asked about this head before anything is signed at it."""
        ...

    async def why_not(self, at: At, answers: Sequence[Any]) -> str | None:
        """Why nothing can be ended now, by the answers to `checks`; None if it can."""
        ...


class Direct:
    """`endSession(tutor)`, by the owner's own key."""

    mode = "direct"
    most = 1

    def __init__(self, langdao: Address, owner: Address, gas_limit: int) -> None:
        self._langdao = langdao
        self._gas_limit = gas_limit
        self.caller = owner

    def gas(self, count: int) -> int:
        return count * self._gas_limit

    def call(self, keys: Sequence[SessionKey]) -> Call:
        (key,) = keys
        return Call(self._langdao, codec.end_session(key.tutor), self._gas_limit)

    def checks(self, at: At) -> list[tuple[str, Sequence[Any]]]:
        return []

    async def why_not(self, at: At, answers: Sequence[Any]) -> str | None:
        return None
