"""Alerts: a row, an `alert.*` log line, and, with APPRISE_URLS, a message.

Promises: the row is there before the message goes out; a dead channel delays nothing and loses nothing but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from bot.domain.facts import SessionKey
from bot.store import records
from bot.store.db import Writer

log = structlog.get_logger("alerts")


class Alerts:
    def __init__(self, writer: Writer, apprise_urls: str | None, clock_ms: Callable[[], int]) -> None:
        self._writer = writer
        self._urls = [url for url in (apprise_urls or "").replace(",", " ").split() if url]
        self._clock = clock_ms
        self._tasks: set[asyncio.Task[None]] = set()

    async def raise_alert(self, name: str, text: str, key: SessionKey | None = None) -> None:
        """Stores an alert, then logs and sends it."""
        number = await self._writer(lambda tx: records.add_alert(tx, name, text, self._clock(), key))
        self.send(name, text, key, number)

    def send(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None:
        """Logs and sends an alert that is stored already."""
        log.warning(name, session=key.session_id if key else None, text=text)
        if self._urls:
            task = asyncio.create_task(self._notify(name, text, alert_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _notify(self, name: str, text: str, alert_id: int) -> None:
        if await asyncio.to_thread(_apprise, self._urls, name, text):
            await self._writer(lambda tx: records.alert_sent(tx, alert_id, self._clock()))
        else:
            log.warning("alerts.not-sent", alert=name)


def _apprise(urls: list[str], name: str, text: str) -> bool:
    import apprise  # late: a hundred plug-ins

    sender = apprise.Apprise()
    for url in urls:
        sender.add(url)
    return bool(sender.notify(title=f"LangDAO keeper: {name}", body=text))
