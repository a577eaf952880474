"""The demo's script: eight things that happen to lessons, and what must come of each.

Promises: all lessons begin together, with people who appear in no other; each scenario is played by signals
and transactions alone, from outside the keeper. What is expected is written here beside what is done.

In seconds after the first lesson:

    A   0–25   1 2 3 4 5 7, at the same time
    B  25–60   6, three crashes one after the other
    C  60–90   8, an outage
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from scripts.world.backends import PlainBackend
from scripts.world.lessons import Ending, Lesson
from scripts.world.rpc_proxy import When
from scripts.world.verdict import (
    LATE_S,
    Chain,
    Judge,
    Row,
    all_of,
    ended_by,
    ended_by_keeper,
    paid_by_student,
    still_running,
)
from scripts.world.world import World

# The keeper's policy in the demo, and the world's own pace.
GRACE_S = 4
WINDOW_S = 5
TIMEOUT_S = 6
HEAD_START_S = 2
HEARTBEAT_S = 1.5
# Longer than timeout and grace together: a keeper that took the silence for evidence would end the living
# lesson.
OUTAGE_S = 12
RECONNECT_S = 20
POLICY = {
    "DISCONNECT_GRACE_S": GRACE_S,
    "NUDGE_WINDOW_S": WINDOW_S,
    "HEARTBEAT_TIMEOUT_S": TIMEOUT_S,
    "HEARTBEAT_ARM_COUNT": 3,
    "HEARTBEAT_ARM_S": 3,
    "BACKEND_HEAD_START_S": HEAD_START_S,
    "PAY_WAIT_S": 4,
    "FEED_SILENCE_S": 6,
    "SOLE_ROOM_TIMEOUT_S": 20,
    "CONFIRMATIONS": 2,
    "POLL_INTERVAL_S": 0.3,
}

# Who is in which lesson: numbers of student and tutor.
CAST = {
    "background": (0, 0),
    "1": (1, 1),
    "2": (2, 2),
    "3": (3, 3),
    "4": (4, 4),
    "5": (5, 5),
    "7": (6, 6),
    "6 stored": (7, 7),
    "6 broadcast": (8, 8),
    "6 down": (9, 9),
    "8 hung up": (10, 10),
    "8 alive": (11, 11),
}
# These begin later, with a tutor who was in another lesson.
NEXT = {"7 next": (12, 6), "6 next": (13, 9)}
STUDENTS, TUTORS = 14, 12


@dataclass(slots=True)
class Scenario:
    """One entry of the report: what is done, and what must come of it."""

    name: str
    expected: str
    play: Callable[[Stage], Awaitable[None]]
    judge: Judge
    trouble: str = "not played"


@dataclass(slots=True)
class Stage:
    """One world with its lessons by name."""

    world: World
    say: Callable[[str], None]
    cast: dict[str, Lesson] = field(default_factory=dict)

    @property
    def reaches_people(self) -> bool:
        """Whether a nudge can get anywhere."""
        return not isinstance(self.world.backend, PlainBackend)

    async def begin(self, name: str) -> None:
        student, tutor = (CAST | NEXT)[name]
        self.cast[name] = await self.world.begin(self.world.students[student], self.world.tutors[tutor])

    async def until_ended(self, name: str, timeout_s: float) -> None:
        """Wait until the session is over on chain, or so long. What it means is the judge's business."""
        lesson = self.cast[name]
        try:
            await asyncio.wait_for(self.world.until_over(lesson), timeout_s)
            self.say(f"{name}: session {lesson.session_id} is over")
        except TimeoutError:
            self.say(f"{name}: session {lesson.session_id} is still active")


