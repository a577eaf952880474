"""Participants' signed words: their shape on the wire, and their way from the bundled backend to the reconciler.

Promises: what carries a statement reaches the reconciler only as `verify` found it true here, whatever the backend
thought of it, and only once, for good. One that doesn't hold is counted and logged as `statement.refused`, and nothing
of it counts; while the node is away it is tried again until it has expired.
Doesn't promise order between statements, nor between them and other hints.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from bot.domain.address import Address, checksum
from bot.domain.facts import Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.statement import MAX_EXPIRES_S, NONCE, Binding, Said, Statement
from bot.errors import TryAgain, Untrue
from bot.feeds import wire
from bot.feeds.wire import Refused

log = structlog.get_logger(__name__)

AGAIN_S = 2.0
MAX_WAITING = 200  # statements under verification at a time
MAX_SIGNATURE_CHARS = 2 + 2 * 4096

_SIGNATURE = re.compile(r"0x([0-9a-fA-F]{2})+")
_KIND = {Said.END: Kind.SETTLE, Said.STILL_HERE: Kind.STILL_HERE}

Verify = Callable[[Statement, str, int], Awaitable[SessionKey]]
Signed = Callable[[Hint, str], Awaitable[bool]]


def statement_of(fields: object, chain_id: int, contract: str, session_id: int) -> Statement:
    """The statement in `{action, address, expires, nonce}`, about this session. Raises Refused."""
    said = wire.measured(fields)
    address = wire.as_address(said.get("address"))
    if address is None:
        raise Refused("bad-address", "address is not an address")
    action = said.get("action")
    if not isinstance(action, str) or action not in tuple(Said):
        raise Refused("bad-action", f"action is none of {', '.join(Said)}")
    return Statement(Said(action), chain_id, contract, session_id, address, *_until_and_nonce(said))


def binding_of(fields: object, chain_id: int, contract: str, address: Address) -> Binding:
    """The binding in `{expires, nonce}`, of a page to this address. Raises Refused."""
    return Binding(chain_id, contract, address, *_until_and_nonce(wire.measured(fields)))


def _until_and_nonce(said: dict[str, Any]) -> tuple[int, str]:
    expires, nonce = said.get("expires"), said.get("nonce")
    if isinstance(expires, bool) or not isinstance(expires, int) or not 0 < expires < MAX_EXPIRES_S:
        raise Refused("bad-expiry", "expires is not a time in whole seconds")
    if not isinstance(nonce, str) or not NONCE.fullmatch(nonce):
        raise Refused("bad-nonce", "nonce is not 0x and 16 to 64 lower-case hex digits")
    return expires, nonce


def signature_of(fields: object) -> str:
    """The signature in `{signature}`: of 65 bytes, or as long as a smart account needs. Raises Refused."""
    signature = wire.measured(fields).get("signature")
    if not isinstance(signature, str) or len(signature) > MAX_SIGNATURE_CHARS or not _SIGNATURE.fullmatch(signature):
        raise Refused("malformed-signature", "signature is not 0x and hex digits, or too long")
    return signature.lower()


def as_fields(statement: Statement) -> dict[str, Any]:
    """The statement as events and the record carry it."""
    return {
        "action": str(statement.action),
        "chainId": statement.chain_id,
        "contract": statement.contract,
        "sessionId": statement.session_id,
        "address": statement.address,
        "expires": statement.expires_s,
        "nonce": statement.nonce,
    }


def from_fields(fields: object) -> Statement:
    """The inverse of `as_fields`. Raises Refused."""
    said = wire.measured(fields)
    contract = checksum(str(said.get("contract")))
    if contract is None:
        raise Refused("bad-statement", "contract is not an address")
    return statement_of(said, _number(said.get("chainId")), contract, _number(said.get("sessionId")))


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= wire.MAX_CHAIN_ID:
        raise Refused("bad-statement", "chainId or sessionId is no id")
    return value


class Statements:
    """Stands behind the bundled backend's socket and record. `counters` has verified, used, refused, lost.

    `take` gets everything that carries no statement. `signed` gets a word that was found true, with the name under
    which it is remembered, and returns whether it was news.
    """

    def __init__(
        self,
        take: Callable[[Hint], None],
        verify: Verify,
        signed: Signed,
        *,
        clock_ms: Callable[[], int],
        again_s: float = AGAIN_S,
    ) -> None:
        self.counters: Counter[str] = Counter(verified=0, used=0, refused=0, lost=0)
        self._take = take
        self._verify = verify
        self._signed = signed
        self._clock_ms = clock_ms
        self._again_s = again_s
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def take(self, hint: Hint) -> None:
        """Takes a hint without waiting."""
        if "statement" not in hint.payload:
            self._take(hint)
            return
        try:
            statement, signature = from_fields(hint.payload["statement"]), signature_of(hint.payload)
        except Refused as refused:
            self._refuse(None, refused.reason, refused.detail)
            return
        mark = f"{statement.mark()} {signature}"
        if mark in self._waiting:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.counters["lost"] += 1
            log.warning("statement.lost", session=statement.session_id, text="too many at once")
            return
        task = asyncio.create_task(self._verified(hint, statement, signature), name=mark[:30])
        self._waiting[mark] = task
        task.add_done_callback(lambda _: self._waiting.pop(mark, None))

    async def _verified(self, hint: Hint, statement: Statement, signature: str) -> None:
        while True:
            try:
                key = await self._verify(statement, signature, self._clock_ms() // 1000)
                break
            except Untrue as untrue:
                self._refuse(statement, untrue.reason, untrue.detail)
                return
            except TryAgain as error:
                log.info("statement.later", session=statement.session_id, reason=str(error))
                await asyncio.sleep(self._again_s)
        news = await self._signed(word(hint, statement, signature, key), statement.mark())
        self.counters["verified" if news else "used"] += 1
        if news:
            log.info("statement.verified", session=key.session_id, action=statement.action, by=statement.address)

    def _refuse(self, statement: Statement | None, reason: str, detail: str) -> None:
        self.counters["refused"] += 1
        session_id = statement.session_id if statement else None
        log.warning("statement.refused", session=session_id, reason=reason, detail=detail)


def word(hint: Hint, statement: Statement, signature: str, key: SessionKey) -> Hint:
    """What a statement that was found true says to the reconciler. Its room is the chain's own name of the session."""
    role = Role.STUDENT if statement.address == key.student else Role.TUTOR
    return Hint(
        kind=_KIND[statement.action],
        source=Source.PARTICIPANT,
        trust=Trust.PROVEN,
        received_ms=hint.received_ms,
        room=str(key.session_id),
        session_id=key.session_id,
        student=key.student,
        tutor=key.tutor,
        role=role if key.student != key.tutor else None,
        payload={"statement": as_fields(statement), "signature": signature, "by": "participant"},
    )
