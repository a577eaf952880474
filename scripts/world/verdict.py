"""What the chain says about a lesson, and whether that is what was expected.

Promises: a verdict is made of `SessionEnded` logs, the senders of their transactions, `getSession` and the
owner's other transactions, all read from the node itself. The one thing beside the chain is whether a
student had a nudge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scripts.world.chain import END_SESSION, End, Session
from scripts.world.lessons import Lesson
from scripts.world.world import World

# A block's time is its second's beginning.
EARLY_S = 1.5
# What reconnecting, signing, mining and two busy cores may add.
LATE_S = 12.0


@dataclass(slots=True)
class Row:
    """One entry of the report."""

    name: str
    world: str
    expected: str
    observed: str = "not played"
    ok: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """One contract's history, read at one moment."""

    owner: str
    ends: Mapping[int, list[End]]
    sessions: Mapping[int, Session]
    owner_calls: list[str]  # calldata of the owner's transactions to the contract, failed ones too

    def ended_by(self, lesson: Lesson) -> str:
        """`nobody`, `keeper`, `student`, an address, or how many times too often."""
        match self.ends.get(lesson.session_id, []):
            case []:
                return "nobody"
            case [end]:
                return {self.owner: "keeper", lesson.student.address: "student"}.get(end.sender, end.sender)
            case several:
                return f"{len(several)} transactions"

    def running(self, lesson: Lesson) -> bool:
        return self.ended_by(lesson) == "nobody" and self.sessions[lesson.session_id].active

    def after_s(self, lesson: Lesson) -> float:
        """Seconds from the moment it was left to the block that ended it."""
        return self.ends[lesson.session_id][0].at - (lesson.left_at or 0)

    def attempts(self, lesson: Lesson) -> int:
        """How often the owner's key tried to end whatever this tutor had."""
        tutor = lesson.tutor.address[2:].lower()
        return sum(data.startswith(END_SESSION) and tutor in data for data in self.owner_calls)


async def read_chain(world: World) -> Chain:
    """All of the contract's history that concerns the world's lessons."""
    node, first = world.dao.node, world.deployed.deploy_block
    ends: dict[int, list[End]] = {}
    for end in await world.dao.ends(first):
        ends.setdefault(end.session_id, []).append(end)
    ids = [lesson.session_id for lesson in world.lessons]
    sessions = await asyncio.gather(*(world.dao.session(session_id) for session_id in ids))
    calls = [
        transaction["input"]
        for block in await node.blocks(first, await node.height())
        for transaction in block["transactions"]
        if transaction["from"].lower() == world.deployed.owner.address.lower()
        and (transaction["to"] or "").lower() == world.dao.address.lower()
    ]
    return Chain(world.deployed.owner.address, ends, dict(zip(ids, sessions, strict=True)), calls)


# A judge looks at the chain and says what it saw and whether that was right. The cast fills up while the
# play goes on, so it is looked up only then; KeyError means that a lesson never came about.
Cast = Mapping[str, Lesson]
Judge = Callable[[Chain], tuple[str, bool]]


def ended_by_keeper(cast: Cast, name: str, at_least_s: float, at_most_s: float) -> Judge:
    """One end, by the keeper, so long after the lesson was left."""

    def judge(chain: Chain) -> tuple[str, bool]:
        lesson = cast[name]
        who = chain.ended_by(lesson)
        if who != "keeper":
            return f"ended by {who}", False
        after_s = chain.after_s(lesson)
        on_time = at_least_s - EARLY_S <= after_s <= at_most_s
        when = f"after {after_s:.0f} s" if after_s >= 0 else "before the return"
        return f"ended once, by keeper, {when}", on_time

    return judge


def paid_by_student(cast: Cast, name: str, nudged: bool) -> Judge:
    """One end, by the student, who was nudged or wasn't; the owner's key never tried."""

    def judge(chain: Chain) -> tuple[str, bool]:
        lesson = cast[name]
        who, attempts, nudges = chain.ended_by(lesson), chain.attempts(lesson), len(lesson.student.nudges)
        observed = f"{_ended(who)}, {'nudged' if nudges else 'not nudged'}"
        if attempts:
            observed += f", {attempts} transactions of the keeper"
        return observed, who == "student" and not attempts and bool(nudges) == nudged

    return judge


def ended_by(cast: Cast, name: str, who: str) -> Judge:
    """One end, by `who`, whenever."""

    def judge(chain: Chain) -> tuple[str, bool]:
        found = chain.ended_by(cast[name])
        return _ended(found), found == who

    return judge


def still_running(cast: Cast, name: str) -> Judge:
    """Active, and never ended, at the end of everything."""

    def judge(chain: Chain) -> tuple[str, bool]:
        running = chain.running(cast[name])
        return "still running" if running else f"ended by {chain.ended_by(cast[name])}", running

    return judge


def all_of(**judges: Judge) -> Judge:
    """Each of them, by the name of its part."""

    def judge(chain: Chain) -> tuple[str, bool]:
        seen = [(part.replace("_", " "), *each(chain)) for part, each in judges.items()]
        return "; ".join(f"{part}: {observed}" for part, observed, _ in seen), all(ok for *_, ok in seen)

    return judge


def _ended(who: str) -> str:
    return f"ended once, by {who}" if who in ("student", "keeper") else f"ended by {who}"
