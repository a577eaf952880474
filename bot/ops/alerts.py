"""Alerts: a row, an `alert.*` log line, and, with APPRISE_URLS, a message.

Promises: the row is there before the message goes out; a dead channel delays nothing and loses nothing but itself. A
message says what happened, what it costs and where the guide tells what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from bot.domain.facts import SessionKey
from bot.ops.catalogue import ALERTS, guide
from bot.store import records
from bot.store.db import Writer

APPRISE_GUIDE = "Mend it: https://github.com/caronc/apprise lists what there is"

log = structlog.get_logger("alerts")


class Alerts:
    def __init__(self, writer: Writer, apprise_urls: str | None, clock_ms: Callable[[], int]) -> None:
        self._writer = writer
        self._urls = _split(apprise_urls or "")
        self._clock = clock_ms
        self._tasks: set[asyncio.Task[None]] = set()

    async def raise_alert(self, name: str, text: str, key: SessionKey | None = None) -> None:
        """Stores an alert, then logs and sends it."""
        number = await self._writer(lambda tx: records.add_alert(tx.connection(), name, text, self._clock(), key))
        self.send(name, text, key, number)

    def shout(self, name: str, text: str) -> None:
        """Logs and sends an alert that no row can be written for."""
        log.warning(name, text=text)
        if self._urls:
            self._in_background(asyncio.to_thread(_apprise, self._urls, name, message(name, text)))

    async def over(self, name: str, text: str) -> None:
        """Tells that a condition which was told is over; no row of its own."""
        log.info("condition.over", alert=name, text=text)
        if self._urls and not await asyncio.to_thread(_apprise, self._urls, f"{name} is over", text):
            log.warning("alerts.not-sent", alert=name)

    def send(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None:
        """Logs and sends an alert that is stored already."""
        log.warning(name, session=key.session_id if key else None, text=text)
        if self._urls:
            self._in_background(self._notify(name, text, alert_id))

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self, name: str, text: str, alert_id: int) -> None:
        if await asyncio.to_thread(_apprise, self._urls, name, message(name, text)):
            await self._writer(lambda tx: records.alert_sent(tx, alert_id, self._clock()))
        else:
            log.warning("alerts.not-sent", alert=name)


def deliver(apprise_urls: str, name: str, text: str) -> list[str]:
    """Sends an alert now, and returns the channels that didn't take it. Blocks."""
    urls = _split(apprise_urls)
    return [_place(at, urls) for at, url in enumerate(urls) if not _apprise([url], name, message(name, text))]


def unknown(apprise_urls: str) -> list[str]:
    """The addresses that Apprise can't make anything of, e.g. for a slip in their scheme."""
    import logging

    import apprise  # late: a hundred plug-ins

    logging.getLogger("apprise").disabled = True  # it would say so in its own words, and the address with it
    try:
        urls = _split(apprise_urls)
        return [_place(at, urls) for at, url in enumerate(urls) if apprise.Apprise.instantiate(url) is None]
    finally:
        logging.getLogger("apprise").disabled = False


def _place(at: int, urls: list[str]) -> str:
    """Which address this is, without what may be secret in it: everything behind the scheme."""
    scheme, colon, _ = urls[at].partition("://")
    shown = f"{scheme}://…" if colon and scheme.isalnum() else "no scheme://"
    return shown if len(urls) == 1 else f"number {at + 1} ({shown})"


def _split(urls: str) -> list[str]:
    return [url for url in urls.replace(",", " ").split() if url]


def message(name: str, text: str) -> str:
    """What is sent: what happened, what it costs, where to read on."""
    known = ALERTS.get(name)
    costs = f"Until then: {known.costs}.\n" if known is not None and known.condition else ""
    return f"{text}\n{costs}What to do: {guide(name)}"


def _apprise(urls: list[str], name: str, text: str) -> bool:
    import apprise  # late: a hundred plug-ins

    sender = apprise.Apprise()
    for url in urls:
        sender.add(url)
    return bool(sender.notify(title=f"LangDAO keeper: {name}", body=text))
