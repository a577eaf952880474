"""Holds mock lessons on a chain that is there already, leaves them, and watches what becomes of them.

    ape run simulate user-end --network http://127.0.0.1:8545
    ape run simulate timeout --hook http://127.0.0.1:4100/hook/<secret> --network http://127.0.0.1:8545

The hook is what `langdao-keeper webhook` prints: the lessons' signalling server posts to it, as the real one does.
    user-end     the student hangs up; with a hook nobody pays, and the keeper has to, without one the student ends it
    disconnect   the student's connection is lost and doesn't come back
    timeout      heartbeats, and then none
Safe to run twice: it takes a student and a tutor who are in no lesson. Exit code 1 if a lesson is still active at the
end of --wait; the lesson then goes on, and the last line says how to end it.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import click
from ape.cli import ConnectedProviderCommand
from web3.logs import DISCARD

from scripts.onchain import common
from scripts.onchain.common import Place
from scripts.world.signalling import Room, Signalling

POLL_S = 0.5
HEARTBEAT_S = 2.0


@dataclass
class Lesson:
    """A session of our own, and its room, which is named for the session as the newer pages do."""

    session_id: int
    block: int
    student: dict[str, str]
    tutor: dict[str, str]
    room: Room


@click.command(cls=ConnectedProviderCommand)
@click.argument("scenario", type=click.Choice(["user-end", "disconnect", "timeout"]))
@click.option("--hook", help="Where the signalling server posts: the keeper's webhook.")
@click.option("--lessons", type=click.IntRange(1), default=1, show_default=True, help="How many at once.")
@click.option("--language", type=click.IntRange(0, 37), default=1, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=10.0, show_default=True, help="How long a lesson goes well."
)
@click.option(
    "--wait", type=click.FloatRange(1), default=300.0, show_default=True, help="Seconds to wait for the ends."
)
@common.addresses_option
@common.world_option
def cli(
    provider, scenario: str, hook, lessons: int, language: int, seconds: float, wait: float, addresses: Path, world: int
) -> None:
    """Hold lessons, leave them in a way that you choose, and watch the chain until they are over."""
    if hook is None and scenario != "user-end":
        raise click.UsageError(f"Nobody would notice a {scenario}: give --hook (`langdao-keeper webhook` prints it).")
    there = common.place(provider.web3, addresses, world, None)
    begun = [begin(there, student, tutor, language) for student, tutor in free_pairs(there, lessons)]
    left = asyncio.run(leave(there, scenario, hook, begun, seconds, wait))
    for lesson in left:
        click.echo(f"session {lesson.session_id} is still active: langdao-keeper settle {lesson.session_id}")
    raise SystemExit(1 if left else 0)


def free_pairs(there: Place, count: int) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Students and tutors of the addresses file who are in no lesson."""
    functions = there.langdao.functions
    students = [it for it in there.world["students"] if not functions.isStudying(it["address"]).call()]
    tutors = [it for it in there.world["tutors"] if not functions.activeSessions(it["address"]).call()[-1]]
    if min(len(students), len(tutors)) < count:
        raise click.ClickException(
            f"{len(students)} students and {len(tutors)} tutors are in no lesson, too few for {count} lessons: "
            "end some (`langdao-keeper stranded` lists them), or deploy with more people."
        )
    return list(zip(students[:count], tutors[:count], strict=True))


def begin(there: Place, student: dict[str, str], tutor: dict[str, str], language: int) -> Lesson:
    account = common.key_of("", student, "student")
    call = there.langdao.functions.startSession(tutor["address"], language)
    receipt = common.send(there, "starting a session", account, call)
    (started,) = there.langdao.events.SessionStarted().process_receipt(receipt, errors=DISCARD)
    session_id = started["args"]["sessionId"]
    click.echo(f"session {session_id}: {student['address']} with {tutor['address']}, block {receipt['blockNumber']}")
    room = Room(str(session_id), student["address"], tutor["address"], language)
    return Lesson(session_id, receipt["blockNumber"], student, tutor, room)


async def leave(
    there: Place, scenario: str, hook: str | None, lessons: list[Lesson], seconds: float, wait_s: float
) -> list[Lesson]:
    """Plays the scenario; the lessons that are still active when the wait is over."""
    signalling = Signalling(hook, HEARTBEAT_S) if hook else None
    try:
        if signalling:
            for lesson in lessons:
                signalling.join(lesson.room, "student")
                signalling.join(lesson.room, "tutor")
        await asyncio.sleep(seconds)
        for lesson in lessons:
            part(there, signalling, scenario, lesson)
        return await until_over(there, lessons, wait_s)
    finally:
        if signalling:
            click.echo(f"{signalling.posts} posts, of which {signalling.lost} weren't answered")
            await signalling.stop()


def part(there: Place, signalling: Signalling | None, scenario: str, lesson: Lesson) -> None:
    name, student = f"session {lesson.session_id}", lesson.student
    if scenario == "user-end" and signalling is None:
        click.echo(f"{name}: the student ends it")
        call = there.langdao.functions.endSession(lesson.tutor["address"])
        common.send(there, "ending the session", common.key_of("", student, "student"), call)
    elif signalling is not None:
        if scenario == "user-end":
            click.echo(f"{name}: the student hangs up, and nobody pays")
            signalling.hang_up(lesson.room, "student", student["address"])
        elif scenario == "disconnect":
            click.echo(f"{name}: the student's connection is lost")
            signalling.lose(lesson.room, "student")
            signalling.silence(lesson.room)
        else:
            click.echo(f"{name}: the heartbeats stop")
            signalling.silence(lesson.room)


async def until_over(there: Place, lessons: list[Lesson], wait_s: float) -> list[Lesson]:
    active = {lesson.session_id: lesson for lesson in lessons}
    ended = there.langdao.events.SessionEnded()
    deadline = time.monotonic() + wait_s
    while active and time.monotonic() < deadline:
        first = min(lesson.block for lesson in active.values())
        for log in ended.get_logs(from_block=first):
            if lesson := active.pop(log["args"]["sessionId"], None):
                sender = there.web3.eth.get_transaction(log["transactionHash"])["from"]
                duration_s, paid = log["args"]["duration"], log["args"]["totalPaid"]
                click.echo(
                    f"session {lesson.session_id}: ended by {who(there, lesson, sender)} "
                    f"after {duration_s} s, for {common.pyusd(paid)}"
                )
        await asyncio.sleep(POLL_S)
    return list(active.values())


def who(there: Place, lesson: Lesson, sender: str) -> str:
    """The sender's part in it."""
    known = {
        lesson.student["address"]: "the student",
        lesson.tutor["address"]: "the tutor",
        there.world["owner"]["address"]: "the owner's key (the keeper or the backend)",
        there.world.get("keeper", {}).get("address"): "the keeper, through the guard",
    }
    return known.get(sender, sender)
