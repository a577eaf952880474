"""The reconciler on a real database, driven by random histories, against a model that knows the truth.

Hints are dropped, doubled, late, forged at each level of trust, and name other people's sessions; the chain starts,
ends and reorganises; feeds fail, the keeper stalls and restarts, its clock jumps. What must hold is said at each check.
`make test-deep` plays many more, and longer, histories.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlmodel import select

from bot.domain import replay
from bot.domain.facts import Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.policy import Policy
from bot.store import history
from bot.store.tables import ActionRow, DecisionRow
from tests.support.keeper import Keeper
from tests.support.sessions import STUDENT, T0, TUTOR, address

POLICY = Policy()
GRACE_MS = POLICY.disconnect_grace_ms
TUTORS = (TUTOR, address(0xB1), address(0xB2))
STUDENTS = (STUDENT, STUDENT, address(0xC2))  # the first two lessons are one student's
SLOTS = st.integers(0, 2)
SEEN_ALIVE = {"told", "drained", "contradiction", "away:student", "away:tutor"}  # may end what heartbeats show alive
WORDS = (Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT, Kind.CONNECTED, Kind.HEARTBEAT, Kind.READY)


@dataclass
class Lesson:
    """The truth about one session."""

    key: SessionKey
    room: str
    beating: bool = True  # its pages send heartbeats while it goes on
    over: bool = False  # the call
    ended: bool = False  # on chain
    start_block: int = 0
    end_block: int = 0
    beats: int = 0
    beat_ms: int = 0  # the last heartbeat that arrived
    still_ms: int = 0
    believed: bool = False  # any word that may lead to an end, or a series of heartbeats, was ever said of it
    told: bool = False  # a participant's or operator's order
    announced: bool = False  # its end was, by a believed word


class Machine(RuleBasedStateMachine):
    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "keeper.db"
        if Machine.template is not None:
            shutil.copy(Machine.template, path)
        self.keeper = Keeper(path)
        if Machine.template is None:
            kept = Path(tempfile.mkdtemp()) / "empty.db"
            shutil.copy(path, kept)
            Machine.template = kept
        self.lessons: dict[int, Lesson] = {}
        self.past: list[Lesson] = []
        self.count = 0
        self.delivers = True
        self.webhook_up = True
        self.canary = False  # the webhook feed is heard, whoever talks

    def teardown(self) -> None:
        try:
            self._everything_over_is_settled()
            self._replay_equals_history()
        finally:
            self.keeper.writer.close()
            self.keeper.database.dispose()
            self.runner.close()
            self.folder.cleanup()

    def do(self, what: Awaitable[Any]) -> Any:
        async def whole() -> Any:
            return await what

        found = self.runner.run(whole())
        self._effects()
        return found

    # What is going on --------------------------------------------------------------------------------------------

    @initialize(beating=st.tuples(*[st.none() | st.booleans()] * 3), seconds=st.integers(0, 60))
    def begin(self, beating: tuple[bool | None, ...], seconds: int) -> None:
        self.do(self.keeper.reconciler.load(0))
        self.do(self.keeper.reconciler.socket_feed(True))
        for slot, beats in enumerate(beating):
            if beats is not None:
                self._start(slot, True, beats)
        self._pass(seconds * 1000)

    @precondition(lambda self: len(self.lessons) < len(TUTORS))
    @rule(slot=SLOTS, announced=st.booleans(), beating=st.booleans())
    def start(self, slot: int, announced: bool, beating: bool) -> None:
        if slot not in self.lessons:
            self._start(slot, announced, beating)

    def _start(self, slot: int, announced: bool, beating: bool) -> None:
        self.count += 1
        key = SessionKey(self.count, STUDENTS[slot], TUTORS[slot])
        lesson = Lesson(key, f"req_{self.count}", beating)
        if announced:
            self._say(lesson, Kind.READY, Source.SOCKET)
        self.do(self.keeper.start(key, (self.keeper.now - T0) / 1000))
        lesson.start_block = self.keeper.block
        self.lessons[slot] = lesson
        if not announced:
            self._say(lesson, Kind.READY, Source.SOCKET)

    @rule(seconds=st.integers(1, 100) | st.sampled_from((150, 400, 700)))
    def time_passes(self, seconds: int) -> None:
        self._pass(seconds * 1000)

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS, copies=st.integers(0, 2), source=st.sampled_from((Source.SOCKET, Source.WEBHOOK)))
    def hang_up(self, slot: int, copies: int, source: Source) -> None:
        """The call is over; the word of it is lost, comes, or comes twice."""
        lesson = self.lessons.get(slot)
        if lesson is None or lesson.over:
            return
        lesson.over = True
        for _ in range(copies):
            self._say(lesson, Kind.ENDED, source)
            lesson.announced = True

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS, role=st.none() | st.sampled_from(Role), back=st.booleans())
    def connection_lost(self, slot: int, role: Role | None, back: bool) -> None:
        """A participant's connection is lost, and perhaps comes back at once."""
        lesson = self.lessons.get(slot)
        if lesson is None:
            return
        self._say(lesson, Kind.DISCONNECTED, Source.WEBHOOK, role=role, can_return=True)
        if back and not lesson.over:
            self._pass(10_000)
            self._say(lesson, Kind.CONNECTED, Source.WEBHOOK, role=role)

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS, kind=st.sampled_from(WORDS), trust=st.sampled_from((Trust.ANONYMOUS, Trust.MAPPING)))
    def forged(self, slot: int, kind: Kind, trust: Trust) -> None:
        """Anybody says anything of a lesson."""
        lesson = self.lessons.get(slot)
        if lesson is not None:
            source = Source.OPEN_WEBHOOK if trust is Trust.ANONYMOUS else Source.REDIS
            self._say(lesson, kind, source, trust=trust, believed=False)

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS, kind=st.sampled_from((Kind.ENDED, Kind.TIMEOUT)))
    def false_word(self, slot: int, kind: Kind) -> None:
        """A page or the backend says of a lesson that goes on that it is over."""
        lesson = self.lessons.get(slot)
        if lesson is not None:
            self._say(lesson, kind, Source.WEBHOOK)

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS, other=SLOTS, kind=st.sampled_from((Kind.ENDED, Kind.DISCONNECTED)))
    def mislinked(self, slot: int, other: int, kind: Kind) -> None:
        """A word names one lesson's chain id together with other people: it is about neither's end."""
        lesson, stranger = self.lessons.get(slot), self.lessons.get(other)
        if lesson is None or stranger is None or lesson.key.student == stranger.key.student:
            return
        hint = self.keeper.hint(
            kind,
            Source.SOCKET,
            room=str(lesson.key.session_id),
            session_id=lesson.key.session_id,
            student=address(0xEE),
            tutor=address(0xEF),
        )
        self.do(self.keeper.say(hint))

    @precondition(lambda self: self.past)
    @rule(slot=SLOTS)
    def late_end_of_an_earlier_lesson(self, slot: int) -> None:
        gone = next((one for one in reversed(self.past) if one.key.tutor == TUTORS[slot]), None)
        if gone is not None:
            self._say(gone, Kind.ENDED, Source.SOCKET)

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS)
    def still_here(self, slot: int) -> None:
        lesson = self.lessons.get(slot)
        if lesson is not None and not lesson.over:
            lesson.still_ms = self.keeper.now
            self.do(self.keeper.reconciler.still_here(lesson.key, lesson.key.student, {}))

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS, signed=st.booleans())
    def told_to_end(self, slot: int, signed: bool) -> None:
        lesson = self.lessons.get(slot)
        if lesson is None:
            return
        lesson.told = lesson.believed = lesson.over = lesson.announced = True
        if signed:
            self._say(lesson, Kind.SETTLE, Source.PARTICIPANT)
        else:
            self.do(self.keeper.reconciler.settle(lesson.key.session_id, {}))

    @precondition(lambda self: self.lessons)
    @rule(slot=SLOTS)
    def they_pay(self, slot: int) -> None:
        lesson = self.lessons.get(slot)
        if lesson is not None:
            lesson.over = True
            self._chain_end(lesson)

    # What goes wrong ---------------------------------------------------------------------------------------------

    @rule(up=st.booleans())
    def socket(self, up: bool) -> None:
        self.do(self.keeper.reconciler.socket_feed(up))

    @rule(up=st.booleans())
    def webhook(self, up: bool) -> None:
        self.webhook_up = up

    @rule(delivers=st.booleans())
    def channels(self, delivers: bool) -> None:
        self.delivers = delivers

    @rule(seconds=st.integers(-20, 300))
    def stall_or_clock_jump(self, seconds: int) -> None:
        """Nothing is heard, nothing is done, and the clock goes on, or back."""
        self.keeper.now += seconds * 1000
        self.do(self.keeper.reconciler.pulse())
        self.do(self.keeper.reconciler.tick())

    @rule(seconds=st.integers(0, 120))
    def restart(self, seconds: int) -> None:
        before = {key: _shape(live.session) for key, live in self.keeper.reconciler.memory.live.items()}
        self.keeper.now += seconds * 1000
        effects = self.keeper.effects
        self.do(self.keeper.restart())
        self.keeper.effects.nudges = [*effects.nudges, *self.keeper.effects.nudges]
        self.do(self.keeper.reconciler.socket_feed(True))
        for key, live in self.keeper.reconciler.memory.live.items():
            if key in before and not live.session.ended:
                assert _shape(live.session, before[key][-1]) == before[key], "the same facts give an equal session"

    @precondition(lambda self: any(not one.ended for one in self.lessons.values()))
    @rule()
    def reorg(self) -> None:
        """The newest block goes; what started there never did, what ended there goes on."""
        top = self.keeper.block
        taken = self.do(self.keeper.reorg(top - 1))
        self.keeper.block = top  # the new branch is as high, and empty
        for slot, lesson in list(self.lessons.items()):
            if lesson.start_block == top:
                del self.lessons[slot]
        for lesson in [one for one in self.past if one.end_block == top]:
            slot = next(number for number in range(3) if TUTORS[number] == lesson.key.tutor)
            self.past.remove(lesson)
            if slot not in self.lessons:
                lesson.ended = False
                self.lessons[slot] = lesson
        self.do(self.keeper.reconciler.chain_changed(started=[], ended=[], retracted=list(taken)))

    # What must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def deadlines_are_kept(self) -> None:
        earliest = self.keeper.reconciler.deadlines.earliest()
        assert earliest is None or earliest > self.keeper.now - 1_000_000

    def _effects(self) -> None:
        """Judges what was ordered, and does it."""
        effects = self.keeper.effects
        while effects.nudges or effects.settles:
            if effects.settles:
                self._settle(*effects.settles.pop(0))
                continue
            action_id, key, payload = effects.nudges.pop(0)
            said = {
                "outcome": "delivered" if self.delivers else "failed",
                "delivered": self.delivers,
                "mark": payload["mark"],
                "ask": payload["ask"],
            }
            self.runner.run(self._outcome(key, Kind.NUDGE, said, action_id))

    async def _outcome(self, key: SessionKey, kind: Kind, said: dict[str, Any], action_id: int) -> None:
        await self.keeper.reconciler.outcome(key, kind, said, action_id)

    def _settle(self, action_id: int, key: SessionKey) -> None:
        with self.keeper.database.read() as session:
            action = session.get(ActionRow, action_id)
            assert action is not None
            assert action.session_key == str(key), "never ends an id that it did not decide on"
            decision = session.get(DecisionRow, action.decision_id)
            assert decision is not None
            assert (decision.action, decision.session_key) == ("end", str(key))
            reason = str(decision.reason)
        event(f"ended: {reason}")
        lesson = next((one for one in self.lessons.values() if one.key == key), None)
        assert lesson is not None, "the session is one that is active"
        assert lesson.believed, f"ended by {reason}, though nobody who may be believed ever said a word"
        now = self.keeper.now
        alive_ms = max(lesson.beat_ms, lesson.still_ms)
        if 0 <= now - alive_ms < GRACE_MS and self.keeper.reconciler.still_due(key):
            assert reason in SEEN_ALIVE, f"shown alive {now - alive_ms} ms ago, ended by {reason}"
        self._chain_end(lesson)
        said = {"outcome": "settled", "reason": None, "tx_hash": "0x1"}
        self.runner.run(self._outcome(key, Kind.SETTLEMENT, said, action_id))

    def _everything_over_is_settled(self) -> None:
        """every session that is truly over is ended, handed to an operator, or explained as held, by its due time"""
        self.webhook_up = True
        self.do(self.keeper.reconciler.socket_feed(True))
        for lesson in self.lessons.values():
            lesson.over = True
        waiting = [one for one in self.lessons.values() if one.announced or one.beats > 5]
        self.canary = True
        if waiting:
            self._pass(1_600_000, step_ms=4_900)
        for lesson in waiting:
            if lesson.ended:
                continue
            with self.keeper.database.read() as session:
                rows = session.exec(select(DecisionRow).where(DecisionRow.session_key == str(lesson.key)))
                said = [(row.action, row.reason) for row in rows]
            assert said, f"{lesson} was never decided on"
            assert said[-1][0] in ("hold", "alert") or any(one[0] == "alert" for one in said), (lesson, said)

    def _replay_equals_history(self) -> None:
        """replay equals history"""
        with self.keeper.database.read() as session:
            policies = history.Policies(session)
            for one in history.read(session, history.sessions(session)):
                made, different = replay.check(one, policies.at)
                for decided in one.decisions:
                    event(f"decided: {decided.action} {decided.reason}")
                assert made == len(one.decisions)
                assert not different

    # Saying, passing time, the chain -----------------------------------------------------------------------------

    def _say(self, lesson: Lesson, kind: Kind, source: Source, believed: bool = True, **more: Any) -> None:
        hint: Hint = self.keeper.hint(
            kind, source, room=lesson.room, student=lesson.key.student, tutor=lesson.key.tutor, **more
        )
        lesson.believed |= believed and kind is not Kind.READY
        if kind is Kind.SETTLE:
            hint = replace(hint, session_id=lesson.key.session_id)
        self.do(self.keeper.say(hint))

    def _pass(self, ms: int, step_ms: int = 2_000) -> None:
        until = self.keeper.now + ms
        while self.keeper.now < until:
            due = self.keeper.reconciler.deadlines.earliest()
            step = min(self.keeper.now + step_ms, until)
            self.keeper.now = max(self.keeper.now + 1, min(step, due)) if due is not None else step
            self._beat()
            self.do(self._tick())
            if self.canary:
                self.do(self.keeper.reconciler.posted())

    async def _tick(self) -> None:
        await self.keeper.reconciler.pulse()
        due = self.keeper.reconciler.deadlines.earliest()
        if due is not None and due <= self.keeper.now:
            await self.keeper.reconciler.tick()

    def _beat(self) -> None:
        now = self.keeper.now
        for lesson in list(self.lessons.values()):
            if lesson.beating and not lesson.over and self.webhook_up and now - lesson.beat_ms >= 10_000:
                lesson.beat_ms, lesson.beats = now, lesson.beats + 1
                self._say(lesson, Kind.HEARTBEAT, Source.WEBHOOK)

    def _chain_end(self, lesson: Lesson) -> None:
        if lesson.ended:
            return
        lesson.ended = True
        slot = next(number for number, one in self.lessons.items() if one is lesson)
        del self.lessons[slot]
        self.past.append(lesson)
        at_s = (self.keeper.now - T0) / 1000
        self.runner.run(self._end(lesson.key, max(at_s, 0)))
        lesson.end_block = self.keeper.block

    async def _end(self, key: SessionKey, at_s: float) -> None:
        await self.keeper.end(key, at_s)


def _shape(session: Any, nudged: Any = None) -> tuple[Any, ...]:
    """What facts make of a session; nudges since don't count."""
    words = (session.ended_hint, session.ended_again, session.weak_end, session.timeout_hint, session.settle)
    away = tuple(sorted((str(role), word) for role, word in session.away.items()))
    lives = (session.beats, session.life_ms, session.weak_life_ms, session.still_here_ms)
    marks = session.nudged if nudged is None else {mark: session.nudged.get(mark) for mark in nudged}
    return (*words, away, *lives, session.attempts, session.set_aside, dict(marks))


TestKeeper = pytest.mark.timeout(3_600)(Machine.TestCase)
if settings.default is not None and settings.default.max_examples <= 100:  # not in the deep profile
    TestKeeper.settings = settings(max_examples=150, stateful_step_count=25)
