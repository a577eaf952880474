"""A keeper on a database of its own, with a chain, pages and people around it of whom the truth is known.

Here things happen: time passes, words are said, the chain moves, what the keeper ordered is carried out. What may be
ordered is judged in `tests.property.judge`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from sqlmodel import select

from bot.domain.facts import Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.policy import Policy
from bot.ops.inbox import Inbox
from bot.store import schema
from bot.store.db import Database
from bot.store.tables import InboxRow
from tests.property.judge import EARLY_MS, Judge, folded
from tests.support.keeper import RATE, Keeper
from tests.support.sessions import STUDENT, T0, TUTOR, address

TUTORS = (TUTOR, address(0xB1), address(0xB2))
STUDENTS = (STUDENT, STUDENT, address(0xC2))  # the first two lessons are one student's
BEAT_MS = 10_000
STEP_MS = 4_500  # below what counts as a stall
MAX_ATTEMPTS = 3


@cache
def _empty() -> Path:
    """A database with its tables, which take longer to make than most histories."""
    path = Path(tempfile.mkdtemp()) / "empty.db"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    database.dispose()
    return path


@dataclass(eq=False)
class Lesson:
    """The truth about one session: what became of it, and what was said of it that may count."""

    key: SessionKey
    room: str
    slot: int
    started_ms: int
    start_block: int = 0
    end_block: int = 0
    over: bool = False  # the call
    ended: bool = False  # on chain
    paid: int = 0
    beating: bool = True  # its pages send heartbeats, for as long as they are open
    haunted: bool = False  # anybody says again and again that it goes on
    poison: bool = False  # its end reverts
    failed: int = 0  # attempts since somebody said that it should be tried again
    heard: bool = False  # by a word that counts as one
    first_beat_ms: int = 0
    beat_ms: int = 0
    beats: int = 0
    life_ms: int = 0  # the newest believed sign of life, heartbeats included
    haunt_ms: int = 0
    still_ms: int = 0
    word_ms: int = 0  # the newest believed end, loss or time-out, whether it changed anything or not
    told_ms: int = 0  # an order of a participant or an operator
    ended_ms: list[int] = field(default_factory=list)  # believed words that stand
    taken_for_its_ms: list[int] = field(default_factory=list)  # an earlier lesson's, which nobody can tell apart
    timeout_ms: list[int] = field(default_factory=list)
    lost: dict[Role | None, tuple[int, bool]] = field(default_factory=dict)  # when, and could the return be told?
    asked_ms: int = 0  # a question was delivered, and wasn't answered
    objectable_ms: int = 0  # a nudge was delivered to which somebody could object, and nobody did
    missed: bool = False  # a nudge reached nobody

    def alive(self, at_ms: int) -> None:
        """A believed sign of life."""
        self.heard, self.life_ms = True, max(self.life_ms, at_ms)
        self.timeout_ms.clear()
        self.lost.pop(None, None)

    def still_here(self, at_ms: int) -> None:
        """A participant's word that it goes on withdraws all that others said."""
        self.heard, self.still_ms, self.asked_ms, self.objectable_ms = True, at_ms, 0, 0
        self.ended_ms.clear()
        self.taken_for_its_ms.clear()
        self.timeout_ms.clear()
        self.lost.clear()


