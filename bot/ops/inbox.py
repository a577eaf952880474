"""Requests that other commands left in the database: settle, pause, resume.

Promises: each is answered, within a second while the daemon runs; a request that makes no sense is answered with an
error. An answer says that a request was taken, not that what it asked for has happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from sqlmodel import Session

from bot.reconciler import Reconciler
from bot.store import identity as memory
from bot.store import records
from bot.store.db import Writer
from bot.store.tables import InboxRow

log = structlog.get_logger("inbox")

PAUSED = "paused"


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
        """Answers what is there."""
        for row in await self._writer(records.unanswered):
            said = await self._answer(row)
            log.info("inbox.answered", request=row.kind, **{k: v for k, v in said.items() if k != "text"})
            await self._reply(row, said)

    async def _reply(self, row: InboxRow, said: dict[str, Any]) -> None:
        await self._writer(lambda tx: records.answer(tx, row.id or 0, said, self._clock()))

    async def _answer(self, row: InboxRow) -> dict[str, Any]:
        payload: object = row.payload  # another process wrote it, perhaps by hand
        if not isinstance(payload, dict):
            return {"ok": False, "error": "the payload is no object"}
        match row.kind:
            case "settle":
                return await self._settle(payload)
            case "pause" | "resume":
                return await self._pause(row.kind == "pause")
            case _:
                return {"ok": False, "error": f"unknown request {row.kind!r}"}

    async def _settle(self, payload: dict[str, Any]) -> dict[str, Any]:
        number = payload.get("session_id")
        if not isinstance(number, int) or isinstance(number, bool):
            return {"ok": False, "error": "session_id is missing"}
        if not self._signs():
            return {"ok": False, "error": "the daemon only watches: it has no key, or runs with --dry-run"}
        if self._reconciler.conditions.paused:
            return {"ok": False, "error": "the daemon is paused: langdao-keeper resume"}
        key = await self._reconciler.settle(number, payload)
        if key is None:
            return {"ok": False, "error": f"session {number} isn't active"}
        return {"ok": True, "session_id": number}

    async def _pause(self, paused: bool) -> dict[str, Any]:
        def change(tx: Session) -> None:
            memory.put(tx, PAUSED, "1" if paused else "0")

        await self._writer(change)
        await self._reconciler.set_paused(paused)
        return {"ok": True, "paused": paused}
