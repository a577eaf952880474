"""What others call: hints, changes of the chain, passing time and commands, one turn at a time.

Promises
 - A hint is stored before anything acts on it; `store` returns when it is.
 - A decision is stored, with the inputs it saw, before it is carried out; a crash at any point resumes by reading.
 - Nothing is decided before `load`, which wants the follower at the head. Hints that come earlier are stored and wait.
 - Work per hint and per tick doesn't depend on how many sessions there are. A heartbeat moves no deadline. Only after
   `pause`, `resume` or a finality violation are all decided on together: the breaker is to see all that falls due then.
Doesn't promise that an effect succeeds: nudges and settlements report back through `outcome`, as facts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from bot.domain.deadlines import Deadlines
from bot.domain.decide import Decision
from bot.domain.facts import Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.feeds import SOCKET, WEBHOOK, FeedBoard
from bot.domain.policy import Policy
from bot.domain.urgency import Urgency
from bot.reconciler import start
from bot.reconciler.changes import Changes
from bot.reconciler.decisions import Decisions, Effects
from bot.reconciler.intake import Intake
from bot.reconciler.mass_end import MassEnd
from bot.reconciler.memory import CANARY, Conditions, Live, Memory
from bot.reconciler.settlements import Settlements
from bot.reconciler.sweep import Sweep
from bot.store import breaker, history, records
from bot.store.db import Writer

log = structlog.get_logger("reconciler")

LOOK_AGAIN_MS = 3_000  # after an attempt that changed nothing
REFUSED_AGAIN_MS = 30_000  # after an attempt that the key, the balance or a cap forbade
MAX_BATCH = 500  # hints in one transaction
_STATES = {"settled": "done", "delivered": "done", "sent": "done", "dropped": "dropped"}  # of an action, by its outcome


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
        self.memory = Memory(policy, clock_ms, webhook_silence_ms)
        self._writer = writer
        self._max_attempts = max_attempts
        self._intake = Intake(self.memory, writer)
        self._effects = effects
        self.mass_end = MassEnd(self.memory, writer)
        self._decisions = Decisions(self.memory, writer, effects, self.mass_end)
        self._settlements = Settlements(self.memory, writer)
        self._sweep = Sweep(self.memory)
        self._changes = Changes(self.memory, writer, self._settlements)
        self._queue: asyncio.Queue[tuple[Hint, asyncio.Future[None] | None]] = asyncio.Queue()
        self._turn = asyncio.Lock()

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
                await self.take_all([hint for hint, _ in batch])
            except BaseException as error:
                for done in waiting:
                    if not done.done():
                        done.set_exception(ConnectionError(f"not stored: {type(error).__name__}"))
                raise
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    async def take_all(self, hints: Sequence[Hint]) -> None:
        """Stores these hints in one transaction, then decides."""
        async with self._turn:
            now = self.memory.now()
            await self._decisions.again(await self._intake.take(hints), now)

    async def socket_feed(self, up: bool) -> None:
        """The backend's socket connected, or was lost."""
        async with self._turn:
            now = self.memory.now()
            if self.feeds.socket(up, now):
                log.info("feed.up" if up else "feed.down", feed=SOCKET)
                if up:
                    await self._look_at_all(now)

    async def posted(self) -> None:
        """An authenticated post arrived on the webhook."""
        now = self.memory.now()
        if self.feeds.post(now):
            log.info("feed.up", feed=WEBHOOK)
            async with self._turn:
                await self._look_at_all(now)

    async def canary_heard(self) -> None:
        """The post of a room of our own came: from now on other rooms' silence isn't that of the whole feed."""
        async with self._turn:
            now = self.memory.now()
            if self.memory.witnesses.heard(CANARY, now) > self.memory.feeds.webhook_silence_ms:
                await self._look_at_all(now)

    async def pulse(self) -> None:
        """Notices a stall of our own, and minds the mass-end breaker. To be called about once a second."""
        async with self._turn:
            again = await self.mass_end.watch(self.memory.now())
            if again is not None:
                self._effects.alert(breaker.ALERT, again[0], None, again[1])

    async def tick(self) -> None:
        """Decides again for every session whose deadline has passed, and for a few that a feed's return is about."""
        async with self._turn:
            now = self.memory.now()
            await self._decisions.again(self.deadlines.pop_due(now), now)
            if self._sweep.pending:
                await self._decisions.again(self._sweep.next(), now, quiet=True)

    def next_tick_ms(self) -> int | None:
        """When `tick` is to be called, None for not at all: the earliest deadline, or at once."""
        return self.memory.clock() if self._sweep.pending else self.deadlines.earliest()

    async def _look_at_all(self, now: int) -> None:
        """A feed is back: the first few are looked at now, the others by `tick`."""
        self._sweep.begin()
        await self._decisions.again(self._sweep.next(), now, quiet=True)

    async def set_paused(self, paused: bool) -> None:
        """Nothing is signed while paused; what was due meanwhile, or held by the breaker, is decided afterwards.

        All that fell due in a long pause comes at once then; an operator has seen to that, and it trips no breaker.
        """
        async with self._turn:
            now = self.memory.now()
            self.conditions.paused = paused
            if not paused:
                await self.mass_end.release(Source.OPERATOR, now, whole=True)
            await self._decisions.again(list(self.memory.live), now)

    async def release(self) -> bool:
        """An operator has looked: what the mass-end breaker holds is decided now. False if it had not tripped."""
        async with self._turn:
            now = self.memory.now()
            held = list(self.memory.held)
            released = await self.mass_end.release(Source.OPERATOR, now)
            await self._decisions.again(held, now)
            return released

    async def set_unsound(self, unsound: bool) -> None:
        """Nothing is signed while the chain contradicts what was final; what was due is decided afterwards."""
        async with self._turn:
            self.conditions.unsound = unsound
            await self._decisions.again(list(self.memory.live), self.memory.now())

    async def outcome(self, key: SessionKey, kind: Kind, payload: dict[str, Any], action_id: int | None) -> None:
        """What came of a nudge, a bill or a settlement: recorded as a fact, and decided on.

        `action_id` None: there is more to come of it. `total` is what came of all, where that is another thing.
        """
        await self.outcomes(kind, [(key, payload, action_id)])

    async def outcomes(self, kind: Kind, told: Sequence[tuple[SessionKey, dict[str, Any], int | None]]) -> None:
        """The same of several that became known together, given as (session, payload, action): one transaction."""
        async with self._turn:
            now = self.memory.now()
            for key, payload, _ in told:
                live = self.memory.live.get(key)
                if live is None or kind is not Kind.SETTLEMENT:
                    continue
                live.settling = False
                live.retry_ms = now + (REFUSED_AGAIN_MS if payload["outcome"] == "refused" else LOOK_AGAIN_MS)
                if payload["outcome"] == "failed" and live.session.attempts + 1 >= self._max_attempts:
                    payload["set_aside"] = payload.get("reason") or "its end reverts"
            hints = [(Hint(kind, Source.KEEPER, Trust.PROVEN, now, payload=payload), key) for key, payload, _ in told]

            def end_actions(tx: Any) -> None:
                for _, payload, action_id in told:
                    if action_id is not None:
                        outcome = payload.get("total", payload["outcome"])
                        records.end_action(tx, action_id, _STATES.get(outcome, "failed"), outcome, now)

            await self._decisions.again(await self._intake.put_all(hints, end_actions), now)

    async def settle(self, session_id: int, payload: dict[str, Any]) -> SessionKey | None:
        """An operator's word: end it now. None if no such session is active."""
        return (await self.settle_all([(session_id, payload)]))[0]

    async def settle_all(self, orders: Sequence[tuple[int, dict[str, Any]]]) -> list[SessionKey | None]:
        """The same of several, given as (session id, payload): stored together, then decided together."""
        async with self._turn:
            now = self.memory.now()
            keys = [self._to_settle(session_id) for session_id, _ in orders]
            hints = []
            for (session_id, payload), key in zip(orders, keys, strict=True):
                if key is not None:
                    self.memory.live[key].retry_ms = 0
                    hint = Hint(Kind.SETTLE, Source.OPERATOR, Trust.PROVEN, now, session_id=session_id, payload=payload)
                    hints.append((hint, key))
            if hints:
                await self._decisions.again(await self._intake.put_all(hints), self.memory.now())
            return keys

    def _to_settle(self, session_id: int) -> SessionKey | None:
        known = self.memory.book.by_id.get(session_id)
        live = self.memory.live.get(known.key) if known is not None else None
        return None if live is None or live.session.ended else live.session.key

    async def still_here(
        self, key: SessionKey, address: str | None, payload: dict[str, Any], also: Callable[[Any], None] | None = None
    ) -> bool:
        """A participant's proven word, e.g. by a single-use link: the lesson goes on. False if it isn't active.

        `also`: what is changed in the same transaction, e.g. that the link is used.
        """
        async with self._turn:
            now = self.memory.now()
            live = self.memory.live.get(key)
            if live is None or live.session.ended:
                return False
            roles = {key.student: Role.STUDENT, key.tutor: Role.TUTOR} if key.student != key.tutor else {}
            hint = Hint(
                Kind.STILL_HERE,
                Source.PARTICIPANT,
                Trust.PROVEN,
                now,
                session_id=key.session_id,
                role=roles.get(address or ""),
                payload=payload,
            )
            await self._decisions.again(await self._intake.put_all([(hint, key)], also), now)
            return True

    async def signed(self, word: Hint, mark: str) -> bool:
        """A participant's verified word, taken once for good: false when this `mark` was taken before."""
        async with self._turn:
            touched = await self._intake.once(mark, word)
            if touched is not None:
                await self._decisions.again(touched, self.memory.now())
            return touched is not None

    async def paying(self, key: SessionKey, payer: str) -> None:
        """A participant's own endSession waits in the pool: let it be mined first, once."""
        async with self._turn:
            now = self.memory.now()
            hint = Hint(Kind.PAYING, Source.CHAIN, Trust.PROVEN, now, payload={"payer": payer})
            await self._decisions.again(await self._intake.put(hint, key), now)

    async def cured(self, key: SessionKey, reason: str | None = None) -> None:
        """The end of a session that was set aside would succeed now, or revert for another `reason`: tried again."""
        async with self._turn:
            live = self.memory.live.get(key)
            if live is None or live.session.ended:
                return
            now = self.memory.now()
            live.retry_ms = 0
            said = {"outcome": "cured"} if reason is None else {"outcome": "reason-changed", "reason": reason}
            hint = Hint(Kind.SETTLEMENT, Source.KEEPER, Trust.PROVEN, now, payload=said)
            await self._decisions.again(await self._intake.put(hint, key), now)

    # The chain ------------------------------------------------------------------------------------------------------

    async def load(self, ended_since_s: int, *, watches: bool = True) -> None:
        """Reads what may still need us and folds it; from then on decisions are made. The follower is at the head.

        `watches` false: only what somebody orders is decided, for a single command; it is no first start.
        """
        async with self._turn:
            memory, now = self.memory, self.memory.now()
            memory.watches = watches
            await self._writer(lambda tx: history.note_policy(tx, memory.policy, now))
            digest = await start.first(memory, self._writer, now) if watches else None
            await self.mass_end.load(now)
            actions = await start.read(memory, self._writer, self._intake, ended_since_s, now)
            await self._settlements.complete(list(memory.over))
            await start.resume(memory, self._writer, self._decisions, actions, now)
            await self._decisions.again(list(memory.live), now, quiet=True)
            if digest is not None:
                self._effects.alert(start.FIRST, digest.text, None, digest.alert_id)
            log.info("sessions.loaded", active=len(memory.live) - len(memory.over), rooms=len(memory.book.rooms))

    async def chain_changed(
        self, *, started: Sequence[SessionKey], ended: Sequence[SessionKey], retracted: Sequence[SessionKey]
    ) -> None:
        """The follower committed these. Sessions touched by a reorg are read and folded anew."""
        if not self.memory.loaded:
            return
        async with self._turn:
            now = self.memory.now()
            await self._decisions.again(await self._changes.take(started, ended, retracted), now)
            self._decisions.on_decided(retracted, True)

    async def session_known(self, key: SessionKey) -> None:
        """Rate and token of a session were read from the chain."""
        async with self._turn:
            await self._decisions.again(await self._changes.session_known(key), self.memory.now())

    async def set_balance(self, student: str, balance: int) -> None:
        """The student's balance in the contract, base units, as read from the chain."""
        async with self._turn:
            await self._decisions.again(self._changes.balance(student, balance), self.memory.now())

    async def settlement_known(self, key: SessionKey) -> None:
        """The chain's details of a settlement are complete: work out what was too much."""
        async with self._turn:
            await self._settlements.complete([key])
            self._decisions.on_decided([key], True)

    async def forget_final(self) -> None:
        """Drops sessions that are over for good, and rooms not heard for long. To be called now and then."""
        async with self._turn:
            await self._changes.forget_final()
            await self._intake.expire_rooms(self.memory.now())

    # What others ask ------------------------------------------------------------------------------------------------

    def still_due(self, key: SessionKey) -> bool:
        """Would `decide` end this session now? The sender asks just before it signs."""
        live = self.memory.live.get(key)
        return live is not None and not live.session.ended and self._decisions.still_due(live, self.memory.now())

    def withdrawn(self, key: SessionKey) -> bool:
        """Has the end of this session stopped being due? A hold, e.g. a pause, withdraws nothing."""
        live = self.memory.live.get(key)
        return live is None or live.session.ended or self._decisions.withdrawn(live, self.memory.now())

    def urgency(self, key: SessionKey) -> Urgency:
        """What somebody loses while this session's end waits."""
        live = self.memory.live.get(key)
        if len(self.memory.by_student.get(key.student, ())) > 1 or key.student in self.memory.may_withdraw:
            return Urgency.CLAIM  # the first end lets the student withdraw everything, and takes its part first
        drained = live.session.drained_ms if live else None
        return Urgency.UNPAID if drained is not None and drained <= self.memory.clock() else Urgency.BILLED

    def set_aside(self) -> list[tuple[SessionKey, str]]:
        """Sessions whose end is due but reverted too often, with the reason."""
        return [
            (key, live.session.set_aside)
            for key in self.memory.aside
            if (live := self.memory.live[key]).session.set_aside and not self.withdrawn(key)
        ]

    def may_pay_wait(self, key: SessionKey) -> bool:
        """Was this session never yet held for a participant's own payment, nor ordered by somebody who may?"""
        live = self.memory.live.get(key)
        return live is not None and live.session.paying is None and live.session.settle is None

    def decision(self, live: Live) -> Decision:
        """What `decide` makes of this session now; nothing comes of it."""
        return self._decisions.now(live, self.memory.now())

    def room_of(self, key: SessionKey) -> str | None:
        """The first room that was joined to this session."""
        return next(iter(self.rooms_of(key)), None)

    def rooms_of(self, key: SessionKey) -> Sequence[str]:
        """The rooms that were joined to this session."""
        return self.memory.book.rooms_of(key)

    def balance_of(self, student: str) -> int | None:
        """The student's balance in the contract, base units, as it was read last."""
        return self.memory.balances.get(student)

    def joined(self, room: str) -> SessionKey | None:
        """The session that this room was joined to."""
        known = self.memory.book.rooms.get(room)
        return known.key if known is not None else None

    def about(self, key: SessionKey) -> Live | None:
        return self.memory.live.get(key)

    def watches(self, student: str) -> bool:
        """Has this student a session that may still need us?"""
        return student in self.memory.by_student

    def active(self) -> Iterable[Live]:
        return self.memory.active()

    @property
    def policy(self) -> Policy:
        return self.memory.policy

    @property
    def conditions(self) -> Conditions:
        return self.memory.conditions

    @property
    def feeds(self) -> FeedBoard:
        return self.memory.feeds

    @property
    def counters(self) -> Counter[str]:
        return self.memory.counters

    @property
    def deadlines(self) -> Deadlines[SessionKey]:
        return self.memory.deadlines

    def when_deadline_moves(self, call: Callable[[], None]) -> None:
        """Has `call` called whenever `next_tick_ms` may have moved."""
        self._decisions.on_deadline = call

    def when_decided(self, call: Callable[[Iterable[SessionKey], bool], None]) -> None:
        """Has `call` called with those that were decided on, settled or retracted; False: for no reason of theirs."""
        self._decisions.on_decided = call
