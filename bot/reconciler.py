"""What the call did against what the chain says: the keeper's one place where state changes.

Promises
 - A hint is stored before anything acts on it; `store` returns when it is.
 - A decision is stored, with the inputs it saw, before it is carried out; a crash at any point resumes by reading.
 - Nothing is decided before `load`, which wants the follower at the head. Hints that come earlier are stored and wait.
 - Work per hint and per deadline doesn't depend on how many sessions there are. A heartbeat moves no deadline.
Doesn't promise that an effect succeeds: nudges and settlements report back through `outcome`, as facts.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from bot.domain import bill, linking
from bot.domain.deadlines import Deadlines
from bot.domain.decide import Action, Decision, Feed, World, call_ended_ms, decide
from bot.domain.facts import Fact, Hint, Kind, SessionKey, Source, Trust
from bot.domain.feeds import SOCKET, WEBHOOK, FeedBoard
from bot.domain.linking import Book, Link, Room
from bot.domain.policy import Policy
from bot.domain.session import Session, beat, fold
from bot.store import records
from bot.store.db import Writer

log = structlog.get_logger("reconciler")

DUPLICATE_MS = 5_000  # equal content within this is one hint
RECORD_KEPT_MS = 86_400_000  # as long as a backend's record goes back
STALL_MS = 5_000  # a gap in our own pulse longer than this is an outage of every feed
LOOK_AGAIN_MS = 3_000  # after an attempt that changed nothing
REFUSED_AGAIN_MS = 30_000  # after an attempt that the key, the balance or a cap forbade
MAX_BATCH = 500  # hints in one transaction


class Effects(Protocol):
    """What decisions lead to. None of these may block or raise."""

    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None: ...
    def settle(self, action_id: int, key: SessionKey) -> None: ...
    def alert(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None: ...


@dataclass(slots=True)
class Live:
    """A session that may still need us, with what the domain doesn't care about."""

    session: Session
    started_at: int | None
    token: str | None = None
    decided: tuple[str, str] = ("", "")
    settling: bool = False
    retry_ms: int = 0


@dataclass(slots=True)
class Conditions:
    """What holds for all sessions at once; `keeper.py` keeps it true."""

    reachable: bool = False
    direct: bool = True
    watching: bool = False
    paused: bool = False
    skew_ms: int = 0  # chain time minus ours

    @property
    def hold(self) -> str | None:
        return "watching" if self.watching else "paused" if self.paused else None


