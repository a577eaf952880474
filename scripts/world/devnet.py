"""`make devnet`: a LangDAO on this machine, with lessons that are left in all the ways lessons are left.

Promises: Anvil with two-second blocks, one deployment, the bundled backend with the participants' pages and a
wallet built into them, `langdao-keeper run` as a process of its own, and people who go on holding lessons until
Ctrl-C. A keeper that dies is started again. On a terminal the keeper's own `status --watch` has the screen,
otherwise every event is a plain line. When this process ends, however it ends, everything it started ends with
it; a second devnet beside it has its own ports and folder.
Doesn't promise: that anything stays. The chain, the database and the logs are for looking at while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TextIO

from aiohttp import ClientError
from socketio.exceptions import SocketIOError

from scripts.world import anvil, deployment, processes
from scripts.world.backends import Gateway
from scripts.world.chain import LangDAO, Node, Reverted, RpcError
from scripts.world.deployment import Deployed
from scripts.world.keeper import COMMAND, Keeper, clean_environment
from scripts.world.lessons import Ending
from scripts.world.participants import Participant, Refused
from scripts.world.processes import CHECKOUT, Crew, Failed
from scripts.world.signalling import Signalling
from scripts.world.world import STUDENTS, TUTORS, World, people

BLOCK_S = 2
PAIRS = 8  # students, and tutors
SPARE = 2  # pairs who hold no lessons of their own: /debug's
AT_ONCE = 3  # lessons
HEARTBEAT_S = 4.0
LESSON_S = (12.0, 25.0)
PAUSE_S = (3.0, 7.0)
RESTART_S = 5.0
# Short enough that one sees things happen, long enough that one sees why.
POLICY = {
    "DISCONNECT_GRACE_S": 8,
    "NUDGE_WINDOW_S": 12,
    "HEARTBEAT_TIMEOUT_S": 15,
    "HEARTBEAT_ARM_COUNT": 3,
    "HEARTBEAT_ARM_S": 8,
    "BACKEND_HEAD_START_S": 4,
    "PAY_WAIT_S": 6,
    "FEED_SILENCE_S": 12,
    "SOLE_ROOM_TIMEOUT_S": 40,
    "POLL_INTERVAL_S": 0.5,
}
PYUSD = 10**6
# What can go wrong for one lesson without ending the devnet.
TROUBLE = (Reverted, RpcError, Refused, SocketIOError, ClientError, TimeoutError)


class Lines:
    """What happens, a line each: to the screen while it is ours, and always to a file."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._file: TextIO | None = None
        self.on_screen = True

    def keep(self, path: Path) -> None:
        """Write what follows to a file too."""
        self._file = path.open("a")

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:7.1f} s  {text}"
        if self.on_screen:
            print(line, flush=True)
        if self._file is not None:
            print(line, file=self._file, flush=True)


async def devnet(crew: Crew, lines: Lines, watch: bool) -> None:
    """Run until cancelled. Raises Failed when something can't be started."""
    async with built(crew, lines) as world:
        jobs = [
            asyncio.ensure_future(hold_lessons(world, lines)),
            asyncio.ensure_future(_report_ends(world, lines)),
            asyncio.ensure_future(_keep_the_keeper(world, lines, crew if watch else None)),
        ]
        try:
            await asyncio.gather(*jobs)
        finally:
            # The first trouble ends all of them, before the world is taken apart.
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)


@contextlib.asynccontextmanager
async def built(crew: Crew, lines: Lines) -> AsyncIterator[World]:
    """Everything, ready for lessons."""
    lines.say(f"logs, database and the keeper's .env are in {crew.folder}")
    async with contextlib.AsyncExitStack() as cleanup:
        _, node = await anvil.start(crew, block_time_s=BLOCK_S)
        cleanup.push_async_callback(node.close)
        lines.say(f"anvil answers on {node.url}")
        count = PAIRS + SPARE
        (deployed,) = await deployment.deploy(crew, node, worlds=1, students=count, tutors=count)
        lines.say(f"LangDAO is at {deployed.contract}; {count} students and {count} tutors are registered")
        chain = {"RPC_URL": node.url, "CONTRACT_ADDRESS": deployed.contract}
        # It verifies signatures and reports, so it has to know the contract. The keys are Anvil's, which everybody
        # knows: the pages may have a wallet built in.
        gateway = Gateway(crew, {**POLICY, **chain, "DEBUG_PAGE": 1})
        await gateway.start()
        lines.say(f"the backend answers on {gateway.url}")
        world = _world(crew, lines, gateway, node, deployed)
        cleanup.push_async_callback(world.close)
        await asyncio.gather(_first_lesson(world, lines), _start_keeper(world, lines))
        yield world


async def _first_lesson(world: World, lines: Lines) -> None:
    # Nobody ever leaves it: the backend's feed stays alive, and there is always something to see. It doesn't wait
    # for the keeper, which finds a lesson that began before it on the chain and in the backend's record.
    await world.open_pages()
    lesson = await world.begin(world.students[-1], world.tutors[-1])
    lines.say(f"session {lesson.session_id}: {_who(lesson.student, lesson.tutor)} have all day")


async def _start_keeper(world: World, lines: Lines) -> None:
    await world.keeper.start()
    lines.say(f"langdao-keeper runs, pid {world.keeper.pid}")


