"""Three channels over the backend's socket: the bundled gateway, an event that a backend relays, `chat:message`.

Promises: only the gateway's acknowledgement, or one of its shape, counts as delivered, and the gateway gives it only
for a page whose address signed for it: what another page took is sent, no more. A participant's own link stands apart
from the rest (`own`), for such a page alone. `chat:message` is broadcast by
the observed backend when its target isn't connected, so it carries nothing that isn't everybody's: no own link.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from bot.domain.address import Address
from bot.errors import TryAgain
from bot.feeds import wire
from bot.nudges.channel import How, Receipt
from bot.nudges.message import Note

ACK_TIMEOUT_S = 8.0


class Line(Protocol):
    """The backend's socket."""

    async def call(self, event: str, message: dict[str, Any], timeout_s: float) -> Any:
        """Says it and returns what was acknowledged, None when nothing was in time. Raises TryAgain: not said."""
        ...

    async def emit(self, event: str, message: dict[str, Any]) -> None:
        """Says it. Raises TryAgain."""
        ...


class Gateway:
    """The bundled backend's sockets: a page that proved to be the participant's acknowledges."""

    name = "gateway"
    private = True
    repeatable = True  # a page knows a nudge by its id

    def __init__(self, line: Line, timeout_s: float = ACK_TIMEOUT_S) -> None:
        self._line = line
        self._timeout_s = timeout_s

    def reaches(self, to: Address) -> bool:
        return True

    async def send(self, note: Note) -> Receipt:
        answer = await self._line.call(wire.NUDGE, _apart(note), self._timeout_s)
        receipt = acknowledged(answer, note.to)
        if receipt is None:
            raise TryAgain("the backend gave no answer")
        return receipt


class Event:
    """An event of the operator's choice, to a backend of which they say that it relays it.

    One that answers as the gateway does is believed; of one that doesn't answer, nothing is known.
    """

    name = "event"
    private = False
    repeatable = True

    def __init__(self, line: Line, event: str, timeout_s: float = ACK_TIMEOUT_S) -> None:
        self._line = line
        self._event = event
        self._timeout_s = timeout_s

    def reaches(self, to: Address) -> bool:
        return True

    async def send(self, note: Note) -> Receipt:
        answer = await self._line.call(self._event, note.payload(), self._timeout_s)
        return acknowledged(answer, note.to) or Receipt(How.SENT)


class Chat:
    """`chat:message` to the participant, who may not be there: then everybody gets it."""

    name = "chat"
    private = False
    repeatable = False

    def __init__(self, line: Line, sender: Address) -> None:
        self._line = line
        self._sender = sender

    def reaches(self, to: Address) -> bool:
        return True

    async def send(self, note: Note) -> Receipt:
        message = note.message
        said = {
            "sessionId": message.room or str(message.key.session_id),
            "senderAddress": self._sender,
            "message": note.text,
            "timestamp": note.now_ms,
            "targetAddress": note.to,
        }
        await self._line.emit(wire.CHAT, said)
        return Receipt(How.SENT)


def acknowledged(answer: object, to: Address) -> Receipt | None:
    """What `{"delivered": […], "unverified": […], "undelivered": {address: reason}}` says of an address.

    None when it says nothing. Whoever took it unverified may be anybody who knows the address.
    """
    if not isinstance(answer, dict):
        return None
    for name, how in (("delivered", How.DELIVERED), ("unverified", How.SENT)):
        named = answer.get(name)
        if isinstance(named, list) and to in map(wire.as_address, named):
            return Receipt(how)
    missed = answer.get("undelivered")
    if isinstance(missed, dict):
        for address, why in missed.items():
            if wire.as_address(address) == to:
                return Receipt(How.MISSED, str(why)[:100])
    return None


def _apart(note: Note) -> dict[str, Any]:
    """The note without the participant's own link, and under `own` what is different with it."""
    open_to_all, whole = replace(note, link=None).payload(), note.payload()
    own = {name: value for name, value in whole.items() if value != open_to_all[name]}
    return open_to_all | ({"own": own} if own else {})
