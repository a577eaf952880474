"""What the chain and the mappings say against a word that anybody could have sent, before it is taken.

Promises: a session that doesn't exist on chain, an end by somebody who isn't in it, addresses that aren't its own are
`Untrue`, and nothing changes. What can't be checked, because the room isn't on chain yet or the chain can't be asked,
is accepted as the hint that it is, and `why` says so. Doesn't promise that what was checked is true: anybody can say
a participant's address.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from bot.chain.codec import OnChainSession
from bot.domain.address import Address, same
from bot.domain.facts import Hint, Kind
from bot.errors import TryAgain, Untrue
from bot.feeds import wire
from bot.web.gateway.events import Hub
from bot.web.gateway.lessons import Lessons


class Taken(NamedTuple):
    """What became of a request. `why` it wasn't verified, None when it was."""

    why: str | None


class Checked(NamedTuple):
    hint: Hint
    session: OnChainSession | None
    why: str | None


class Checks:
    def __init__(self, hub: Hub, lessons: Lessons) -> None:
        self._hub = hub
        self._lessons = lessons

    async def take(self, hint: Hint) -> Taken:
        """Takes a message that anybody could have sent. Raises Untrue."""
        by = wire.as_address(hint.payload.get("userAddress")) or wire.as_address(hint.payload.get("endedBy"))
        checked = await self.of(hint, by if hint.kind is Kind.ENDED else None)
        await self._hub.take(checked.hint)
        return Taken(checked.why)

    async def of(self, hint: Hint, by: Address | None) -> Checked:
        """The hint with its session's addresses, where it is on chain. `by` says who ends it."""
        student, tutor = await self._hub.people(str(hint.room))
        session, why = None, "no session of this room is known on chain"
        try:
            if hint.session_id is not None:
                session = await self._lessons.session(hint.session_id)
                if session is None and student is None and tutor is None:
                    raise Untrue("no-such-session", "no session has this id on chain")
            elif student is not None and tutor is not None:
                session = await self._lessons.of(student, tutor)
        except TryAgain as error:
            why = str(error)
        if session is not None:
            student, tutor = session.student, session.tutor
            if not (same(hint.student, student) and same(hint.tutor, tutor)):
                raise Untrue("not-a-participant", "the addresses aren't this session's")
        people = {student, tutor} - {None}
        if by is not None and people and by not in people:
            raise Untrue("not-a-participant", "userAddress is not a participant of this session")
        if session is None:
            return Checked(hint, None, why)
        return Checked(replace(hint, student=student, tutor=tutor), session, None)
