"""Taking hints: which room and session each is about, which of them are news, and storing those.

Promises: what is returned as touched is stored and folded. A heartbeat that is believed is no row, moves no deadline.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from bot.domain import linking
from bot.domain.facts import Fact, Hint, Kind, SessionKey, Source, Trust
from bot.domain.linking import Link, Room
from bot.domain.session import beat
from bot.reconciler.memory import Memory
from bot.store import fact_rows, room_rows
from bot.store.db import Writer

log = structlog.get_logger("reconciler")

DUPLICATE_MS = 5_000  # equal content within this is one hint
RECORD_KEPT_MS = 86_400_000  # as long as a backend's record goes back
EXPIRE_AT_A_TIME = 5_000  # rooms looked at in one go of housekeeping

Touched = dict[SessionKey, None]  # in order, each once


class Intake:
    def __init__(self, memory: Memory, writer: Writer) -> None:
        self._memory = memory
        self._writer = writer
        self._recent: dict[bytes, int] = {}
        self._recorded: dict[bytes, int] = {}
        self._process = secrets.token_hex(4)  # two starts may fall into one millisecond
        self._arrivals = itertools.count()
        self._joined: dict[str, SessionKey] = {}  # rooms joined since facts were last stored

    async def take(self, hints: Sequence[Hint]) -> Touched:
        """Stores what is news; the sessions that have to be decided on again."""
        facts: list[tuple[str, Hint, SessionKey | None]] = []
        rooms: dict[str, Room] = {}
        due: Touched = {}
        for hint in hints:
            room, link = self.place(hint, rooms)
            key = link.key if link else None
            if hint.kind is Kind.HEARTBEAT and hint.trust >= Trust.CONFIGURED:
                if self._beat(hint, room, key) and key is not None:
                    due[key] = None
                continue
            fact_key = self._key_of(hint)
            if self._duplicate(fact_key, hint):
                continue
            facts.append((fact_key, hint, key))
        return due | await self._put(facts, rooms)

    async def put(self, hint: Hint, key: SessionKey) -> Touched:
        """Stores and folds one hint that is known to be about `key`, and is news by nature."""
        return await self.put_all([(hint, key)])

    async def put_all(
        self, hints: Sequence[tuple[Hint, SessionKey]], also: Callable[[Any], None] | None = None
    ) -> Touched:
        """The same of several, in one transaction with what `also` changes."""
        return await self._put([(self._key_of(hint), hint, key) for hint, key in hints], {}, also)

    async def once(self, mark: str, hint: Hint) -> Touched | None:
        """Stores and folds a hint under a name of its own; None when that name is taken."""
        if await self._writer(lambda tx: fact_rows.has_fact(tx, mark)):
            return None
        rooms: dict[str, Room] = {}
        _, link = self.place(hint, rooms)
        return await self._put([(mark, hint, link.key if link else None)], rooms)

    def place(self, hint: Hint, changed: dict[str, Room]) -> tuple[Room | None, Link | None]:
        """Finds or makes the hint's room and joins it to its session, if that can be told."""
        if hint.room is None:
            return None, None
        memory = self._memory
        book = memory.book
        known = book.rooms.get(hint.room)
        link = linking.link(hint, known, book) if memory.loaded else None
        room = known
        if room is None:
            room = Room(hint.room, hint.received_ms, hint.received_ms)
            memory.add_room(room)
        if hint.student and hint.tutor and not linking.contradicts(hint, book):
            if link is None and room.key is not None and hint.trust > room.trust:
                book.leave(room)
                room.student = None
            if room.key is None and (room.student is None or hint.trust > room.trust):
                book.name(room, hint.student, hint.tutor, hint.trust)
        room.heard_ms = max(room.heard_ms, hint.received_ms)
        changed[hint.room] = room
        if link is not None and room.key != link.key:
            book.join(room, link, hint.trust)
            memory.counters[f"linked.{link.rule}"] += 1
            log.info("session.linked", session=link.key.session_id, room=room.room, rule=link.rule)
            memory.adopt_beats(room, link.key)
            self._joined[room.room] = link.key
        elif link is None:
            book.wait(room)
            memory.counters["unlinked"] += 1
        return room, link

    async def expire_rooms(self, now: int) -> None:
        """Rooms not heard for long: those that joined nothing expire, visibly; those of sessions that are over go."""
        memory = self._memory
        silent = [r for r in memory.next_rooms(EXPIRE_AT_A_TIME) if now - r.heard_ms > linking.ROOM_EXPIRY_MS]
        for room in silent:
            if room.key is None:
                room.expired = True
            if room.key not in memory.live:
                memory.book.drop(room)
        old = [room for room in silent if room.expired]
        if old:
            log.info("rooms.expired", rooms=len(old))
            await self._save({room.room: room for room in old}, [])
        for kept, for_ms in ((self._recent, DUPLICATE_MS), (self._recorded, RECORD_KEPT_MS)):
            while kept and now - kept[first := next(iter(kept))] >= for_ms:
                del kept[first]

    async def _put(
        self,
        facts: Sequence[tuple[str, Hint, SessionKey | None]],
        rooms: dict[str, Room],
        also: Callable[[Any], None] | None = None,
    ) -> Touched:
        """Stores facts and rooms, folds the facts: first what rooms had said before they were joined."""
        touched: Touched = {}
        ids, earlier = await self._save(rooms, facts, also)
        for joined, known in earlier.items():
            if joined in self._memory.live:
                self._memory.refold(joined, known)
                touched[joined] = None
        for number, (_, hint, key) in zip(ids, facts, strict=True):
            live = self._memory.live.get(key) if key else None
            if live is None or key is None:
                continue
            self._memory.fold(live, Fact(number, hint, key))
            touched[key] = None
            if hint.source is not Source.KEEPER:
                log.info("fact.stored", session=key.session_id, kind=hint.kind, source=hint.source, room=hint.room)
        return touched

    async def _save(
        self,
        rooms: dict[str, Room],
        facts: Sequence[tuple[str, Hint, SessionKey | None]],
        also: Callable[[Any], None] | None = None,
    ) -> tuple[list[int], dict[SessionKey, list[Fact]]]:
        """The facts' ids; and of sessions to which rooms were joined since, all that was known before them."""
        joined, self._joined = self._joined, {}
        if not rooms and not facts and not joined and also is None:
            return [], {}

        def change(tx: Any) -> tuple[list[int], dict[SessionKey, list[Fact]]]:
            if also is not None:
                also(tx)
            room_rows.save(tx, rooms.values())
            late = {key for room, key in joined.items() if fact_rows.join_facts(tx, room, key)}
            earlier = {key: fact_rows.facts_of(tx, [key]) for key in late}
            return fact_rows.add_facts(tx, facts), earlier

        return await self._writer(change)

    def _beat(self, hint: Hint, room: Room | None, key: SessionKey | None) -> bool:
        """Takes a heartbeat; true if it changes what is to be decided before the session's deadline."""
        memory = self._memory
        said = hint.payload.get("count", 1)
        count = said if isinstance(said, int) else 1
        if room is not None:
            room.beats = room.beats.plus(hint.received_ms, count)
            room.beat_source = hint.source
        memory.counters["heartbeats"] += count
        live = memory.live.get(key) if key else None
        if live is None or key is None:
            return False
        session = live.session
        before = (len(session.away), session.timeout_hint, session.heard)
        beat(session, hint.received_ms, count, hint.source)
        if room is not None and room.beats == session.beats:
            room.beats = session.beats  # one object for both
        memory.note_beater(key, hint.source)
        # A deadline no later than this silence would be needs no moving; it is looked at when due.
        deadline = memory.deadlines.get(key)
        late = deadline is None or deadline > hint.received_ms + memory.policy.heartbeat_timeout_ms
        return late or before != (len(session.away), session.timeout_hint, session.heard)

    def _key_of(self, hint: Hint) -> str:
        said = json.dumps(hint.payload, sort_keys=True, default=str)
        content = f"{hint.source}|{hint.kind}|{hint.room}|{hint.session_id}|{hint.role}|{hint.trust}|{said}"
        digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        # Equal content may arrive twice in a millisecond, and what a record dates back may be read twice.
        return f"{digest}:{hint.received_ms}:{self._process}.{next(self._arrivals)}"

    def _duplicate(self, fact_key: str, hint: Hint) -> bool:
        digest = fact_key.partition(":")[0].encode()
        if hint.source is Source.RECORD:  # read again at each reconnect, and dated: the same entry is never news
            known = self._recorded.pop(digest, None) is not None
            self._recorded[digest] = hint.received_ms
            return known
        seen = self._recent.get(digest)
        if seen is not None and hint.received_ms - seen < DUPLICATE_MS:
            self._memory.counters["duplicates"] += 1
            return True
        self._recent.pop(digest, None)  # the oldest are at the front
        self._recent[digest] = hint.received_ms
        return False
