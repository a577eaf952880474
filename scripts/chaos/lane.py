"""One keeper, one contract, one mode: runs follow each other here, each with at least one SIGKILL.

Promises: a run leaves the contract without active sessions and the keeper running, or raises that it couldn't; then
`recover` does. The keeper's process lives on between runs, so that one crash costs one start.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from scripts.chaos.nursery import Nursery, WarmKeeper
from scripts.chaos.patience import PatientNode
from scripts.chaos.plan import Kill, Plan, Restart, Window
from scripts.chaos.proxy import ChaosProxy
from scripts.chaos.record import Record
from scripts.world import deployment
from scripts.world.chain import END_GAS, END_SESSION, End, Key, LangDAO, Reverted, RpcError
from scripts.world.delegation import delegate
from scripts.world.deployment import Deployed
from scripts.world.keeper import Keeper
from scripts.world.processes import Crew, Failed

# What a hang-up leads to isn't what is tried here: an end is due at once. Everything else is as by default, but for the
# gas budget, which would stop a thousand runs.
SETTINGS = {
    "DISCONNECT_GRACE_S": 0,
    "NUDGE_WINDOW_S": 0,
    "MASS_END_COUNT": 1_000_000,  # a lane's lessons all end, and what ends them is what is watched
    "BACKEND_HEAD_START_S": 0,
    "POLL_INTERVAL_S": 0.25,
    "DAILY_GAS_BUDGET_ETH": 1000,
}
MISSED_S = 6.0  # a window that isn't reached by then is missed: the kill comes anyway
REPLACED_S = 25.0  # the same, where something has to be replaced first
START_S = 120.0
BLOCK_S = 1
CALM_S = 40.0  # after the last start, until everything has to be over; and as many blocks, should the node be slow


class Died(Failed):
    """The keeper ended, and nobody had killed it."""


@dataclass(slots=True)
class Result:
    """What one run came to."""

    plan: Plan
    decided: int = 0
    ended: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    wrong_session: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    hit: bool = False  # the window was met
    took_s: float = 0.0

    @property
    def faults(self) -> list[str]:
        return [
            f"{name}: {text}"
            for name in ("lost", "double", "wrong_session", "unexplained")
            for text in getattr(self, name)
        ]


@dataclass(slots=True)
class Lesson:
    student: Key
    tutor: Key
    session_id: int
    room: str = field(default_factory=lambda: f"req_{secrets.token_hex(4)}")
    opened_ms: int = field(default_factory=lambda: round(time.time() * 1000))
    heard: bool = False  # the keeper acknowledged the hang-up


class Lane:
    """See the module. `lessons` at most can be held at once; for each there are two students and a tutor."""

    def __init__(
        self, crew: Crew, nursery: Nursery, node: PatientNode, deployed: Deployed, number: int, *, guarded: bool
    ) -> None:
        self.name = f"lane-{number}"
        self.guarded = guarded
        self._signer = deployed.keeper if guarded else deployed.owner
        self.lessons = len(deployed.tutors)
        self._deployed = deployed
        self._node = node
        self._dao = LangDAO(node, deployed.contract, deployed.chain_id, deployment.LANGUAGE)
        self._proxy = ChaosProxy(node.url, self._kill)
        self._crew = crew
        self._nursery = nursery
        self._keeper: Keeper | None = None
        self._record: Record | None = None
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        self._told: set[str] = set()
        # Where one run's look at the chain ends, the next one's begins: no block goes unseen.
        self._first_block = 0
        self._open: list[Lesson] = []  # what this run began

    @property
    def log(self) -> Path:
        return self.keeper.log

    @property
    def keeper(self) -> Keeper:
        assert self._keeper is not None
        return self._keeper

    @property
    def record(self) -> Record:
        assert self._record is not None
        return self._record

    async def open(self) -> None:
        await self._proxy.start()
        if self.guarded:
            await delegate(self._node, self._deployed)
        settings = {
            "RPC_URL": self._proxy.url,
            "CONTRACT_ADDRESS": self._deployed.contract,
            "START_BLOCK": self._deployed.deploy_block,
            "BACKEND_PRIVATE_KEY": self._signer.key,
            **SETTINGS,
        }
        self._keeper = WarmKeeper(self._crew, self._nursery, self.name, settings)
        self._record = Record(self._keeper.folder / "keeper.db")
        self._first_block = await self._node.height() + 1
        await self._keeper.start()

    async def recover(self) -> None:
        """After a run that broke off: nothing of it is judged, and nothing is left of it. Raises Failed."""
        self._proxy.disarm()
        if not self.keeper.running:
            await self.keeper.start(START_S)
        await self._clean_up(self._open)
        deadline = time.monotonic() + START_S
        while not self.record.calm({lesson.session_id for lesson in self._open}):
            if time.monotonic() > deadline:
                raise Failed(f"the keeper doesn't come to rest; its log is {self.log}")
            await asyncio.sleep(1)
        self._first_block = await self._node.height() + 1
        self._told |= set(self.record.suspicions())

    async def close(self) -> None:
        await self._http.close()
        await self._proxy.stop()

    async def run(self, plan: Plan) -> Result:
        began = time.monotonic()
        result = Result(plan)
        if not self.keeper.running:
            result.unexplained.append(f"the keeper ended by itself; its log is {self.log}")
            await self.keeper.start(START_S)
        students, tutors = self._deployed.students, self._deployed.tutors
        self._open = []
        lessons = await self._begin(students[: plan.lessons], tutors[: plan.lessons])
        result.hit = await self._hang_up_and_kill(lessons, plan.kill)
        following = await self._pause(plan, lessons)
        await self.keeper.start(START_S)
        if plan.again is not None:
            await self._hang_up_and_kill(lessons, plan.again)
            await self.keeper.start(START_S)
        calm = await self._until_over(lessons)
        await self._judge(result, lessons, following, calm)
        await self._clean_up([*lessons, *following])
        result.took_s = time.monotonic() - began
        return result

    # The parts of a run ----------------------------------------------------------------------------------------------

    async def _begin(self, students: tuple[Key, ...], tutors: tuple[Key, ...]) -> list[Lesson]:
        pairs = list(zip(students, tutors, strict=True))
        ids = await asyncio.gather(*(self._dao.start(student, tutor.address) for student, tutor in pairs))
        begun = [Lesson(student, tutor, number) for (student, tutor), number in zip(pairs, ids, strict=True)]
        self._open += begun
        return begun

    async def _hang_up_and_kill(self, lessons: list[Lesson], kill: Kill) -> bool:
        """Whether the kill came in its window."""
        if kill.window is Window.RANDOM:
            done = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(kill.after_s, self._kill_at, done)
        else:
            done = self._proxy.arm(kill)
        await self._hang_up(lessons, until=done)
        paying = asyncio.create_task(self._pay_once_dropped(lessons[0], kill))
        try:
            patience_s = REPLACED_S if kill.window in (Window.W6, Window.W7) else MISSED_S
            await asyncio.wait_for(asyncio.shield(done), patience_s)
            hit = True
        except TimeoutError:
            hit = False
            self._proxy.disarm()
            self._kill()
        await self.keeper.until_dead()
        paying.cancel()
        await asyncio.wait([paying])
        return hit

    async def _pay_once_dropped(self, lesson: Lesson, kill: Kill) -> None:
        """Of W6: the student pays while the keeper's own settlement is under way, and so is taken back."""
        if kill.window is Window.W6 and kill.retracts:
            await self._proxy.dropped.wait()
            await self._end_as_student(lesson)

    async def _pause(self, plan: Plan, lessons: list[Lesson]) -> list[Lesson]:
        """What happens while the keeper is down. Returns the lessons that began meanwhile."""
        if plan.restart is Restart.LATER:
            await asyncio.sleep(plan.down_s)
        if plan.restart is not Restart.NEXT_LESSON:
            return []
        await self._a_block()  # what the node has of the keeper's is mined by then
        draw = random.Random(plan.number)
        chosen = [lesson for index, lesson in enumerate(lessons) if index == 0 or draw.random() < 0.5]
        await asyncio.gather(*(self._end_as_student(lesson) for lesson in chosen))
        others = self._deployed.students[self.lessons :]
        return await self._begin(tuple(others[: len(chosen)]), tuple(lesson.tutor for lesson in chosen))

    async def _until_over(self, lessons: list[Lesson]) -> bool:
        """Whether everything that had to end has ended and is written down, in time."""
        began, height = time.monotonic(), await self._node.height()
        asked = {lesson.session_id for lesson in lessons}
        while time.monotonic() - began < CALM_S or await self._node.blocks_since(height) * BLOCK_S < CALM_S:
            await self._hang_up(lessons)
            over = not any(await asyncio.gather(*(self._active(lesson) for lesson in lessons)))
            if over and self.record.calm(asked):
                await self._a_block()  # whatever is still to come has come
                return self.record.calm(asked)
            await asyncio.sleep(0.3)
        return False

    async def _clean_up(self, lessons: list[Lesson]) -> None:
        await asyncio.gather(*(self._end_as_student(lesson) for lesson in lessons))

    # Judging ---------------------------------------------------------------------------------------------------------

    async def _judge(self, result: Result, lessons: list[Lesson], following: list[Lesson], calm: bool) -> None:
        last = await self._node.height()
        ends = [end for end in await self._dao.ends(self._first_block) if end.block <= last]
        blocks = await self._node.blocks(self._first_block, last)
        self._first_block = last + 1
        signer = self._signer.address
        decided, known, txs = self.record.decided(), self.record.settlements(), self.record.txs()
        asked = {lesson.session_id for lesson in lessons}
        for lesson in lessons:
            self._judge_lesson(result, lesson, ends, decided, known)
        for end in ends:
            if end.session_id not in asked and end.sender == signer:
                result.wrong_session.append(f"{end.session_id} was ended by {end.tx_hash}")
        for lesson in following:
            if lesson.session_id not in {end.session_id for end in ends} and not await self._active(lesson):
                result.unexplained.append(f"session {lesson.session_id} is over without SessionEnded")
        for session_id in asked:
            mined = [tx.hash for tx in txs if session_id in tx.sessions and tx.kind == "settle" and tx.mined]
            if len(mined) > 1:
                result.double.append(f"session {session_id} has {len(mined)} mined settlements")
        if not calm:
            waiting = [f"{tx.hash} {tx.state}" for tx in txs if tx.state in ("stored", "sent")]
            open_ones = sorted(self.record.open_settlements())
            result.unexplained.append(f"not calm after {CALM_S:.0f} s: open {open_ones}, waiting {waiting}")
        ours = {tx.hash for tx in txs}
        for block in blocks:
            for tx in block["transactions"]:
                if tx["from"].lower() == signer.lower() and tx["hash"] not in ours:
                    result.unexplained.append(f"{tx['hash']} was mined and isn't in the record")
        await self._judge_nonces(result)
        for text in self.record.suspicions():
            if text not in self._told:
                self._told.add(text)
                result.unexplained.append(f"alert: {text}")

    def _judge_lesson(
        self, result: Result, lesson: Lesson, ends: list[End], decided: set[int], known: dict[int, dict[str, object]]
    ) -> None:
        number = lesson.session_id
        found = [end for end in ends if end.session_id == number]
        if number in decided:
            result.decided += 1
            result.ended += len(found) == 1
        if not found:
            result.lost.append(f"session {number} hasn't ended ({'decided' if number in decided else 'never decided'})")
        if len(found) > 1:
            result.double.append(f"session {number} ended {len(found)} times")
        if len(found) != 1:
            return
        [end], written = found, known.get(number)
        if written is None or written["tx_hash"] != end.tx_hash:
            result.unexplained.append(f"session {number} ended in {end.tx_hash}, written down is {written}")
        elif end.sender == self._signer.address:
            if number not in decided or not written["by_keeper"] or not written["reason"]:
                result.unexplained.append(f"session {number} ended by the keeper, written down is {written}")
        elif written["by_keeper"]:
            result.unexplained.append(f"session {number} ended by {end.sender}, written down is {written}")

    async def _judge_nonces(self, result: Result) -> None:
        """A nonce that is used in the pool and not on the chain is a gap or a transaction that hangs."""
        used, pending = await asyncio.gather(
            self._node.call("eth_getTransactionCount", self._signer.address, "latest"),
            self._node.call("eth_getTransactionCount", self._signer.address, "pending"),
        )
        if used != pending:
            result.unexplained.append(f"nonce {int(used, 16)} is the chain's, {int(pending, 16)} the pool's")
        highest = max((tx.nonce for tx in self.record.txs() if tx.mined), default=-1)
        if highest >= int(used, 16):
            result.unexplained.append(f"nonce {highest} is written down as mined, the chain's next is {int(used, 16)}")

    # Small things ----------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        self.keeper.kill()

    def _kill_at(self, done: asyncio.Future[str]) -> None:
        self._kill()
        if not done.done():
            done.set_result("")

    async def _hang_up(self, lessons: list[Lesson], until: asyncio.Future[str] | None = None) -> None:
        """Say it until the keeper acknowledges, or until it is dead."""
        for lesson in lessons:
            while not lesson.heard and not (until is not None and until.done()):
                lesson.heard = await self._post(lesson)
                if not lesson.heard:
                    if until is None and not self.keeper.running:
                        raise Died(f"the keeper ended by itself; its log is {self.log}")
                    await asyncio.sleep(0.1)

    async def _post(self, lesson: Lesson) -> bool:
        now_ms = round(time.time() * 1000)
        message = {
            "type": "session-ended",
            "sessionId": lesson.room,
            "endedBy": "student",
            "userAddress": lesson.student.address,
            "timestamp": now_ms,
            "session": {
                "startTime": lesson.opened_ms,
                "durationSeconds": (now_ms - lesson.opened_ms) // 1000,
                "tutorAddress": lesson.tutor.address,
                "studentAddress": lesson.student.address,
                "language": self._dao.language,
            },
        }
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._http.post(self.keeper.webhook, json=message) as answer:
                return answer.status == 200
        return False

    async def _active(self, lesson: Lesson) -> bool:
        return (await self._dao.session(lesson.session_id)).active

    async def _end_as_student(self, lesson: Lesson) -> None:
        if not await self._active(lesson):
            return
        data = END_SESSION + "00" * 12 + lesson.tutor.address[2:].lower()
        with contextlib.suppress(Reverted, RpcError):
            await self._node.receipt(await self._dao.send(lesson.student, data, END_GAS))

    async def _a_block(self) -> None:
        height = await self._node.height()
        while await self._node.height() == height:  # noqa: ASYNC110 (another program's event)
            await asyncio.sleep(0.1)