class Reconciler:
    """Takes hints, changes of the chain and passing time; gives decisions, stored, to `effects`."""

    def __init__(
        self,
        writer: Writer,
        policy: Policy,
        effects: Effects,
        *,
        webhook_silence_ms: int,
        max_attempts: int = 3,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.policy = policy
        self.conditions = Conditions()
        self.counters: Counter[str] = Counter()
        self.deadlines: Deadlines[SessionKey] = Deadlines()
        self.on_deadline: Callable[[], None] = lambda: None  # the earliest deadline may have moved
        self._writer = writer
        self._effects = effects
        self._clock = clock_ms
        self._max_attempts = max_attempts
        self._book = Book()
        self._live: dict[SessionKey, Live] = {}
        self._beat_sources: dict[str, Source] = {}
        self._webhook_beaters: set[SessionKey] = set()
        self._recent: dict[bytes, int] = {}
        self._recorded: dict[bytes, int] = {}
        self._by_student: dict[str, set[SessionKey]] = {}
        self._balances: dict[str, int] = {}
        self._queue: asyncio.Queue[tuple[Hint, asyncio.Future[None] | None]] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._loaded = False
        self._pulse_ms = self._born_ms = clock_ms()
        self._arrivals = itertools.count()
        self.feeds = FeedBoard(self._pulse_ms, webhook_silence_ms)

    # What comes in --------------------------------------------------------------------------------------------------

    def take(self, hint: Hint) -> None:
        """Takes a hint without waiting."""
        self._queue.put_nowait((hint, None))

    async def store(self, hint: Hint) -> None:
        """Takes a hint and returns when it is stored. Raises what the database raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((hint, done))
        await done

    async def run(self) -> None:
        """Works off the hints, as many in one transaction as have come, until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            waiting = [done for _, done in batch if done is not None]
            try:
                await self._take([hint for hint, _ in batch])
            except BaseException as error:
                for done in waiting:
                    if not done.done():
                        done.set_exception(ConnectionError(f"not stored: {type(error).__name__}"))
                raise
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    async def socket_feed(self, up: bool) -> None:
        """The backend's socket connected, or was lost."""
        async with self._turn:
            now = self._now()
            if self.feeds.socket(up, now):
                log.info("feed.up" if up else "feed.down", feed=SOCKET)
                if up:
                    await self._decide_again(self._waiting_for_feed(), now)

    async def posted(self) -> None:
        """An authenticated post arrived on the webhook."""
        now = self._now()
        if self.feeds.post(now):
            log.info("feed.up", feed=WEBHOOK)
            async with self._turn:
                await self._decide_again(self._waiting_for_feed(), now)

    async def pulse(self) -> None:
        """Notices a stall of our own. To be called about once a second."""
        async with self._turn:
            self._now()

    async def tick(self) -> None:
        """Decides again for every session whose deadline has passed."""
        async with self._turn:
            now = self._now()
            await self._decide_again(self.deadlines.pop_due(now), now)

    async def set_paused(self, paused: bool) -> None:
        """Nothing is signed while paused; what was due meanwhile is decided afterwards."""
        async with self._turn:
            self.conditions.paused = paused
            await self._decide_again(list(self._live), self._now())

    async def set_balance(self, student: str, balance: int) -> None:
        """The student's balance in the contract, base units, as read from the chain."""
        async with self._turn:
            if student in self._by_student:
                self._balances[student] = balance
                await self._predict(student, self._now())

    async def outcome(self, key: SessionKey, kind: Kind, payload: dict[str, Any], action_id: int | None) -> None:
        """What came of a nudge or a settlement: recorded as a fact, and decided on."""
        async with self._turn:
            now = self._now()
            hint = Hint(kind, Source.KEEPER, Trust.PROVEN, now, payload=payload)
            state = {"settled": "done", "delivered": "done", "dropped": "dropped"}.get(payload["outcome"], "failed")
            if action_id is not None:
                await self._writer(lambda tx: records.end_action(tx, action_id, state, payload["outcome"], now))
            live = self._live.get(key)
            if live is not None and kind is Kind.SETTLEMENT:
                live.settling = False
                pause = REFUSED_AGAIN_MS if payload["outcome"] == "refused" else LOOK_AGAIN_MS
                live.retry_ms = now + pause
                if payload["outcome"] == "failed" and live.session.attempts + 1 >= self._max_attempts:
                    payload["set_aside"] = payload.get("reason") or "its end reverts"
            await self._put([(self._key_of(hint), hint, key)], {}, now)

    async def settle(self, session_id: int, payload: dict[str, Any]) -> SessionKey | None:
        """An operator's word: end it now. None if no such session is active."""
        async with self._turn:
            now = self._now()
            key = self._book.by_id.get(session_id)
            live = self._live.get(key) if key else None
            if key is None or live is None or live.session.ended:
                return None
            live.retry_ms = 0
            hint = Hint(Kind.SETTLE, Source.OPERATOR, Trust.PROVEN, now, session_id=session_id, payload=payload)
            await self._put([(self._key_of(hint), hint, key)], {}, now)
            return key

    async def paying(self, key: SessionKey, payer: str) -> None:
        """A participant's own endSession waits in the pool: let it be mined first, once."""
        hint = Hint(Kind.PAYING, Source.CHAIN, Trust.PROVEN, self._now(), payload={"payer": payer})
        async with self._turn:
            await self._put([(self._key_of(hint), hint, key)], {}, hint.received_ms)

    # What others ask ------------------------------------------------------------------------------------------------

    def still_due(self, key: SessionKey) -> bool:
        """Would `decide` end this session now? The sender asks just before it signs."""
        live = self._live.get(key)
        if live is None or live.session.ended:
            return False
        now = self._now()
        return decide(live.session, self.policy, self._world(live), now).action is Action.END

    def may_pay_wait(self, key: SessionKey) -> bool:
        """Was this session never yet held for a participant's own payment, nor ordered by somebody who may?"""
        live = self._live.get(key)
        return live is not None and live.session.paying is None and live.session.settle is None

    def room_of(self, key: SessionKey) -> str | None:
        """The first room that was joined to this session."""
        return next(iter(self._book.rooms_of.get(key, ())), None)

    def joined(self, room: str) -> SessionKey | None:
        """The session that this room was joined to."""
        known = self._book.rooms.get(room)
        return known.key if known is not None else None

    def about(self, key: SessionKey) -> Live | None:
        return self._live.get(key)

    def active(self) -> Iterable[Live]:
        return (live for live in self._live.values() if not live.session.ended)

    # Starting -------------------------------------------------------------------------------------------------------

    async def load(self, ended_since_s: int) -> None:
        """Reads what may still need us and folds it; from then on decisions are made. The follower is at the head."""
        async with self._turn:
            now = self._now()
            since = now - linking.ROOM_EXPIRY_MS

            def read(tx: Any) -> Any:
                live = records.live_sessions(tx, ended_since_s)
                keys = [row.key for row in live]
                return (
                    live,
                    records.load_rooms(tx, set(keys), since),
                    records.facts_of(tx, keys),
                    records.action_marks(tx, keys),
                    records.last_reasons(tx, keys),
                    records.open_actions(tx),
                    records.unlinked_facts(tx, since),
                    records.newest_session(tx),
                )

            rows, rooms, facts, marks, reasons, actions, unlinked, newest = await self._writer(read)
            self._book.newest_id = newest
            for row in rows:
                self._admit(row)
            for stored in rooms:
                self._know_room(stored)
            for fact in facts:
                if fact.key is not None:
                    fold(self._live[fact.key].session, fact)
            for key, mark, at_ms in marks:
                self._live[key].session.nudged.setdefault(mark, at_ms)
            for key, decided in reasons.items():
                self._live[key].decided = decided
            self._loaded = True
            await self._link_waiting(unlinked, now)
            for key in [key for key, live in self._live.items() if live.session.ended]:
                await self._complete(key)
            await self._resume(actions, now)
            await self._decide_again([k for k, live in self._live.items() if not live.session.ended], now)
            log.info("sessions.loaded", active=sum(1 for _ in self.active()), rooms=len(self._book.rooms))

    async def _resume(self, actions: Sequence[records.OpenAction], now: int) -> None:
        for action in actions:
            live = self._live.get(action.key)
            if live is None or live.session.ended:
                await self._close_action(action, now)
            elif action.kind == "settle":
                live.settling = True
                self._effects.settle(action.id, action.key)
            else:
                self._effects.nudge(action.id, action.key, action.payload, action.created_ms)

    async def _close_action(self, action: records.OpenAction, now: int) -> None:
        def change(tx: Any) -> None:
            row = records.settlement(tx, action.key.session_id)
            ours = row is not None and action.kind == "settle" and records.our_tx(tx, row.tx_hash)
            records.end_action(tx, action.id, "done" if ours else "dropped", "settled" if ours else "session over", now)

        await self._writer(change)

    # The chain ------------------------------------------------------------------------------------------------------

    async def chain_changed(
        self, *, started: Sequence[SessionKey], ended: Sequence[SessionKey], retracted: Sequence[SessionKey]
    ) -> None:
        """The follower committed these. Sessions touched by a reorg are read and folded anew."""
        if not self._loaded:
            return
        async with self._turn:
            now = self._now()
            for key in retracted:
                for name in self._book.retract(key):
                    self._beat_sources.pop(name, None)
                self._forget(key)
            ids = {key.session_id for key in (*started, *ended, *retracted)}
            if not ids:
                return
            rows = await self._writer(lambda tx: records.sessions_by_id(tx, ids))
            fresh = [row for row in rows if row.key not in self._live and (row.key in started or row.key in retracted)]
            for row in fresh:
                self._admit(row)
            anew = {row.key for row in fresh if row.key in retracted}
            if anew:
                await self._refold(anew)
            for row in fresh:
                await self._welcome(row.key, now)
            for row in rows:
                live = self._live.get(row.key)
                if row.ended and live is not None:
                    live.session.ended = True
                    live.settling = False
                    self.deadlines.set(row.key, None)
                    self._book.ended(row.key)
                    self._webhook_beaters.discard(row.key)
                    await self._complete(row.key)
            touched = [row.key for row in rows if row.key in self._live]
            await self._decide_again(touched, now)

    async def session_known(self, key: SessionKey) -> None:
        """Rate and token of a session were read from the chain."""
        async with self._turn:
            rows = await self._writer(lambda tx: records.sessions_by_id(tx, [key.session_id]))
            for row in rows:
                live = self._live.get(row.key)
                if live is not None:
                    live.session.rate, live.token = row.rate, row.token
                    if live.started_at is None and row.started_at is not None:
                        live.started_at = row.started_at
                        live.session.started_ms = row.started_at * 1000 - self.conditions.skew_ms
                    await self._predict(key.student, self._now())

    async def settlement_known(self, key: SessionKey) -> None:
        """The chain's details of a settlement are complete: work out what was too much."""
        async with self._turn:
            await self._complete(key)

    async def forget_final(self) -> None:
        """Drops sessions that are over for good from memory. To be called now and then."""
        async with self._turn:
            over = [key for key, live in self._live.items() if live.session.ended]
            closed = await self._writer(lambda tx: records.closed_among(tx, [key.session_id for key in over]))
            for key in over:
                if key.session_id in closed:
                    self._forget(key)
            now = self._now()
            silent = [r for r in self._book.rooms.values() if now - r.heard_ms > linking.ROOM_EXPIRY_MS]
            for room in silent:
                if room.key is None:
                    room.expired = True
                if room.key not in self._live:
                    self._book.drop(room)
                    self._beat_sources.pop(room.room, None)
            old = [room for room in silent if room.expired]
            if old:
                log.info("rooms.expired", rooms=len(old))
                await self._save({room.room: room for room in old}, [])
            self._recent = {d: at for d, at in self._recent.items() if now - at < DUPLICATE_MS}
            self._recorded = {d: at for d, at in self._recorded.items() if now - at < RECORD_KEPT_MS}

    # Inside one turn ------------------------------------------------------------------------------------------------

    async def _take(self, hints: Sequence[Hint]) -> None:
        async with self._turn:
            now = self._now()
            facts: list[tuple[str, Hint, SessionKey | None]] = []
            rooms: dict[str, Room] = {}
            due: dict[SessionKey, None] = {}
            for hint in hints:
                room, link = self._place(hint, rooms)
                key = link.key if link else None
                if hint.kind is Kind.HEARTBEAT and hint.trust >= Trust.CONFIGURED:
                    if self._beat(hint, room, key) and key is not None:
                        due[key] = None
                    continue
                fact_key = self._key_of(hint)
                if self._duplicate(fact_key, hint):
                    continue
                facts.append((fact_key, hint, key))
            await self._put(facts, rooms, now, due)

    async def _put(
        self,
        facts: list[tuple[str, Hint, SessionKey | None]],
        rooms: dict[str, Room],
        now: int,
        due: dict[SessionKey, None] | None = None,
    ) -> None:
        """Stores facts and rooms, folds the facts, decides for the sessions they touch."""
        touched = dict(due or {})
        ids = await self._save(rooms, facts)
        for number, (_, hint, key) in zip(ids, facts, strict=True):
            live = self._live.get(key) if key else None
            if live is None or key is None:
                continue
            fold(live.session, Fact(number, hint, key))
            touched[key] = None
            if hint.source is not Source.KEEPER:
                log.info("fact.stored", session=key.session_id, kind=hint.kind, source=hint.source, room=hint.room)
        if self._loaded:
            await self._decide_again(touched, now)

    async def _save(self, rooms: dict[str, Room], facts: list[tuple[str, Hint, SessionKey | None]]) -> list[int]:
        if not rooms and not facts:
            return []
        kept = [(room, self._beat_sources.get(name)) for name, room in rooms.items()]

        def change(tx: Any) -> list[int]:
            records.save_rooms(tx, kept)
            return records.add_facts(tx, facts)

        return await self._writer(change)

    def _place(self, hint: Hint, changed: dict[str, Room]) -> tuple[Room | None, Link | None]:
        """Finds or makes the hint's room and joins it to its session, if that can be told."""
        if hint.room is None:
            return None, None
        known = self._book.rooms.get(hint.room)
        link = linking.link(hint, known, self._book) if self._loaded else None
        room = known
        if room is None:
            room = Room(hint.room, hint.received_ms, hint.received_ms)
            self._book.rooms[hint.room] = room
        if hint.student and hint.tutor and not linking.contradicts(hint, self._book):
            if link is None and room.key is not None and hint.trust > room.trust:
                self._book.leave(room)
                room.student = None
            if room.key is None and (room.student is None or hint.trust > room.trust):
                self._book.name(room, hint.student, hint.tutor, hint.trust)
        room.heard_ms = max(room.heard_ms, hint.received_ms)
        changed[hint.room] = room
        if link is not None and room.key != link.key:
            self._book.join(room, link, hint.trust)
            self.counters[f"linked.{link.rule}"] += 1
            log.info("session.linked", session=link.key.session_id, room=room.room, rule=link.rule)
            self._adopt_beats(room, link.key)
        elif link is None:
            self._book.wait(room)
            self.counters["unlinked"] += 1
        return room, link

    def _adopt_beats(self, room: Room, key: SessionKey) -> None:
        live = self._live.get(key)
        source = self._beat_sources.get(room.room)
        if live is None or room.beats.count == 0 or source is None:
            return
        beat(live.session, room.beats.first_ms, 1, source)
        beat(live.session, room.beats.last_ms, room.beats.count - 1, source)
        self._note_beater(key, source)

    def _beat(self, hint: Hint, room: Room | None, key: SessionKey | None) -> bool:
        """Takes a heartbeat; true if it changes what is to be decided before the session's deadline."""
        said = hint.payload.get("count", 1)
        count = said if isinstance(said, int) else 1
        if room is not None:
            room.beats = room.beats.plus(hint.received_ms, count)
            self._beat_sources[room.room] = hint.source
        self.counters["heartbeats"] += count
        live = self._live.get(key) if key else None
        if live is None or key is None:
            return False
        session = live.session
        before = (len(session.away), session.timeout_hint, session.heard)
        beat(session, hint.received_ms, count, hint.source)
        self._note_beater(key, hint.source)
        # A deadline no later than this silence would be needs no moving; it is looked at when due.
        deadline = self.deadlines.get(key)
        late = deadline is None or deadline > hint.received_ms + self.policy.heartbeat_timeout_ms
        return late or before != (len(session.away), session.timeout_hint, session.heard)

    def _note_beater(self, key: SessionKey, source: Source) -> None:
        if source is Source.WEBHOOK and not self._live[key].session.ended:
            self._webhook_beaters.add(key)

    async def _decide_again(self, keys: Iterable[SessionKey], now: int) -> None:
        """Decides for these sessions; stores what is new, then carries it out."""
        news: list[tuple[SessionKey, Live, Decision]] = []
        for key in list(keys):
            live = self._live.get(key)
            if live is None:
                continue
            news.extend(self._decide(key, live, now))
        self.on_deadline()
        if not news:
            return
        stored = await self._writer(lambda tx: [self._store_decision(tx, *item, now) for item in news])
        for (key, live, decision), (action_id, alert_id, text) in zip(news, stored, strict=True):
            self._carry_out(key, live, decision, action_id, alert_id, text, now)

    def _decide(self, key: SessionKey, live: Live, now: int) -> list[tuple[SessionKey, Live, Decision]]:
        found = []
        for _ in range(8):  # several nudges or alerts may be due at once; each is its own decision
            decision = decide(live.session, self.policy, self._world(live), now)
            look = decision.look_again_ms
            if decision.action is Action.END and (live.settling or now < live.retry_ms):
                self.deadlines.set(key, None if live.settling else live.retry_ms)
                break
            self.deadlines.set(key, None if decision.action is Action.CLOSE else look)
            if decision.action in (Action.NUDGE, Action.ALERT):
                live.session.nudged[str(decision.mark)] = now
                found.append((key, live, decision))
                continue
            if decision.action is Action.END or (decision.action.value, decision.reason) != live.decided:
                found.append((key, live, decision))
            if decision.action is Action.END:
                live.settling = True
            live.decided = (decision.action.value, decision.reason)
            break
        return found

    def _store_decision(
        self, tx: Any, key: SessionKey, live: Live, decision: Decision, now: int
    ) -> tuple[int | None, int | None, str]:
        number = records.add_decision(tx, key, decision, now)
        payload = {"reason": decision.reason, "mark": decision.mark, "ask": decision.ask, "due_ms": decision.due_ms}
        if decision.action is Action.NUDGE:
            stored = records.add_action(tx, f"nudge:{key}:{decision.mark}", "nudge", key, number, now, payload)
            return (stored.id if stored.new else None), None, ""
        if decision.action is Action.END:
            count = records.settle_count(tx, key)
            return records.add_action(tx, f"settle:{key}:{count}", "settle", key, number, now, payload).id, None, ""
        if decision.action is Action.ALERT:
            text = self._alert_text(key, live, decision, now)
            return None, records.add_alert(tx, f"alert.{decision.reason}", text, now, key), text
        return None, None, ""

    def _carry_out(
        self,
        key: SessionKey,
        live: Live,
        decision: Decision,
        action_id: int | None,
        alert_id: int | None,
        text: str,
        now: int,
    ) -> None:
        self.counters[f"decided.{decision.action}.{decision.reason}"] += 1
        log.info(
            f"decision.{decision.action}",
            session=key.session_id,
            reason=decision.reason,
            due_in_s=None if decision.due_ms is None else round((decision.due_ms - now) / 1000, 1),
            hold=decision.inputs.get("hold"),
        )
        if decision.action is Action.NUDGE and action_id is not None:
            payload = {"reason": decision.reason, "mark": decision.mark, "ask": decision.ask, "due_ms": decision.due_ms}
            self._effects.nudge(action_id, key, payload, now)
        elif decision.action is Action.END and action_id is not None:
            self._effects.settle(action_id, key)
        elif decision.action is Action.ALERT and alert_id is not None:
            self._effects.alert(f"alert.{decision.reason}", text, key, alert_id)

    def _alert_text(self, key: SessionKey, live: Live, decision: Decision, now: int) -> str:
        age_s = max(0, now - live.session.started_ms) // 1000
        what = {
            "orphan": "was never heard of off chain",
            "contradiction": "was reported as ended, but signs of life go on and nobody could be asked",
        }.get(decision.reason, decision.reason)
        number = key.session_id
        return f"Session {number} {what}; it has run for {age_s // 60} min. Look: langdao-keeper explain {number}"

    def _world(self, live: Live) -> World:
        now = self._clock()
        conditions = self.conditions
        source = live.session.beat_source
        if source is None and live.session.away:
            source = next(iter(live.session.away.values())).source
        name = WEBHOOK if source in (Source.WEBHOOK, Source.OPEN_WEBHOOK) else SOCKET
        since, until = self.feeds.span(name, now)
        sole = name == WEBHOOK and len(self._webhook_beaters) <= 1
        return World(
            feed=Feed(since, until, sole),
            reachable=conditions.reachable,
            direct=conditions.direct,
            hold=conditions.hold,
        )

    # Sessions in memory ---------------------------------------------------------------------------------------------

    def _admit(self, row: records.LiveSession) -> None:
        started_ms = self._clock() if row.started_at is None else row.started_at * 1000 - self.conditions.skew_ms
        session = Session(key=row.key, started_ms=started_ms, ended=row.ended, rate=row.rate)
        self._live[row.key] = Live(session, row.started_at, row.token)
        self._book.add(row.key, started_ms, active=not row.ended)
        self._by_student.setdefault(row.key.student, set()).add(row.key)

    def _know_room(self, stored: records.StoredRoom) -> None:
        room = stored.room
        self._book.rooms[room.room] = room
        if stored.beat_source is not None:
            self._beat_sources[room.room] = stored.beat_source
        if room.key is None:
            self._book.wait(room)
        elif room.key in self._live:
            self._book.rooms_of.setdefault(room.key, []).append(room.room)
            self._adopt_beats(room, room.key)

    async def _refold(self, keys: set[SessionKey]) -> None:
        rooms, facts, marks = await self._writer(
            lambda tx: (records.load_rooms(tx, keys, 2**62), records.facts_of(tx, keys), records.action_marks(tx, keys))
        )
        for stored in rooms:
            if stored.room.room not in self._book.rooms:
                self._know_room(stored)
        for fact in facts:
            if fact.key is not None:
                fold(self._live[fact.key].session, fact)
        for key, mark, at_ms in marks:
            self._live[key].session.nudged.setdefault(mark, at_ms)

    async def _welcome(self, key: SessionKey, now: int) -> None:
        """A session has started: the rooms that waited for it are joined, and what they said counts."""
        live = self._live[key]
        log.info("session.started", session=key.session_id, student=key.student, tutor=key.tutor)
        for room, link in linking.rooms_for(key, live.session.started_ms, self._book):
            self._book.join(room, link, room.trust)
            self.counters[f"linked.{link.rule}"] += 1
            log.info("session.linked", session=key.session_id, room=room.room, rule=link.rule)
            self._adopt_beats(room, key)

            def change(tx: Any, room: Room = room) -> list[Fact]:
                records.save_rooms(tx, [(room, self._beat_sources.get(room.room))])
                facts = records.room_facts(tx, room.room)
                records.link_facts(tx, [fact.id for fact in facts], key)
                return facts

            for fact in await self._writer(change):
                fold(live.session, replace(fact, key=key))

    async def _link_waiting(self, facts: Sequence[Fact], now: int) -> None:
        """Links what was stored before the sessions were known."""
        rooms: dict[str, Room] = {}
        linked: dict[SessionKey, list[int]] = {}
        for fact in facts:
            _, link = self._place(fact.hint, rooms)
            if link is not None and link.key in self._live:
                linked.setdefault(link.key, []).append(fact.id)
                fold(self._live[link.key].session, fact)

        def change(tx: Any) -> None:
            records.save_rooms(tx, [(room, self._beat_sources.get(name)) for name, room in rooms.items()])
            for key, ids in linked.items():
                records.link_facts(tx, ids, key)

        if rooms:
            await self._writer(change)

    def _forget(self, key: SessionKey) -> None:
        self.deadlines.set(key, None)
        self._live.pop(key, None)
        self._book.forget(key)
        self._webhook_beaters.discard(key)
        others = self._by_student.get(key.student)
        if others is not None:
            others.discard(key)
            if not others:
                del self._by_student[key.student]
                self._balances.pop(key.student, None)

    async def _predict(self, student: str, now: int) -> None:
        """When this student's balance is used up, over all their active sessions together."""
        balance = self._balances.get(student)
        mine = [self._live[key] for key in self._by_student.get(student, ()) if not self._live[key].session.ended]
        known = [(live.session.rate, live.started_at) for live in mine if live.session.rate and live.started_at]
        at_s = bill.used_up_at(balance, known) if balance is not None else None
        for live in mine:
            pays = live.session.rate not in (None, 0)
            live.session.drained_ms = at_s * 1000 - self.conditions.skew_ms if at_s is not None and pays else None
        await self._decide_again([live.session.key for live in mine], now)

    async def _complete(self, key: SessionKey) -> None:
        """Adds to a settlement what only we know: room, reason, when the call ended and what was too much."""
        live = self._live.get(key)
        if live is None or not live.session.ended:
            return
        session = live.session
        world = self._world(live)
        rooms = self._book.rooms_of.get(key, [])

        def change(tx: Any) -> Any:
            row = records.settlement(tx, key.session_id)
            if row is None or row.student not in (None, key.student) or row.tutor != key.tutor:
                return None
            ours = records.our_tx(tx, row.tx_hash)
            by_ms = self._clock() if row.ended_at is None else row.ended_at * 1000 - self.conditions.skew_ms
            ended_ms = call_ended_ms(session, self.policy, world, by_ms)
            values: dict[str, Any] = {"room_id": rooms[0] if rooms else None, "student": key.student}
            on_their_own = "paid-after-nudge" if session.reached else "on-their-own"
            values["reason"] = records.settle_reason(tx, key) if ours else on_their_own
            if ended_ms is not None:
                at_s = (ended_ms + self.conditions.skew_ms) // 1000
                values["call_ended_at"] = at_s
                rate = row.rate if row.rate is not None else session.rate
                if rate is not None and row.started_at is not None and row.ended_at is not None:
                    over = bill.overbilled(
                        paid=int(row.paid),
                        rate=int(rate),
                        started_at=row.started_at,
                        ended_at=row.ended_at,
                        call_ended_at=at_s,
                    )
                    values |= {"overbilled_s": over.seconds, "overbilled_amount": str(over.amount)}
            records.complete_settlement(tx, key.session_id, values)
            return values

        values = await self._writer(change)
        if values is not None:
            log.info("settlement.seen", session=key.session_id, reason=values["reason"])

    # Small things ---------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        """The time, and the pulse: a gap in it means that we heard nothing meanwhile."""
        now = self._clock()
        if abs(now - self._pulse_ms) > STALL_MS:
            log.warning("keeper.stalled", gap_s=round((now - self._pulse_ms) / 1000, 1))
            self.feeds.outage(now)
        self._pulse_ms = now
        return now

    def _waiting_for_feed(self) -> list[SessionKey]:
        return [k for k, v in self._live.items() if not v.session.ended and (v.session.beats.count or v.session.away)]

    def _key_of(self, hint: Hint) -> str:
        said = json.dumps(hint.payload, sort_keys=True, default=str)
        content = f"{hint.source}|{hint.kind}|{hint.room}|{hint.session_id}|{hint.role}|{hint.trust}|{said}"
        digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        # Equal content may arrive twice in a millisecond, and what a record dates back may be read twice.
        return f"{digest}:{hint.received_ms}:{self._born_ms}.{next(self._arrivals)}"

    def _duplicate(self, fact_key: str, hint: Hint) -> bool:
        digest = fact_key.partition(":")[0].encode()
        if hint.source is Source.RECORD:  # read again at each reconnect, and dated: the same entry is never news
            known = digest in self._recorded
            self._recorded[digest] = hint.received_ms
            return known
        seen = self._recent.get(digest)
        if seen is not None and hint.received_ms - seen < DUPLICATE_MS:
            self.counters["duplicates"] += 1
            return True
        self._recent[digest] = hint.received_ms
        return False