def _world(crew: Crew, lines: Lines, gateway: Gateway, node: Node, deployed: Deployed) -> World:
    dao = LangDAO(node, deployed.contract, deployed.chain_id, deployment.LANGUAGE)
    settings: dict[str, Any] = {
        "RPC_URL": node.url,
        "CONTRACT_ADDRESS": deployed.contract,
        "START_BLOCK": deployed.deploy_block,
        "BACKEND_PRIVATE_KEY": deployed.owner.key,
        "SOCKET_URL": gateway.url,
        "GATEWAY_TOKEN": gateway.token,
        **POLICY,
    }
    return World(
        name="devnet",
        dao=dao,
        deployed=deployed,
        backend=gateway,
        signalling=Signalling(gateway.webhook, HEARTBEAT_S),
        keeper=Keeper(crew, "keeper", settings),
        students=people(STUDENTS, deployed.students[:PAIRS], dao, lines.say),
        tutors=people(TUTORS, deployed.tutors[:PAIRS], dao),
    )


def endings() -> Iterator[Ending]:
    """All ways of leaving a lesson, again and again. The first two show at once what the keeper is for."""
    yield Ending.PAID_WHEN_NUDGED
    yield Ending.UNPAID
    for _ in itertools.count():
        yield from random.sample(list(Ending), len(Ending))


async def hold_lessons(world: World, lines: Lines) -> None:
    """A few at a time, for ever."""
    free_students, free_tutors = world.students[:-1], world.tutors[:-1]
    next_ending = endings()

    async def one_after_the_other(begin_after_s: float) -> None:
        await asyncio.sleep(begin_after_s)
        while True:
            student = free_students.pop(random.randrange(len(free_students)))
            tutor = free_tutors.pop(random.randrange(len(free_tutors)))
            try:
                await _one_lesson(world, lines, student, tutor, next(next_ending))
            except TROUBLE as error:
                lines.say(f"{_who(student, tutor)}: the lesson came to nothing: {error!r}")
            free_students.append(student)
            free_tutors.append(tutor)
            await asyncio.sleep(random.uniform(*PAUSE_S))

    await asyncio.gather(*(one_after_the_other(number * PAUSE_S[0]) for number in range(AT_ONCE)))


async def _one_lesson(world: World, lines: Lines, student: Participant, tutor: Participant, ending: Ending) -> None:
    """A lesson from its beginning to its end on chain, whoever brings that about."""
    lesson = await world.begin(student, tutor)
    lines.say(f"session {lesson.session_id}: {_who(student, tutor)} begin")
    await asyncio.sleep(random.uniform(*LESSON_S))
    lines.say(f"session {lesson.session_id}: {ending}")
    await lesson.leave(ending)
    await world.until_over(lesson)


async def _report_ends(world: World, lines: Lines) -> None:
    """A line for each `SessionEnded`."""
    names = {person.address: person.name for person in (*world.students, *world.tutors)}
    names[world.deployed.owner.address] = "the keeper"
    next_block = world.deployed.deploy_block
    while True:
        for end in await world.dao.ends(next_block):
            who, cost = names.get(end.sender, end.sender), end.paid / PYUSD
            lines.say(f"session {end.session_id}: ended by {who} after {end.duration_s} s, for {cost:.3f} PYUSD")
            next_block = max(next_block, end.block + 1)
        await asyncio.sleep(1)


async def _keep_the_keeper(world: World, lines: Lines, crew: Crew | None) -> None:
    """Start the keeper again whenever it is gone; between, show its live view if there is a crew for it."""
    print(f"\n{what_to_try(world)}\n", flush=True)
    while True:
        if crew is not None:
            await _show_while_it_lives(world, lines, crew)
        status = await world.keeper.until_dead()
        lines.say(f"the keeper is gone (exit status {status}), and starts again in {RESTART_S:.0f} s")
        await asyncio.sleep(RESTART_S)
        await _start_keeper(world, lines)


async def _show_while_it_lives(world: World, lines: Lines, crew: Crew) -> None:
    """The keeper's live view has the screen until the keeper is gone. If the view ends first, lines go on."""
    folder = world.keeper.folder
    # The view takes the whole screen, so it has to be told what stood there.
    env = {**clean_environment(folder), **processes.terminal_environment(), "STATUS_NOTE": what_to_try(world)}
    lines.on_screen = False
    view = await crew.start("status", [*COMMAND, "status", "--watch"], env=env, cwd=folder, terminal=True)
    ends = [asyncio.ensure_future(end) for end in (view.wait(), world.keeper.until_dead())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
        await view.stop()
        lines.on_screen = True


def what_to_try(world: World) -> str:
    """The last lines before the show, and below it."""
    command = CHECKOUT / ".venv" / "bin" / "langdao-keeper"
    return (
        "Open in a browser; the pages have a wallet built in:\n"
        f"  {world.backend.url}/s/1?as=student    a student's page\n"
        f"  {world.backend.url}/debug    lessons of your own, left in any way\n"
        "Try, in another terminal:\n"
        f"  kill -9 {world.keeper.pid}    and see: nothing is forgotten, nothing is sent twice\n"
        f"  cd {world.keeper.folder}    the keeper's .env is there, so its commands work:\n"
        f"  {command} explain 2    or sessions, settlements, txs, settle 1\n"
        "Ctrl-C here stops everything."
    )


def _who(student: Participant, tutor: Participant) -> str:
    return f"{student.name} and {tutor.name}"


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make devnet", description="A LangDAO on this machine, until Ctrl-C.")
    parser.add_argument("--for", dest="seconds", type=float, metavar="SECONDS", help="stop by itself")
    parser.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    options = parser.parse_args()
    watch = sys.stdout.isatty() and sys.stdin.isatty() and not options.plain

    lines = Lines()
    async with processes.crew("devnet") as crew:
        lines.keep(crew.folder / "events.log")
        try:
            async with processes.interruptible():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(options.seconds):
                        await devnet(crew, lines, watch)
        except Failed as error:
            print(f"devnet: {error}", file=sys.stderr)
            return 1
        except processes.Interrupted:
            pass
        lines.on_screen = True
        lines.say("stopping")
    shutil.rmtree(crew.folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