class Performance:
    """All eight scenarios in one world."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.scenarios = scenarios(stage)

    async def play(self) -> None:
        """The whole script. Trouble with a scenario is kept for its row, and the others go on."""
        stage, (one, two, three, four, five, six, seven, eight) = self.stage, self.scenarios
        try:
            await asyncio.gather(*(stage.begin(name) for name in CAST))
        except Exception as error:
            for scenario in self.scenarios:
                scenario.trouble = f"no lesson began: {error!r}"
            return
        stage.say(f"{len(CAST)} lessons have begun")
        # So that there is something to leave.
        await asyncio.sleep(2)
        stage.say("phase A: lessons are left in all the usual ways")
        await asyncio.gather(*(self._scene(scenario) for scenario in (one, two, three, four, five, seven)))
        stage.say("phase B: the keeper is killed, three times")
        await self._scene(six)
        stage.say("phase C: an outage")
        await self._scene(eight)

    async def _scene(self, scenario: Scenario) -> None:
        scenario.trouble = "not played to its end"
        try:
            await scenario.play(self.stage)
            scenario.trouble = ""
        except Exception as error:
            scenario.trouble = f"broke off: {error!r}"
            self.stage.say(f"{scenario.name}: {scenario.trouble}")

    def rows(self, chain: Chain) -> list[Row]:
        """The report's entries for this world."""
        return [self._row(scenario, chain) for scenario in self.scenarios]

    def _row(self, scenario: Scenario, chain: Chain) -> Row:
        try:
            observed, ok = scenario.judge(chain)
        except KeyError:
            observed, ok = "a lesson never began", False
        if scenario.trouble:
            observed, ok = f"{scenario.trouble}; {observed}", False
        return Row(scenario.name, self.stage.world.name, scenario.expected, observed, ok)


def scenarios(stage: Stage) -> tuple[Scenario, ...]:
    """The eight, in order. Where nobody can be reached there is no window, only grace or head start."""
    cast, reach = stage.cast, stage.reaches_people
    window_s = WINDOW_S if reach else 0
    # A hang-up's heartbeats stop a moment before it.
    hung_up_s = WINDOW_S if reach else max(HEAD_START_S, GRACE_S - HEARTBEAT_S)
    lost_s = GRACE_S + window_s
    silent_s = TIMEOUT_S + GRACE_S - HEARTBEAT_S
    return (
        Scenario(
            "1 hang-up, the student pays",
            "ended once, by student, because of the nudge"
            if reach
            else "ended once, by student, unasked; keeper stays out",
            _hang_up_and_pay,
            paid_by_student(cast, "1", nudged=reach),
        ),
        Scenario(
            "2 hang-up, nobody pays",
            _by_keeper(hung_up_s),
            _hang_up,
            ended_by_keeper(cast, "2", hung_up_s, hung_up_s + LATE_S),
        ),
        Scenario(
            "3 connection lost, and back within the grace",
            "still running",
            _lost_and_back,
            still_running(cast, "3"),
        ),
        Scenario(
            "4 connection lost for good",
            _by_keeper(lost_s),
            _lost,
            ended_by_keeper(cast, "4", lost_s, lost_s + LATE_S),
        ),
        Scenario(
            "5 heartbeats stop",
            f"silent: {_by_keeper(silent_s)}; alive: still running",
            _freeze,
            all_of(
                silent=ended_by_keeper(cast, "5", silent_s, silent_s + LATE_S),
                alive=still_running(cast, "background"),
            ),
        ),
        Scenario(
            "6 keeper killed with SIGKILL",
            "each ended once; stored: by keeper; broadcast: by keeper; down: by student; next: still running",
            _crashes,
            all_of(
                stored=ended_by(cast, "6 stored", "keeper"),
                broadcast=ended_by(cast, "6 broadcast", "keeper"),
                down=ended_by(cast, "6 down", "student"),
                next=still_running(cast, "6 next"),
            ),
        ),
        Scenario(
            "7 late end hint, tutor in the next lesson",
            "first: ended once, by student; next: still running",
            _late_hint,
            all_of(first=ended_by(cast, "7", "student"), next=still_running(cast, "7 next")),
        ),
        Scenario(
            "8 outage of the connection" if reach else "8 outage of the backend",
            f"hung up: ended once, by keeper, at most {WINDOW_S + LATE_S:.0f} s after the return; alive: still running",
            _outage,
            all_of(
                hung_up=ended_by_keeper(cast, "8 hung up", -OUTAGE_S - RECONNECT_S, WINDOW_S + LATE_S),
                alive=still_running(cast, "8 alive"),
            ),
        ),
    )


