"""Deciding about sessions, storing what was decided, then carrying it out.

Promises: a decision is stored, with the inputs it saw, before it is carried out; what it leads to is stored with it,
once. Work doesn't depend on how many sessions there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog

from bot.domain.decide import Action, Decision, decide
from bot.domain.facts import SessionKey
from bot.domain.saw import pack
from bot.domain.session import give
from bot.reconciler.mass_end import MassEnd, Trip, held
from bot.reconciler.memory import Live, Memory, verdict
from bot.store import breaker as breaker_rows
from bot.store import records
from bot.store.bulk import Driver
from bot.store.db import Writer

NO_NEWS = {(Action.WAIT, Action.WAIT), ("", Action.CLOSE)}
SLICE = 100  # sessions decided on before others in the loop get a moment

log = structlog.get_logger("reconciler")


News = tuple[SessionKey, Live, Decision, dict[str, Any]]  # with what it saw
Stored = tuple[int | None, int | None, str]  # the action's number, the alert's, and its text


class Effects(Protocol):
    """What decisions lead to. None of these may block or raise."""

    async def expect(self, keys: Sequence[SessionKey]) -> None:
        """The ends of these are about to be stored, and asked for then: nothing is to be done but to look.

        Returns at once, or as soon as the chain was asked: it works on its answer while the decision is stored.
        """
        ...

    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None: ...
    def settle(self, action_id: int, key: SessionKey) -> None: ...
    def alert(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None: ...


class Decisions:
    def __init__(self, memory: Memory, writer: Writer, effects: Effects, mass: MassEnd) -> None:
        self._memory = memory
        self._mass = mass
        self._writer = writer
        self._effects = effects
        self.on_deadline: Callable[[], None] = lambda: None  # the earliest deadline may have moved
        # May lead to other plans for these; `False` if they were looked at for no reason of their own.
        self.on_decided: Callable[[Iterable[SessionKey], bool], None] = lambda _keys, _own: None

    async def again(self, keys: Iterable[SessionKey], now: int, *, quiet: bool = False) -> None:
        """Decides for these sessions; stores what is new, then carries it out.

        Of many, the loop is let go now and then; they are still decided, and counted by the breaker, together.
        `quiet`: another reason to wait is no news, nor that a session has ended on which nothing was ever decided. A
        start, or a feed's return, would make one for everybody.
        """
        if not self._memory.loaded:
            return
        news: list[News] = []
        keys = list(keys)
        for number, key in enumerate(keys, 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            live = self._memory.live.get(key)
            if live is not None and (self._memory.watches or live.session.settle is not None):
                news.extend(self._decide(key, live, now, quiet=quiet))
        trip = self._mass.notice(((key, decision) for key, _, decision, _ in news), now)
        if trip is not None:
            news = self._anew(news, now)
        if ends := [key for key, _, decision, _ in news if decision.action is Action.END]:
            await self._effects.expect(ends)
        self.on_deadline()
        if news:
            stored = await self._stored(news, trip, now)
            for (key, live, decision, _), (action_id, alert_id, text) in zip(news, stored, strict=True):
                self._carry_out(key, live, decision, action_id, alert_id, text, now)
        self.on_decided(keys, not quiet)
        if news:
            await asyncio.sleep(0)  # whoever was told begins before the log is written
            for key, _, decision, _ in news:
                self._log(key, decision, now)

    async def _stored(self, news: list[News], trip: Trip | None, now: int) -> list[Stored]:
        """Stores what is new, in one transaction with what the breaker has to say."""

        def change(into: Driver) -> list[Stored]:
            return [self._store(into, *item, now) for item in news]

        if trip is None:
            return await self._writer.rows(change)
        told, stored = await self._writer(lambda tx: (self._mass.store(tx, trip), change(tx.connection())))
        self._effects.alert(breaker_rows.ALERT, trip.text, None, told)
        return stored

    def now(self, live: Live, now: int) -> Decision:
        """What `decide` makes of this session; nothing comes of it."""
        return decide(live.session, self._memory.policy, self._memory.world(live), now)

    def still_due(self, live: Live, now: int) -> bool:
        """Would this session be ended now?"""
        return self.now(live, now).action is Action.END

    def withdrawn(self, live: Live, now: int) -> bool:
        """Has its end stopped being due? A hold withdraws nothing."""
        return self.now(live, now).action not in (Action.END, Action.HOLD)

    def resume(self, action: records.OpenAction) -> None:
        """Carries out what was stored before a restart."""
        if action.kind == "settle":
            self._memory.live[action.key].settling = True
            self._effects.settle(action.id, action.key)
        else:
            self._effects.nudge(action.id, action.key, action.payload, action.created_ms)

    def _anew(self, news: list[News], now: int) -> list[News]:
        """The breaker has tripped: what was to end is decided again."""
        found: list[News] = []
        for key, live, decision, saw in news:
            if decision.action is not Action.END:
                found.append((key, live, decision, saw))
                continue
            live.settling = False
            found.extend(self._decide(key, live, now))
        return found

    def _decide(self, key: SessionKey, live: Live, now: int, *, quiet: bool = False) -> list[News]:
        memory = self._memory
        found = []
        for _ in range(8):  # several nudges or alerts may be due at once; each is its own decision
            world = memory.world(live)
            decision = decide(live.session, memory.policy, world, now)
            look = decision.look_again_ms
            live.due_ms = decision.due_ms
            if decision.action is Action.END and (live.settling or now < live.retry_ms):
                memory.deadlines.set(key, None if live.settling else live.retry_ms)
                break
            memory.deadlines.set(key, None if decision.action is Action.CLOSE else look)
            if decision.action in (Action.NUDGE, Action.ALERT):
                give(live.session, str(decision.mark), now)
                found.append((key, live, decision, pack(live.session, world)))
                continue
            if held(decision):
                memory.held.add(key, live.session.rate or 0)
            else:
                memory.held.discard(key)
            decided = verdict(decision.action.value, decision.reason, _hold_of(decision))
            if quiet and (live.decided[0], decided[0]) in NO_NEWS:
                break
            if decision.action is Action.END or decided != live.decided:
                found.append((key, live, decision, pack(live.session, world)))
            if decision.action is Action.END:
                live.settling = True
            live.decided = decided
            break
        return found

    def _store(
        self, into: Driver, key: SessionKey, live: Live, decision: Decision, saw: dict[str, Any], now: int
    ) -> Stored:
        number = records.add_decision(into, key, decision, now, saw)
        payload = {"reason": decision.reason, "mark": decision.mark, "ask": decision.ask, "due_ms": decision.due_ms}
        if decision.action is Action.NUDGE:
            stored = records.add_action(into, f"nudge:{key}:{decision.mark}", "nudge", key, number, now, payload)
            return (stored.id if stored.new else None), None, ""
        if decision.action is Action.END:
            return records.add_settle(into, key, number, now, payload), None, ""
        if decision.action is Action.ALERT:
            text = _alert_text(key, live, decision, now)
            return None, records.add_alert(into, _alert_name(decision), text, now, key), text
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
        self._memory.counters[f"decided.{decision.action}.{decision.reason}"] += 1
        if decision.action is Action.NUDGE and action_id is not None:
            payload = {"reason": decision.reason, "mark": decision.mark, "ask": decision.ask, "due_ms": decision.due_ms}
            self._effects.nudge(action_id, key, payload, now)
        elif decision.action is Action.END and action_id is not None:
            self._effects.settle(action_id, key)
        elif decision.action is Action.ALERT and alert_id is not None:
            self._effects.alert(_alert_name(decision), text, key, alert_id)

    def _log(self, key: SessionKey, decision: Decision, now: int) -> None:
        log.info(
            f"decision.{decision.action}",
            session=key.session_id,
            reason=decision.reason,
            due_in_s=None if decision.due_ms is None else round((decision.due_ms - now) / 1000, 1),
            hold=decision.inputs.get("hold"),
        )


def _hold_of(decision: Decision) -> str | None:
    hold = decision.inputs.get("hold")
    return str(hold) if hold is not None else None


def _alert_name(decision: Decision) -> str:
    return "alert.uncorroborated" if _uncorroborated(decision) else f"alert.{decision.reason}"


def _uncorroborated(decision: Decision) -> bool:
    return decision.inputs.get("waits_for") == "corroboration"


def _alert_text(key: SessionKey, live: Live, decision: Decision, now: int) -> str:
    age_s = max(0, now - live.session.started_ms) // 1000
    what = {
        "orphan": "was never heard of off chain",
        "contradiction": "was reported as ended, but signs of life go on and nobody could be asked",
    }.get(decision.reason, decision.reason)
    if _uncorroborated(decision):
        what = (
            f"was reported as over (rule `{decision.reason}`), and by TRUST_BACKEND_HINTS that isn't enough to end it: "
            "nothing else says so"
        )
    number = key.session_id
    return (
        f"Session {number} {what}; it has run for {age_s // 60} min. Look: langdao-keeper explain {number}. "
        f"To end it: langdao-keeper settle {number}"
    )
