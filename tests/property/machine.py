"""Random histories for a keeper: people and pages, forgers, failing feeds and chains, in any order.

Hints are dropped, doubled, late, forged at each level of trust, and name other people's sessions; the chain starts,
ends and reorganises, and lets an end revert; balances run out; feeds fail, the keeper stalls, is paused and restarts,
its clock jumps by days. What must hold is said in `tests.property.judge`, but for what concerns a restart and the
record, which is said here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bot.domain import replay
from bot.domain.facts import Kind, Role, Source, Trust
from bot.domain.policy import Hints, Policy
from bot.store import history
from tests.property.stage import STUDENTS, TUTORS, Lesson, Stage
from tests.support.keeper import RATE
from tests.support.sessions import address

SLOTS = st.integers(0, 2)
WORDS = (Kind.ENDED, Kind.DISCONNECTED, Kind.TIMEOUT, Kind.CONNECTED, Kind.HEARTBEAT, Kind.READY)
HOURS = (600, 7_300, 90_000, 260_000)
FUNDS = st.sampled_from((None, None, 60, 400, 2_000, 100_000))  # seconds of one lesson; None: nothing is known of it
CHANNELS = (
    {"delivered": True, "answerable": True},
    {"delivered": True, "answerable": True},
    {"delivered": True, "answerable": False},
    {"delivered": None, "answerable": False},  # a channel that doesn't say
    {"delivered": False, "answerable": False},
)


class Machine(RuleBasedStateMachine):
    hints: ClassVar[Hints] = Hints.YES
    reached: ClassVar[Counter[str]] = Counter()  # in how many examples each state was really met

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stage = Stage()
        self.sound = True

    def teardown(self) -> None:
        try:
            if not self.sound:
                return  # what was found is what is to be told
            self.run(self._all_over_is_dealt_with())
            self._replay_equals_history()
            for state in +self.stage.reached:
                self.reached[state] += 1
                event(state)
        finally:
            self.stage.close()
            self.runner.close()

    def run(self, what: Awaitable[Any]) -> Any:
        async def whole() -> Any:
            found = await what
            await self.stage.act()
            return found

        try:
            return self.runner.run(whole())
        except BaseException:
            self.sound = False
            raise

    def lesson(self, slot: int) -> Lesson | None:
        return self.stage.lessons.get(slot)

    # What is going on --------------------------------------------------------------------------------------------

    @initialize(
        beating=st.tuples(*[st.none() | st.booleans()] * 3),
        seconds=st.integers(0, 60),
        mass=st.sampled_from((10, 1, 2)),
        canary=st.booleans(),
        channel=st.sampled_from(CHANNELS),
        pages_stay=st.sampled_from((False, False, False, True)),
        funds=st.tuples(FUNDS, FUNDS),
        skew=st.sampled_from((None, -3_600_000, 0, 700_000)),
    )
    def begin(
        self,
        beating: tuple[bool | None, ...],
        seconds: int,
        mass: int,
        canary: bool,
        channel: dict[str, Any],
        pages_stay: bool,
        funds: tuple[int | None, ...],
        skew: int | None,
    ) -> None:
        stage = self.stage
        stage.browser_skew_ms, stage.canary = skew, canary
        stage.channel, self.pages_stay = channel, pages_stay
        students = dict.fromkeys(STUDENTS)
        stage.balances = {who: held * RATE for who, held in zip(students, funds, strict=True) if held is not None}
        self.run(stage.open(replace(Policy(), hints=self.hints, mass_end_count=mass)))
        for slot, beats in enumerate(beating):
            if beats is not None:
                self.run(stage.start(slot, beats, announced=True))
        self.run(stage.passes(seconds * 1000))

    @precondition(lambda self: len(self.stage.lessons) < len(TUTORS))
    @rule(slot=SLOTS, announced=st.booleans(), beating=st.booleans(), heard=st.sampled_from((True, True, True, False)))
    def start(self, slot: int, announced: bool, beating: bool, heard: bool) -> None:
        if slot not in self.stage.lessons:
            self.run(self.stage.start(slot, beating, announced, heard))

    @rule(seconds=st.integers(1, 100) | st.sampled_from((150, 400, 700)))
    def time_passes(self, seconds: int) -> None:
        self.run(self.stage.passes(seconds * 1000))

    @precondition(lambda self: self.stage.lessons)
    @rule(
        slot=SLOTS,
        copies=st.integers(0, 2),
        source=st.sampled_from((Source.SOCKET, Source.WEBHOOK, Source.RECORD)),
        page_stays=st.booleans(),
        haunted=st.booleans(),
    )
    def hang_up(self, slot: int, copies: int, source: Source, page_stays: bool, haunted: bool) -> None:
        """The call is over; the word of it is lost, comes, or comes twice. A page, or somebody else, may go on."""
        lesson = self.lesson(slot)
        if lesson is not None and not lesson.over:
            lesson.over = True
            lesson.beating &= page_stays
            lesson.haunted |= haunted
            if copies:
                self.run(self.stage.say(lesson, Kind.ENDED, source, copies))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, channel=st.sampled_from(CHANNELS[2:]) | st.just(CHANNELS[0]))
    def forgotten_page(self, slot: int, channel: dict[str, Any]) -> None:
        """The call is over, which is said, but a page stays open and sends heartbeats for long."""
        lesson = self.lesson(slot)
        if lesson is not None and not lesson.over:
            self.stage.webhook_up, self.stage.channel = True, channel
            lesson.over = lesson.beating = True
            self.run(self.stage.say(lesson, Kind.ENDED, Source.SOCKET))
            self.run(self.stage.passes(700_000))

    @precondition(lambda self: self.stage.lessons)
    @rule(kind=st.sampled_from((Kind.ENDED, Kind.TIMEOUT)), truly=st.booleans(), insists=st.booleans())
    def wave(self, kind: Kind, truly: bool, insists: bool) -> None:
        """The backend says of all lessons that they are over, and perhaps says it again of those that go on."""
        for lesson in list(self.stage.lessons.values()):
            if truly:
                lesson.over, lesson.beating = True, False
            self.run(self.stage.say(lesson, kind, Source.SOCKET))
        if insists:
            self.run(self.stage.passes(100_000))
            for lesson in list(self.stage.lessons.values()):
                self.run(self.stage.say(lesson, kind, Source.SOCKET))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, role=st.none() | st.sampled_from(Role), back=st.booleans(), tells=st.booleans())
    def connection_lost(self, slot: int, role: Role | None, back: bool, tells: bool) -> None:
        """A participant's connection is lost, and perhaps comes back soon."""
        lesson = self.lesson(slot)
        if lesson is None:
            return
        self.run(self.stage.say(lesson, Kind.DISCONNECTED, Source.WEBHOOK, role=role, can_return=tells))
        if back and not lesson.over:
            self.run(self.stage.passes(10_000))
            if not lesson.ended:
                self.run(self.stage.say(lesson, Kind.CONNECTED, Source.WEBHOOK, role=role))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, kind=st.sampled_from(WORDS), trust=st.sampled_from((Trust.ANONYMOUS, Trust.MAPPING)))
    def forged(self, slot: int, kind: Kind, trust: Trust) -> None:
        """Anybody says anything of a lesson."""
        lesson = self.lesson(slot)
        if lesson is not None:
            source = Source.OPEN_WEBHOOK if trust is Trust.ANONYMOUS else Source.REDIS
            if kind in (Kind.CONNECTED, Kind.HEARTBEAT) and trust is Trust.ANONYMOUS:
                lesson.haunt_ms = self.stage.now
            self.run(self.stage.say(lesson, kind, source))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, haunted=st.booleans())
    def haunted(self, slot: int, haunted: bool) -> None:
        """Anybody says again and again that a lesson goes on."""
        lesson = self.lesson(slot)
        if lesson is not None:
            lesson.haunted = haunted

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, kind=st.sampled_from((Kind.ENDED, Kind.TIMEOUT)))
    def false_word(self, slot: int, kind: Kind) -> None:
        """A page or the backend says of a lesson that goes on that it is over."""
        lesson = self.lesson(slot)
        if lesson is not None:
            self.run(self.stage.say(lesson, kind, Source.WEBHOOK))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, kind=st.sampled_from((Kind.ENDED, Kind.DISCONNECTED)))
    def mislinked(self, slot: int, kind: Kind) -> None:
        """A word names a lesson's chain id together with other people: it isn't about that lesson."""
        lesson = self.lesson(slot)
        if lesson is not None:
            number = lesson.key.session_id
            people = {"student": address(0xEE), "tutor": address(0xEF)}
            hint = self.stage.keeper.hint(
                kind, Source.SOCKET, room=str(number), session_id=number, can_return=True, **people
            )
            self.run(self.stage.keeper.say(hint))

    @precondition(lambda self: self.stage.past)
    @rule(slot=SLOTS)
    def late_end_of_an_earlier_lesson(self, slot: int) -> None:
        gone = next((one for one in reversed(self.stage.past) if one.slot == slot), None)
        if gone is not None:
            self.run(self.stage.say(gone, Kind.ENDED, Source.SOCKET))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS)
    def still_here(self, slot: int) -> None:
        lesson = self.lesson(slot)
        if lesson is not None and not lesson.over:
            lesson.still_here(self.stage.now)
            self.run(self.stage.keeper.reconciler.still_here(lesson.key, lesson.key.student, {}))
            self.stage.keeper.now += 1  # what a record dates to the same millisecond was said before

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, signed=st.booleans())
    def told_to_end(self, slot: int, signed: bool) -> None:
        lesson = self.lesson(slot)
        if lesson is None:
            return
        lesson.over, lesson.beating = True, False
        if signed:
            self.run(self.stage.say(lesson, Kind.SETTLE, Source.PARTICIPANT))
        else:
            lesson.told_ms, lesson.failed = self.stage.now, 0
            self.run(self.stage.keeper.reconciler.settle(lesson.key.session_id, {}))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS)
    def they_pay(self, slot: int) -> None:
        lesson = self.lesson(slot)
        if lesson is not None:
            lesson.over = True
            self.run(self.stage.end(lesson))

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS)
    def they_are_paying(self, slot: int) -> None:
        """A participant's own endSession waits in the pool, and perhaps never gets out."""
        lesson = self.lesson(slot)
        if lesson is not None and self.stage.keeper.reconciler.may_pay_wait(lesson.key):
            self.run(self.stage.keeper.reconciler.paying(lesson.key, lesson.key.student))

    @rule(student=st.sampled_from((STUDENTS[0], STUDENTS[2])), seconds=st.integers(-600, 600) | st.just(100_000))
    def funds(self, student: str, seconds: int) -> None:
        """A student deposits, or withdraws."""
        known = self.stage.balances.get(student)
        if known is not None:
            self.stage.balances[student] = max(0, known + seconds * RATE)
            self.run(self.stage.tell_balances())

    # What goes wrong ---------------------------------------------------------------------------------------------

    @rule(up=st.booleans())
    def socket(self, up: bool) -> None:
        self.run(self.stage.keeper.reconciler.socket_feed(up))

    @rule(up=st.booleans())
    def webhook(self, up: bool) -> None:
        self.stage.webhook_up = up

    @rule(channel=st.sampled_from(CHANNELS))
    def channels(self, channel: dict[str, Any]) -> None:
        self.stage.channel = channel

    @rule(seconds=st.integers(-20, 300) | st.sampled_from(HOURS))
    def stall_or_clock_jump(self, seconds: int) -> None:
        """Nothing is heard, nothing is done, and the clock goes on, or back."""
        self.run(self.stage.jumps(seconds * 1000))

    @rule(seconds=st.integers(0, 120))
    def restart(self, seconds: int) -> None:
        paused = self.stage.paused
        self.stage.keeper.now += seconds * 1000
        self.run(self.stage.restart())
        self.stage.reached["restart: paused"] += paused
        assert self.stage.keeper.reconciler.conditions.paused == paused, "pause and resume survive restarts"

    @precondition(lambda self: any(not one.ended for one in self.stage.lessons.values()))
    @rule()
    def reorg(self) -> None:
        self.run(self.stage.reorg())

    @rule(how=st.sampled_from(("at once", "later", "refused")))
    def sender(self, how: str) -> None:
        """What is ordered is carried out at once, later, or refused, as when the key can't pay."""
        self.stage.sends, self.stage.refuses = how != "later", how == "refused"
        self.run(self.stage.act())

    @precondition(lambda self: self.stage.lessons)
    @rule(slot=SLOTS, poison=st.booleans())
    def poison(self, slot: int, poison: bool) -> None:
        """The end of a lesson reverts, or would go through again, which the keeper sees by an eth_call."""
        lesson = self.lesson(slot)
        if lesson is not None:
            lesson.poison = poison
            if not poison:
                self.run(self.stage.cure())

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.run(self.stage.ask("pause" if paused else "resume"))

    @precondition(lambda self: self.stage.judge.tripped_ms is not None)
    @rule()
    def release(self) -> None:
        """An operator has looked at what the mass-end breaker holds."""
        self.run(self.stage.ask("release"))

    @precondition(lambda self: self.stage.judge.tripped_ms is not None)
    @rule()
    def nobody_looks(self) -> None:
        """Nobody releases what the mass-end breaker holds, for longer than it may be held."""
        self.run(self.stage.jumps(self.stage.policy.mass_hold_max_ms))
        self.run(self.stage.passes(100_000))

    @rule(unsound=st.booleans())
    def finality(self, unsound: bool) -> None:
        """The chain takes back what was final, or comes to its senses."""
        self.stage.unsound = unsound
        self.run(self.stage.keeper.reconciler.set_unsound(unsound))

    # What must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def deadlines_are_kept(self) -> None:
        earliest = self.stage.keeper.reconciler.deadlines.earliest()
        assert earliest is None or earliest > self.stage.now - 1_000

    async def _all_over_is_dealt_with(self) -> None:
        """Everybody has gone, and everything works again, but for the chain's own trouble."""
        stage = self.stage
        stage.webhook_up = stage.canary = stage.sends = True
        stage.refuses = False
        await stage.keeper.reconciler.socket_feed(True)
        await stage.keeper.reconciler.posted()
        for lesson in stage.lessons.values():
            if not lesson.over:
                lesson.over = True
                lesson.beating &= self.pages_stay
        await stage.act()
        await stage.judge.all_dealt_with()
        await stage.holds_are_lifted()
        stage.judge.nothing_is_held()

    def _replay_equals_history(self) -> None:
        """replay equals history"""
        with self.stage.keeper.database.read() as session:
            policies = history.Policies(session)
            for one in history.read(session, history.sessions(session)):
                made, different = replay.check(one, policies.at)
                for decided in one.decisions:
                    why = str(decided.inputs.get("hold") or decided.reason).partition(":")[0]
                    self.stage.reached[f"{decided.action}: {why}"] += 1
                assert made == len(one.decisions), "replay equals history"
                assert not different, "replay equals history"