class Stage:
    """All methods but the makers are to be awaited, and leave nothing undone that was ordered."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "keeper.db"
        shutil.copy(_empty(), path)
        self.keeper = Keeper(path)
        self.reached: Counter[str] = Counter()  # states that were really met
        self.policy = Policy()
        self.lessons: dict[int, Lesson] = {}
        self.past: list[Lesson] = []
        self.taken_back: list[Lesson] = []
        self.balances: dict[str, int] = {}
        self.last_id = 0
        self.rooms = 0
        self.words = 0
        self.late_ends: list[tuple[Lesson, int]] = []  # of lessons over of which nothing had been heard, and when
        self.browser_skew_ms: int | None = None
        self.channel: dict[str, Any] = {"delivered": True, "answerable": True}
        self.webhook_up = True
        self.canary = False  # the webhook feed is heard, whoever talks
        self.sends = True  # what was ordered is carried out at once
        self.refuses = False  # the key can't pay
        self.ordered: list[tuple[int, SessionKey]] = []
        self.paused = self.unsound = False
        self.heard_since_ms = T0  # the keeper has listened without a break
        self.judge = Judge(self)

    def close(self) -> None:
        self.keeper.writer.close()
        self.keeper.database.dispose()
        self.folder.cleanup()

    @property
    def now(self) -> int:
        return self.keeper.now

    def all(self) -> Iterator[Lesson]:
        yield from self.lessons.values()
        yield from self.past

    def lesson(self, key: SessionKey) -> Lesson | None:
        return next((one for one in self.lessons.values() if one.key == key), None)

    # A process --------------------------------------------------------------------------------------------------

    async def open(self, policy: Policy) -> None:
        self.policy = policy
        self.keeper.boot(policy)
        await self._load()

    async def restart(self) -> None:
        live = self.keeper.reconciler.memory.live
        before = {key: folded(one.session) for key, one in live.items() if not one.session.ended}
        self.ordered.clear()  # a new process takes them up from their rows
        self.keeper.boot(self.policy)
        self.heard_since_ms = self.now
        await self._load(before)

    async def _load(self, before: Mapping[SessionKey, dict[str, Any]] | None = None) -> None:
        keeper = self.keeper
        self.inbox = Inbox(keeper.writer, keeper.reconciler, signs=lambda: True, clock_ms=lambda: self.now)
        await self.inbox.load_paused()
        keeper.reconciler.conditions.unsound = self.unsound
        await keeper.reconciler.load(0)
        self.judge.folded_as_before(before or {})
        await keeper.reconciler.socket_feed(True)
        await self.tell_balances()

    async def ask(self, kind: str) -> None:
        """As another process would, pause, resume or release: by a row in the inbox."""
        held = bool(self.keeper.reconciler.memory.held)
        if kind != "release":
            self.paused = kind == "pause"
        if kind != "pause":
            self.judge.let_go()
        row = InboxRow(kind=kind, payload={}, asked_ms=self.now)
        await self.keeper.writer(lambda tx: tx.add(row))
        await self.inbox.read()
        with self.keeper.database.read() as session:
            answer: Any = session.exec(select(InboxRow.answer).order_by(InboxRow.id.desc())).first()
        assert answer["ok"], answer
        self.reached["breaker: resumed"] += held and kind != "pause"
        await self.act()

    async def cure(self) -> None:
        """The keeper looks now and then whether what was set aside would go through."""
        for key, _ in self.keeper.reconciler.set_aside():
            lesson = self.lesson(key)
            if lesson is not None and not lesson.poison:
                lesson.failed = 0
                self.reached["set aside: cured"] += 1
                await self.do(self.keeper.reconciler.cured(key))

    async def holds_are_lifted(self) -> None:
        """The operator and the chain have nothing against any end."""
        self.unsound = False
        await self.do(self.keeper.reconciler.set_unsound(False))
        await self.ask("resume")
        for lesson in self.lessons.values():
            lesson.poison = False
        for _ in range(2):  # what was set aside may fall due only now
            await self.cure()
            await self.passes(60_000)

    # Time -------------------------------------------------------------------------------------------------------

    async def passes(self, ms: int) -> None:
        """Time during which the keeper listens."""
        until = self.now + ms
        while self.now < until:
            due = self.keeper.reconciler.deadlines.earliest()
            step = min(self.now + STEP_MS, until, *(self._next_beat(one) for one in self.lessons.values()))
            self.keeper.now = max(self.now + 1, min(step, due) if due is not None else step)
            await self.beat()
            await self.tick()
            if self.canary and self.webhook_up:
                await self.keeper.reconciler.posted()

    async def tick(self) -> None:
        await self.keeper.reconciler.pulse()
        due = self.keeper.reconciler.deadlines.earliest()
        if due is not None and due <= self.now:
            await self.keeper.reconciler.tick()
        await self.act()

    async def jumps(self, ms: int) -> None:
        """Nothing is heard, nothing is done, and the clock goes on, or back."""
        self.keeper.now += ms
        if abs(ms) > 5_000 or self.now < self.heard_since_ms:
            self.heard_since_ms = self.now
        await self.keeper.reconciler.pulse()
        await self.keeper.reconciler.forget_final()
        await self.tick()

    def _next_beat(self, lesson: Lesson) -> int:
        if not self._beats(lesson):
            return 2**62
        return max(self.now, lesson.beat_ms) + (BEAT_MS if lesson.beat_ms > self.now - BEAT_MS else 1)

    def _beats(self, lesson: Lesson) -> bool:
        return lesson.beating and self.webhook_up

    async def beat(self) -> None:
        now = self.now
        for lesson in list(self.lessons.values()):
            if self._beats(lesson) and not 0 <= now - lesson.beat_ms < BEAT_MS:
                lesson.first_beat_ms = lesson.first_beat_ms or now
                lesson.beat_ms, lesson.beats = now, lesson.beats + 1
                await self.say(lesson, Kind.HEARTBEAT, Source.WEBHOOK)
            if lesson.haunted and not 0 <= now - lesson.haunt_ms < 2 * BEAT_MS:
                lesson.haunt_ms = now
                await self.say(lesson, Kind.HEARTBEAT, Source.OPEN_WEBHOOK)

    # Words ------------------------------------------------------------------------------------------------------

    async def say(self, lesson: Lesson, kind: Kind, source: Source, copies: int = 1, **more: Any) -> None:
        """Says it, and remembers what of it should count."""
        self.words += 1
        payload = {} if kind is Kind.HEARTBEAT else {"n": self.words}  # the same again isn't the same word twice
        said_ms = None if self.browser_skew_ms is None else self.now + self.browser_skew_ms
        hint: Hint = self.keeper.hint(
            kind,
            source,
            room=lesson.room,
            student=lesson.key.student,
            tutor=lesson.key.tutor,
            said_ms=self.now if source is Source.RECORD else said_ms,
            payload=payload,
            **more,
        )
        if kind is Kind.SETTLE:
            hint = replace(hint, session_id=lesson.key.session_id)
        if hint.trust >= Trust.CONFIGURED:
            self._believe(lesson, hint)
        elif hint.trust > Trust.ANONYMOUS:
            lesson.heard = True
        await self.do(self.keeper.say(*[hint] * copies))

    def _believe(self, lesson: Lesson, hint: Hint) -> None:
        at_ms = hint.received_ms
        unheard = not lesson.heard or any(one is lesson for one, _ in self.late_ends)
        lesson.heard = True
        if hint.kind in (Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT):
            lesson.word_ms = at_ms
        match hint.kind:
            case Kind.ENDED:
                lesson.ended_ms.append(at_ms)
                if unheard and lesson.ended:
                    self.late_ends.append((lesson, at_ms))
                    if lesson.slot in self.lessons:
                        self.lessons[lesson.slot].taken_for_its_ms.append(at_ms)
            case Kind.TIMEOUT if lesson.life_ms <= at_ms:
                lesson.timeout_ms.append(at_ms)
            case Kind.DISCONNECTED:
                before = lesson.lost.get(hint.role)
                if before is None or (hint.can_return and not before[1]):
                    lesson.lost[hint.role] = (at_ms, hint.can_return)
            case Kind.CONNECTED:
                lesson.lost.pop(hint.role, None)
                lesson.alive(at_ms)
            case Kind.HEARTBEAT:
                lesson.alive(at_ms)
            case Kind.SETTLE:
                lesson.told_ms = at_ms

    async def do(self, what: Awaitable[Any]) -> Any:
        found = await what
        await self.act()
        return found

    # The chain --------------------------------------------------------------------------------------------------

    async def start(self, slot: int, beating: bool, announced: bool, heard: bool = True) -> Lesson:
        self.last_id += 1
        self.rooms += 1
        key = SessionKey(self.last_id, STUDENTS[slot], TUTORS[slot])
        at_s = (self.now - T0) // 1000
        # What a reorg took and gives back is the same session, and what was said of it counts.
        before = next((one for one in self.taken_back if one.key == key), None)
        lesson = before or Lesson(key, f"req_{self.rooms}", slot, 0)
        lesson.started_ms, lesson.beating, lesson.over = T0 + at_s * 1000, beating and heard, False
        lesson.taken_for_its_ms = [
            at_ms
            for other, at_ms in self.late_ends
            if other.slot == slot and other is not lesson and at_ms + EARLY_MS >= lesson.started_ms
        ]
        if announced and heard:
            await self.say(lesson, Kind.READY, Source.SOCKET)
        await self.keeper.start(key, at_s)
        lesson.start_block = self.keeper.block
        self.lessons[slot] = lesson
        await self.tell_balances()
        if not announced and heard:
            await self.say(lesson, Kind.READY, Source.SOCKET)
        await self.act()
        return lesson

    async def end(self, lesson: Lesson) -> None:
        if lesson.ended:
            return
        lesson.ended = True
        del self.lessons[lesson.slot]
        self.past.append(lesson)
        if lesson.key.student in self.balances:
            lesson.paid = min(self.owed_by(lesson, self.now), self.balances[lesson.key.student])
            self.balances[lesson.key.student] -= lesson.paid
        await self.keeper.end(lesson.key, max((self.now - T0) / 1000, 0))
        lesson.end_block = self.keeper.block
        await self.tell_balances()

    async def reorg(self) -> None:
        """The newest block goes; what started there never did, what ended there goes on."""
        top = self.keeper.block
        taken = await self.keeper.reorg(top - 1)
        self.keeper.block = top  # the new branch is as high, and empty
        for slot, lesson in list(self.lessons.items()):
            if lesson.start_block == top:
                del self.lessons[slot]
                self.last_id = lesson.key.session_id - 1  # the next to start gets the id
                self.taken_back.append(lesson)
        for lesson in [one for one in self.past if one.end_block == top]:
            self.past.remove(lesson)
            if lesson.slot not in self.lessons:
                lesson.ended = False
                self.lessons[lesson.slot] = lesson
                if lesson.key.student in self.balances:
                    self.balances[lesson.key.student] += lesson.paid
        await self.keeper.reconciler.chain_changed(started=[], ended=[], retracted=list(taken))
        await self.tell_balances()
        await self.act()

    def owed_by(self, lesson: Lesson, at_ms: int) -> int:
        return max(0, at_ms // 1000 - lesson.started_ms // 1000) * RATE

    def owed(self, student: str, at_ms: int) -> int:
        return sum(self.owed_by(one, at_ms) for one in self.lessons.values() if one.key.student == student)

    async def tell_balances(self) -> None:
        for student, balance in self.balances.items():
            if self.keeper.reconciler.watches(student):
                await self.keeper.reconciler.set_balance(student, balance)
        await self.act()

    # What was ordered -------------------------------------------------------------------------------------------

    async def act(self) -> None:
        """Has judged what was ordered, and does it."""
        effects = self.keeper.effects
        while effects.nudges or effects.settles:
            if effects.nudges:
                await self._nudge(*effects.nudges.pop(0))
            else:
                self.judge.ordered(*effects.settles[0])
                self.ordered.append(effects.settles.pop(0))
        self.judge.note_breaker()
        if self.sends and self.ordered:
            await self.send()

    async def send(self) -> None:
        """As the sender: asks again just before it signs; what is held waits."""
        ordered, self.ordered = self.ordered, []
        for action_id, key in ordered:
            reconciler = self.keeper.reconciler
            if reconciler.withdrawn(key):
                await self._settled(key, "withdrawn", action_id)
            elif not reconciler.still_due(key):
                self.ordered.append((action_id, key))
            elif self.refuses:
                self.reached["refused"] += 1
                await self._settled(key, "refused", action_id)
            else:
                lesson = self.judge.signs(key)
                if lesson.poison:
                    lesson.failed += 1
                    assert lesson.failed <= MAX_ATTEMPTS, "what was set aside is tried only when somebody says so"
                    await self._settled(key, "failed", action_id)
                else:
                    await self.end(lesson)
                    await self._settled(key, "settled", action_id)

    async def _settled(self, key: SessionKey, outcome: str, action_id: int) -> None:
        said = {"outcome": outcome, "reason": None if outcome == "settled" else outcome, "tx_hash": "0x1"}
        await self.do(self.keeper.reconciler.outcome(key, Kind.SETTLEMENT, said, action_id))

    async def _nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any]) -> None:
        lesson = self.lesson(key)
        delivered, answerable = self.channel["delivered"], self.channel["answerable"]
        if lesson is not None:
            lesson.missed |= not delivered
            if delivered and answerable:
                lesson.objectable_ms = lesson.objectable_ms or self.now
                if payload["ask"]:
                    lesson.asked_ms = lesson.asked_ms or self.now
        said = {
            "outcome": "delivered" if delivered else "sent" if delivered is None else "failed",
            "mark": payload["mark"],
            "ask": payload["ask"] and answerable,
        }
        await self.keeper.reconciler.outcome(key, Kind.NUDGE, self.channel | said, action_id)
