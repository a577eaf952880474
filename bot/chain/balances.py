"""The students' balances in the contract, read when they may have changed.

Promises: each student asked for is read once more at or after the asking; failures are waited out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bot.chain.errors import RpcError
from bot.chain.langdao import LangDAO
from bot.domain.address import Address
from bot.errors import TryAgain

log = structlog.get_logger("balances")

RETRY_S = 2.0


class Balances:
    """Reads `studentBalances(student, token)` for those asked for and hands them to `told`."""

    def __init__(self, langdao: LangDAO, token: Address, told: Callable[[Address, int], Awaitable[None]]) -> None:
        self._langdao = langdao
        self._token = token
        self._told = told
        self._wanted: asyncio.Queue[Address] = asyncio.Queue()

    def ask(self, students: set[Address]) -> None:
        for student in students:
            self._wanted.put_nowait(student)

    async def run(self) -> None:
        while True:
            students = {await self._wanted.get()}
            while not self._wanted.empty():
                students.add(self._wanted.get_nowait())
            try:
                for student in students:
                    await self._told(student, await self._langdao.balance(student, self._token, "latest"))
            except (TryAgain, RpcError) as error:
                log.info("balances.later", reason=str(error)[:200])
                self.ask(students)
                await asyncio.sleep(RETRY_S)
