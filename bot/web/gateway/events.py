"""From what the gateway is told to what it tells everybody.

Promises: each accepted message changes its room, is kept over a restart, and is emitted with the trust it came with,
addresses filled in where the room's are known. Heartbeats are coalesced per room; a series that stops is reported once,
until life returns. A lost connection is told at once, and once more when the grace is over; what was silent while
nobody listened counts from the start. The keeper has a grace of its own and doesn't hear the second word.
Doesn't promise that anybody listened. The record, `GET /api/sessions`, is for those who didn't.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import structlog

from bot.domain.address import Address
from bot.domain.facts import Hint, Kind, Role, SessionKey, Trust
from bot.feeds import wire
from bot.web.gateway.config import GatewayConfig
from bot.web.gateway.kept import Collection, Kept, Shelf
from bot.web.gateway.mappings import Mapping, Mappings
from bot.web.gateway.room import Room, Seen
from bot.web.gateway.state import Rooms
from bot.web.gateway.used import Used

log = structlog.get_logger(__name__)

Emit = Callable[[str, dict[str, Any]], Awaitable[None]]

LOOK_AGAIN_MS = 5_000
MAX_TICK_S = 1.0
STALL_MS = 5_000
PRUNE_EVERY_MS = 60_000


class Hub:
    """The one place where rooms change and events go out. `emit` sends to all connected clients."""

    def __init__(
        self, config: GatewayConfig, emit: Emit, shelf: Shelf | None = None, more: Iterable[Collection] = ()
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.rooms = Rooms()
        self.mappings = Mappings(config.redis_url, config.clock_ms)
        self.used = Used()
        self.kept = Kept(shelf, [self.rooms, self.mappings, self.used, *more], config.clock_ms)
        self._config = config
        self._emit_all = emit
        self._looked_ms: dict[str, int] = {}
        self._every_ms = round(config.heartbeat_every_s * 1000)
        self._timeout_ms = round(config.heartbeat_timeout_s * 1000)
        self._grace_ms = round(config.disconnect_grace_s * 1000)

    def now_ms(self) -> int:
        return self._config.clock_ms()

    async def take(self, hint: Hint) -> None:
        """Takes a message of the signalling server, or one that pretends to be."""
        hint = await self._with_addresses(hint)
        self.counters[hint.kind] += 1
        if hint.kind is Kind.ENDED:
            ended_by = wire.as_word(hint.payload.get("endedBy")) or hint.role or "user"
            reason = wire.as_word(hint.payload.get("reason")) or "ended"
            self.rooms.apply(hint, ended_by=ended_by, reason=reason)
            await self.kept.flush()
            await self._emit(wire.SESSION_ENDED, hint, {**_addresses(hint), "endedBy": ended_by, "reason": reason})
            return
        self.rooms.apply(hint)
        if hint.kind is not Kind.HEARTBEAT:
            await self.kept.flush()
        who = hint.role or "user"
        if hint.kind is Kind.DISCONNECTED:
            said = {**_addresses(hint), "disconnectedUser": who, "reason": "connection-lost"}
            await self._emit(wire.USER_DISCONNECTED, hint, said)
        elif hint.kind is Kind.CONNECTED:
            await self._emit(wire.USER_CONNECTED, hint, {**_addresses(hint), "userRole": who})
        elif hint.kind is Kind.HEARTBEAT:
            await self._flush_beats(only=hint.room)

    async def take_signed(self, hint: Hint, mark: str, until_ms: int) -> bool:
        """Takes a statement that was verified, and passes it on with the signature; false when it was used before."""
        if not self.used.use(mark, until_ms):
            return False
        room = self.rooms.touch(str(hint.room), hint.received_ms)
        room.name_addresses(hint.student, hint.tutor, hint.trust)
        room.sign({**hint.payload["statement"], "signature": hint.payload["signature"]}, hint.received_ms)
        self.counters["signed"] += 1
        self.rooms.apply(hint, ended_by=str(hint.role), reason="signed")
        await self.kept.flush()
        said = {**_addresses(hint), **hint.payload}
        if hint.kind is Kind.ENDED:
            await self._emit(wire.SESSION_ENDED, hint, {**said, "endedBy": hint.role, "reason": "signed"})
        else:
            await self._emit(wire.STILL_HERE, hint, {**said, "userRole": hint.role})
        return True

    def room_of(self, key: SessionKey, started_ms: int) -> Room | None:
        """The room that this session is thought to be held in; not one of an earlier lesson of the same two."""
        return self.rooms.get(str(key.session_id)) or self.rooms.between(key.student, key.tutor, started_ms)

    async def create(self, mapping: Mapping) -> None:
        """Makes a room for two participants. Raises Refused when it belongs to others."""
        known = await self.mappings.get(mapping.room)
        room = self.rooms.get(mapping.room)
        for owner in (known, room):
            if owner is not None and not _agree(owner, mapping):
                raise wire.Refused("taken", "this room belongs to others")
        if known is not None and known.start_ms is not None:
            mapping = replace(mapping, start_ms=known.start_ms)  # a page that reloads doesn't start anew
        await self.mappings.put(mapping)
        room = self.rooms.touch(mapping.room, self.now_ms())
        room.name_addresses(mapping.student, mapping.tutor, Trust.ANONYMOUS)
        room.language_id, room.start_ms = mapping.language_id, mapping.start_ms
        await self.kept.flush()
        self.counters["created"] += 1
        said = {
            "requestId": mapping.room,
            "sessionId": mapping.room,
            "studentAddress": room.student,
            "tutorAddress": room.tutor,
            "languageId": mapping.language_id,
            "studentUrl": mapping.student_url,
            "tutorUrl": mapping.tutor_url,
            "trust": wire.ANONYMOUS,
        }
        await self._emit_all(wire.READY, {name: value for name, value in said.items() if value is not None})

    async def ended_on_chain(self, hint: Hint, by: str, transaction_hash: str, *, clean: bool) -> None:
        """Takes somebody's word that a session was ended on chain. `clean`: it was, and the mapping may go."""
        hint = await self._with_addresses(hint)
        assert hint.room is not None
        self.rooms.apply(hint, ended_by=by, reason="ended-on-chain")
        if clean:
            await self.mappings.delete(hint.room)
        await self.kept.flush()
        said = {**_addresses(hint), "endedBy": by, "transactionHash": transaction_hash}
        await self._emit(wire.ENDED, hint, said)

    async def people(self, room: str) -> tuple[Address | None, Address | None]:
        """Student and tutor of a room as far as they are known; nothing is made or changed for it."""
        known = self.rooms.get(room)
        if known is not None and known.student is not None and known.tutor is not None:
            return known.student, known.tutor
        mapping = await self.mappings.get(room)
        if mapping is None:
            return (known.student, known.tutor) if known is not None else (None, None)
        return mapping.student, mapping.tutor

    async def run(self) -> None:
        """Passes on coalesced heartbeats and watches for silence, until cancelled."""
        times_s = (self._config.heartbeat_every_s, self._config.heartbeat_timeout_s, self._config.disconnect_grace_s)
        tick_s = max(0.05, min(MAX_TICK_S, *(time_s / 4 for time_s in times_s)))
        since_ms = ticked_ms = self.now_ms()
        pruned_ms = since_ms
        while True:
            await asyncio.sleep(tick_s)
            now_ms = self.now_ms()
            if now_ms - ticked_ms > tick_s * 1000 + STALL_MS:
                # We were stopped ourselves, and heard nobody meanwhile.
                log.warning("gateway.stalled", for_ms=now_ms - ticked_ms)
                since_ms = now_ms
            ticked_ms = now_ms
            try:
                await self._tick(now_ms, since_ms)
            except Exception:
                # One bad tick must not end the watch over all other rooms.
                log.exception("gateway.tick_failed")
            if now_ms - pruned_ms >= PRUNE_EVERY_MS:
                pruned_ms = now_ms
                self.rooms.prune(now_ms)
                self.used.prune(now_ms)
                self._looked_ms = {name: at for name, at in self._looked_ms.items() if now_ms - at < LOOK_AGAIN_MS}

    async def _tick(self, now_ms: int, since_ms: int) -> None:
        await self._flush_beats()
        series = self._config.heartbeat_series
        silent = list(self.rooms.due_timeouts(now_ms, self._timeout_ms, series, since_ms=since_ms))
        for room, trust, last_ms in silent:
            await self._tell_timeout(room, trust, last_ms)
        for room, role, lost in list(self.rooms.due_graces(now_ms, self._grace_ms, since_ms=since_ms)):
            await self._tell_grace(room, role, lost)
        await self.mappings.mend(lambda name: (room := self.rooms.get(name)) is None or room.ended is None)
        await self.kept.flush()

    async def _flush_beats(self, only: str | None = None) -> None:
        for room, trust, count in list(self.rooms.due_beats(self.now_ms(), self._every_ms, only)):
            # A backlog larger than one message may carry is told in several.
            while count > 0:
                said = {
                    "sessionId": room.name,
                    "count": min(count, wire.MAX_BEATS),
                    "tutorAddress": room.tutor,
                    "studentAddress": room.student,
                    "timestamp": room.pulses[trust].beats.last_ms,
                    "trust": wire.claim_of(trust),
                }
                count -= wire.MAX_BEATS
                await self._emit_all(wire.SESSION_HEARTBEAT, said)

    async def _tell_timeout(self, room: Room, trust: Trust, last_ms: int) -> None:
        self.counters["timeout"] += 1
        log.info("gateway.heartbeat_timeout", room=room.name, last_ms=last_ms, trust=wire.claim_of(trust))
        said = {
            "sessionId": room.name,
            "lastHeartbeat": last_ms,
            "timeoutDuration": self._timeout_ms,
            "trust": wire.claim_of(trust),
        }
        await self._emit_all(wire.HEARTBEAT_TIMEOUT, said)

    async def _tell_grace(self, room: Room, role: Role | None, lost: Seen) -> None:
        self.counters["grace_over"] += 1
        said = {
            "sessionId": room.name,
            "disconnectedUser": role or "user",
            "tutorAddress": room.tutor,
            "studentAddress": room.student,
            "since": lost.at_ms,
            "graceDuration": self._grace_ms,
            "trust": wire.claim_of(lost.trust),
        }
        await self._emit_all(wire.GRACE_OVER, said)

    async def _emit(self, event: str, hint: Hint, said: dict[str, Any]) -> None:
        # A number stays a number: in `session:ended` that is what tells a chain id from a room.
        named = hint.payload.get("sessionId") if event == wire.ENDED else hint.room
        stamp = {"timestamp": hint.received_ms, "trust": wire.claim_of(hint.trust)}
        await self._emit_all(event, {"sessionId": named, **said, **stamp})

    async def _with_addresses(self, hint: Hint) -> Hint:
        """The hint with the room's addresses. What came with the secret may name or correct them."""
        assert hint.room is not None
        room = self.rooms.touch(hint.room, hint.received_ms)
        if hint.trust >= Trust.CONFIGURED and (hint.student or hint.tutor):
            room.name_addresses(hint.student, hint.tutor, hint.trust)
        if (room.student is None or room.tutor is None) and self._may_look(hint.room, hint.received_ms):
            mapping = await self.mappings.get(hint.room)
            if mapping is not None:
                room.name_addresses(mapping.student, mapping.tutor, Trust.ANONYMOUS)
                room.language_id = room.language_id if room.language_id is not None else mapping.language_id
                room.start_ms = room.start_ms or mapping.start_ms
        return replace(hint, student=room.student or hint.student, tutor=room.tutor or hint.tutor)

    def _may_look(self, name: str, now_ms: int) -> bool:
        looked_ms = self._looked_ms.get(name)
        if looked_ms is not None and now_ms - looked_ms < LOOK_AGAIN_MS:
            return False
        self._looked_ms[name] = now_ms
        return True


def _addresses(hint: Hint) -> dict[str, Any]:
    return {"tutorAddress": hint.tutor, "studentAddress": hint.student}


def _agree(owner: Mapping | Room, mapping: Mapping) -> bool:
    return owner.student in (None, mapping.student) and owner.tutor in (None, mapping.tutor)
