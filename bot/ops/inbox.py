"""Requests that other commands left in the database: settle, pause, resume, release.

Promises: each is answered, within a second while the daemon runs; a request that makes no sense is answered with an
error. An answer says that a request was taken, not that what it asked for has happened.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlmodel import Session

from bot.domain.facts import SessionKey
from bot.reconciler import Reconciler
from bot.store import identity as memory
from bot.store import inbox_rows
from bot.store.db import Writer
from bot.store.tables import InboxRow

log = structlog.get_logger("inbox")

PAUSED = "paused"
SETTLE_AT_ONCE = 250  # orders in one transaction
AFTER_S = 0.05  # the answer isn't written in the way of what was ordered

Answer = dict[str, Any]

_NO_OBJECT: Answer = {"ok": False, "error": "the payload is no object"}


class Inbox:
    def __init__(
        self, writer: Writer, reconciler: Reconciler, *, signs: Callable[[], bool], clock_ms: Callable[[], int]
    ) -> None:
        self._writer = writer
        self._reconciler = reconciler
        self._signs = signs
        self._clock = clock_ms

    async def load_paused(self) -> None:
        """A pause survives restarts."""
        paused = await self._writer(lambda tx: memory.get(tx, PAUSED))
        self._reconciler.conditions.paused = paused == "1"

    async def read(self) -> None:
        """Answers what is there, in its order; settlements that were asked for one after another go together."""
        rows = await self._writer(inbox_rows.unanswered)
        for settle, some in itertools.groupby(rows, key=lambda row: row.kind == "settle"):
            if settle:
                together = list(some)
                for start in range(0, len(together), SETTLE_AT_ONCE):
                    part = together[start : start + SETTLE_AT_ONCE]
                    said = await self._settle(part)
                    await asyncio.sleep(AFTER_S)
                    await self._reply(list(zip(part, said, strict=True)))
            else:
                for row in some:
                    await self._reply([(row, await self._answer(row))])

    async def _reply(self, answers: Sequence[tuple[InboxRow, Answer]]) -> None:
        now = self._clock()

        def change(tx: Session) -> None:
            for row, said in answers:
                inbox_rows.answer(tx, row.id or 0, said, now)

        await self._writer(change)
        for row, said in answers:
            log.info("inbox.answered", request=row.kind, **{k: v for k, v in said.items() if k != "text"})

    async def _answer(self, row: InboxRow) -> Answer:
        payload: object = row.payload  # another process wrote it, perhaps by hand
        if not isinstance(payload, dict):
            return _NO_OBJECT
        match row.kind:
            case "pause" | "resume":
                return await self._pause(row.kind == "pause")
            case "release":
                held = await self._reconciler.release()
                return {"ok": True} if held else {"ok": False, "error": "the mass-end breaker holds nothing back"}
            case _:
                return {"ok": False, "error": f"unknown request {row.kind!r}"}

    async def _settle(self, rows: Sequence[InboxRow]) -> list[Answer]:
        """Orders those that make sense, all together."""
        said = [self._why_not(row.payload) for row in rows]
        orders = [(row.payload["session_id"], row.payload) for row, no in zip(rows, said, strict=True) if no is None]
        keys = iter(await self._reconciler.settle_all(orders))
        return [
            no if no is not None else _ordered(row.payload["session_id"], next(keys))
            for row, no in zip(rows, said, strict=True)
        ]

    def _why_not(self, payload: object) -> Answer | None:
        if not isinstance(payload, dict):
            return _NO_OBJECT
        number = payload.get("session_id")
        if not isinstance(number, int) or isinstance(number, bool):
            return {"ok": False, "error": "session_id is missing"}
        if not self._signs():
            return {"ok": False, "error": "the daemon only watches: it has no key, or runs with --dry-run"}
        if self._reconciler.conditions.paused:
            return {"ok": False, "error": "the daemon is paused: langdao-keeper resume"}
        return None

    async def _pause(self, paused: bool) -> Answer:
        def change(tx: Session) -> None:
            memory.put(tx, PAUSED, "1" if paused else "0")

        await self._writer(change)
        await self._reconciler.set_paused(paused)
        return {"ok": True, "paused": paused}


def _ordered(session_id: int, key: SessionKey | None) -> Answer:
    if key is None:
        return {"ok": False, "error": f"session {session_id} isn't active"}
    return {"ok": True, "session_id": session_id}
