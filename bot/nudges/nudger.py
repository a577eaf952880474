"""Carries out nudges that were decided and stored.

Promises: a nudge counts as delivered only when a channel's acknowledgement says that it reached a participant; else
its outcome says why not. It is dropped when it can't be sent within half the window, and when the session has ended
meanwhile. Never raises, delays nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from bot.domain.facts import Kind, SessionKey
from bot.errors import TryAgain
from bot.nudges.message import Message

log = structlog.get_logger("nudges")

ACK_TIMEOUT_S = 8.0
RETRY_S = 1.0


class Channel(Protocol):
    async def nudge(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Says it and returns {"delivered": [addresses], "undelivered": {address: reason}}. Raises TryAgain."""
        ...


Report = Callable[[SessionKey, Kind, dict[str, Any], int | None], Awaitable[None]]


class Nudger:
    """One task a nudge; `message_of` gives what to say now, or None when there is nothing to say any more."""

    def __init__(
        self,
        channel: Channel | None,
        message_of: Callable[[SessionKey, int, dict[str, Any]], Message | None],
        report: Report,
        *,
        window_ms: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._message_of = message_of
        self._report = report
        self._half_window_ms = window_ms // 2
        self._clock = clock_ms
        self._tasks: set[asyncio.Task[None]] = set()

    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None:
        """Sends the nudge of this action, in the background."""
        task = asyncio.create_task(self._send(action_id, key, payload, created_ms), name=f"nudge {action_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None:
        said = {"mark": payload.get("mark"), "ask": False, "reason": payload.get("reason")}
        outcome, detail = await self._deliver(action_id, key, payload, created_ms)
        delivered = outcome == "delivered"
        log.info(
            "nudge.delivered" if delivered else "nudge.undelivered", session=key.session_id, outcome=outcome, **detail
        )
        result = said | detail | {"outcome": outcome, "delivered": delivered, "dropped": outcome == "dropped"}
        await self._report(key, Kind.NUDGE, result, action_id)

    async def _deliver(
        self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int
    ) -> tuple[str, dict[str, Any]]:
        if self._channel is None:
            return "undelivered", {"why": "no channel reaches participants"}
        why = "too late"
        while self._clock() - created_ms <= self._half_window_ms:
            message = self._message_of(key, action_id, payload)
            if message is None:
                return "dropped", {"why": "the session has ended"}
            try:
                answer = await self._channel.nudge(message.payload(self._clock()), ACK_TIMEOUT_S)
            except TryAgain as error:
                why = str(error)
                await asyncio.sleep(RETRY_S)
                continue
            reached = [str(one) for one in answer.get("delivered") or []]
            missed = answer.get("undelivered") or {}
            # A question without a link to answer it by can't be answered, so its silence says nothing.
            asked = message.ask and message.link is not None
            return ("delivered" if reached else "undelivered"), {"ask": asked, "reached": reached, "missed": missed}
        return "dropped", {"why": why}
