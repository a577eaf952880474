"""The keeper's ways to participants: which channels there are, what is said on them, in which language.

Promises: `channels` makes one for each way that is configured, and nothing that isn't. A
participant's own link goes only where nobody else reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from bot.domain import bill
from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.nudges.bills import Bills
from bot.nudges.channel import Channel
from bot.nudges.message import Message, Purpose
from bot.nudges.nudger import Nudger
from bot.nudges.sockets import Chat, Event, Gateway, Line
from bot.ops.alerts import Alerts
from bot.reconciler import Reconciler
from bot.settings import Settings
from bot.store.bills import Bills as Unbilled
from bot.store.db import Writer
from bot.store.deliveries import Deliveries

if TYPE_CHECKING:
    from bot.nudges.contacts import Contacts

PAGE_PATH = "/s/"

Link = Callable[[SessionKey, int, Address], Awaitable[str | None]]


def make(
    settings: Settings,
    reconciler: Reconciler,
    writer: Writer,
    line: Line,
    link: Link,
    alerts: Alerts,
    clock_ms: Callable[[], int],
) -> tuple[Nudger, Bills | None]:
    """The nudger on all channels that are configured, and, if there is one, what tells the bills."""
    people = contacts(settings, alerts)
    found = channels(settings, line, people)
    policy, conditions = reconciler.policy, reconciler.conditions
    words = Words(reconciler, people, link, settings.public_url, clock_ms)
    nudger = Nudger(
        found, words, Deliveries(writer), reconciler.outcome, window_ms=policy.nudge_window_ms, clock_ms=clock_ms
    )
    conditions.reachable = bool(found)
    if not found:
        return nudger, None
    bills = Bills(
        Unbilled(writer),
        nudger,
        max_age_ms=policy.effect_max_age_ms,
        skew_ms=lambda: conditions.skew_ms,
        clock_ms=clock_ms,
    )
    return nudger, bills


def contacts(settings: Settings, alerts: Alerts) -> Contacts | None:
    """The contacts file, or None where there is none. Raises Misconfigured."""
    if settings.contacts_file is None:
        return None
    from bot.nudges.contacts import Contacts
    from bot.ops.logging import redactor

    said: set[asyncio.Task[None]] = set()

    def say(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        said.add(task)
        task.add_done_callback(said.discard)

    return Contacts(
        settings.contacts_file,
        hide=redactor.add_opaque,
        on_refused=lambda why: say(alerts.raise_alert("alert.contacts", why)),
        on_mended=lambda: say(alerts.over("alert.contacts", "The contacts file could be read again.")),
    )


def channels(settings: Settings, line: Line, people: Contacts | None) -> list[Channel]:
    """Every channel that is configured. Raises Misconfigured."""
    found: list[Channel] = []
    if settings.socket_url is not None:
        if settings.gateway_token is not None:
            found.append(Gateway(line))
        if settings.nudge_event is not None:
            found.append(Event(line, settings.nudge_event))
        if settings.nudge_chat:
            found.append(Chat(line, settings.contract()))
    if settings.nudge_webhook_url is not None:
        from bot.nudges.webhook import Webhook

        found.append(Webhook(settings.nudge_webhook_url.get_secret_value(), settings.webhook_key()))
    if people is not None:
        from bot.nudges.messengers import Messengers

        found.append(Messengers(people))
    return found


class Words:
    """What there is to say now, to whom in which language (`bot.nudges.nudger.Words`)."""

    def __init__(
        self,
        reconciler: Reconciler,
        people: Contacts | None,
        link: Link,
        public_url: str | None,
        clock_ms: Callable[[], int],
    ) -> None:
        self._reconciler = reconciler
        self._people = people
        self._link = link
        self._pages = f"{public_url}{PAGE_PATH}" if public_url else None
        self._clock = clock_ms

    def locale(self, to: Address) -> str | None:
        return self._people.of(to).locale if self._people is not None else None

    async def answer_link(self, message: Message, to: Address) -> str | None:
        return await self._link(message.key, message.action_id, to)

    def compose(self, key: SessionKey, action_id: int, payload: dict[str, Any]) -> Message | None:
        return self._bill(key, action_id, payload) if "billed_s" in payload else self._nudge(key, action_id, payload)

    def _nudge(self, key: SessionKey, action_id: int, payload: dict[str, Any]) -> Message | None:
        live = self._reconciler.about(key)
        if live is None or live.session.ended:
            return None
        conditions = self._reconciler.conditions
        rate, now_s = live.session.rate, (self._clock() + conditions.skew_ms) // 1000
        started = live.started_at or now_s
        mark = str(payload.get("mark"))
        return Message(
            action_id=action_id,
            key=key,
            purpose=Purpose.ASK if payload.get("ask") else Purpose.PAY,
            reason="drain-warning" if mark.startswith("drain-warning") else str(payload.get("reason")),
            room=self._reconciler.room_of(key),
            elapsed_s=max(0, now_s - started),
            cost=None if rate is None else bill.cost(rate, started, now_s, self._reconciler.balance_of(key.student)),
            per_minute=None if rate is None else rate * 60,
            due_ms=payload.get("due_ms") if conditions.hold is None else None,
            page=self._page(key),
        )

    def _bill(self, key: SessionKey, action_id: int, payload: dict[str, Any]) -> Message:
        return Message(
            action_id=action_id,
            key=key,
            purpose=Purpose.BILL,
            reason=str(payload.get("reason")),
            room=payload.get("room"),
            elapsed_s=int(payload["billed_s"]),
            cost=int(payload["paid"]),
            tx_hash=payload.get("tx_hash"),
            page=self._page(key),
        )

    def _page(self, key: SessionKey) -> str | None:
        return f"{self._pages}{key.session_id}" if self._pages else None
