"""One LangDAO with everything around it: contract, backend, signalling, keeper and people.

Promises: `close` ends what lives in this process; programs belong to the crew. Worlds share nothing but the
node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scripts.world import lessons
from scripts.world.backends import Backend
from scripts.world.chain import Key, LangDAO
from scripts.world.deployment import Deployed
from scripts.world.keeper import Keeper
from scripts.world.lessons import Lesson
from scripts.world.participants import Participant
from scripts.world.rpc_proxy import RpcProxy
from scripts.world.signalling import Signalling
from scripts.world.tcp_proxy import TcpProxy

STUDENTS = (
    "Ana", "Ben", "Chiara", "Dario", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Katya", "Luca",
    "Mina", "Noor", "Olga", "Pablo", "Quinn", "Rosa", "Samir", "Tess",
)  # fmt: skip
TUTORS = (
    "Ms Abe", "Mr Bauer", "Ms Costa", "Mr Diallo", "Ms Egan", "Mr Faro", "Ms Grau", "Mr Haas", "Ms Ito",
    "Mr Jung", "Ms Kim", "Mr Lang", "Ms Moor", "Mr Nagy", "Ms Orr", "Mr Pak", "Ms Quist", "Mr Rao",
    "Ms Silva", "Mr Toth",
)  # fmt: skip


@dataclass(slots=True)
class World:
    """See the module. `rpc` and `line` are the keeper's proxies to its node and its backend, if any."""

    name: str
    dao: LangDAO
    deployed: Deployed
    backend: Backend
    signalling: Signalling
    keeper: Keeper
    students: list[Participant]
    tutors: list[Participant]
    rpc: RpcProxy | None = None
    line: TcpProxy | None = None
    lessons: list[Lesson] = field(default_factory=list)

    async def begin(self, student: Participant, tutor: Participant) -> Lesson:
        """Start a lesson between two who are free."""
        lesson = await lessons.begin(student, tutor, self.backend, self.signalling)
        self.lessons.append(lesson)
        return lesson

    async def until_over(self, lesson: Lesson) -> None:
        """Wait until its session is no longer active on chain, whoever ended it."""
        while True:
            if not (await self.dao.session(lesson.session_id)).active:
                return
            await asyncio.sleep(0.5)

    async def open_pages(self) -> None:
        """Connect everybody's browser to the backend."""
        people = [*self.students, *self.tutors]
        await asyncio.gather(*(person.connect(self.backend.url) for person in people))

    async def close(self) -> None:
        await self.signalling.stop()
        people = [*self.students, *self.tutors]
        await asyncio.gather(*(person.disconnect() for person in people), return_exceptions=True)
        for proxy in (self.rpc, self.line):
            if proxy is not None:
                await proxy.stop()


def people(
    names: Sequence[str], keys: Sequence[Key], dao: LangDAO, tell: Callable[[str], None] = lambda _: None
) -> list[Participant]:
    """A participant for each key."""
    return [Participant(name, key, dao, tell) for name, key in zip(names, keys, strict=False)]