def _by_keeper(after_s: float) -> str:
    return f"ended once, by keeper, after {after_s:.0f} to {after_s + LATE_S:.0f} s"


async def _hang_up_and_pay(stage: Stage) -> None:
    await stage.cast["1"].leave(Ending.PAID_WHEN_NUDGED if stage.reaches_people else Ending.PAID_AT_ONCE)
    await stage.until_ended("1", WINDOW_S + LATE_S)


async def _hang_up(stage: Stage) -> None:
    await stage.cast["2"].leave(Ending.UNPAID)
    await stage.until_ended("2", WINDOW_S + LATE_S)


async def _lost_and_back(stage: Stage) -> None:
    stage.cast["3"].lose()
    await asyncio.sleep(GRACE_S / 2)
    stage.cast["3"].come_back()
    await asyncio.sleep(GRACE_S + WINDOW_S)


async def _lost(stage: Stage) -> None:
    await stage.cast["4"].leave(Ending.LOST)
    await stage.until_ended("4", GRACE_S + WINDOW_S + LATE_S)


async def _freeze(stage: Stage) -> None:
    # Silence means something only after heartbeats that spanned HEARTBEAT_ARM_S.
    await asyncio.sleep(4)
    await stage.cast["5"].leave(Ending.FROZEN)
    await stage.until_ended("5", TIMEOUT_S + GRACE_S + LATE_S)


async def _late_hint(stage: Stage) -> None:
    first = stage.cast["7"]
    first.freeze()
    await first.student.pay()
    await stage.begin("7 next")
    await asyncio.sleep(2)
    # The old room's end arrives now: as it was, and again under the new chain id with the old student.
    signalling, new_id = stage.world.signalling, stage.cast["7 next"].session_id
    signalling.report_end(first.room, "student", first.student.address)
    signalling.report_end(first.room, "student", first.student.address, session_id=new_id)
    await asyncio.sleep(WINDOW_S + GRACE_S)


async def _crashes(stage: Stage) -> None:
    keeper = stage.world.keeper
    for name, when in (("6 stored", When.BEFORE), ("6 broadcast", When.AFTER)):
        await _crash(stage, name, when)
        await keeper.start()
        stage.say(f"{name}: keeper runs again")
    await _crash(stage, "6 down", When.BEFORE)
    await stage.cast["6 down"].student.pay()
    await stage.begin("6 next")
    stage.say("6 down: paid by the student, and the tutor is in the next lesson")
    await keeper.start()
    stage.say("6 down: keeper runs again")
    for name in ("6 stored", "6 broadcast"):
        await stage.until_ended(name, LATE_S)


async def _crash(stage: Stage, name: str, when: When) -> None:
    lesson = stage.cast[name]
    crash = stage.world.rpc.kill_on_settlement(lesson.tutor.address, when)
    lesson.hang_up()
    await asyncio.wait_for(crash, WINDOW_S + LATE_S)
    await stage.world.keeper.until_dead()
    stage.say(f"{name}: keeper killed {when} its transaction was passed on")


async def _outage(stage: Stage) -> None:
    backend, lesson = stage.world.backend, stage.cast["8 hung up"]
    if isinstance(backend, PlainBackend):
        begin, end, returned = backend.stop, backend.start, partial(backend.until_clients, 1)
    else:
        line = stage.world.line
        begin, end, returned = line.cut, line.restore, line.until_used
    await begin()
    stage.say("8: the backend is gone")
    await asyncio.sleep(2)
    lesson.hang_up()
    await asyncio.sleep(OUTAGE_S - 2)
    await end()
    stage.say("8: the backend is back")
    # What counts is the return as the keeper sees it: it tries again at growing intervals.
    await asyncio.wait_for(returned(), RECONNECT_S)
    lesson.left_at = time.time()
    stage.say("8: the keeper is connected again")
    await stage.until_ended("8 hung up", WINDOW_S + LATE_S)
    # The other one was silent as long; a keeper that holds that against it gets the time to show it.
    await asyncio.sleep(GRACE_S)
