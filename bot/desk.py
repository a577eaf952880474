"""The operator's side of the daemon: readiness, metrics, alerts on conditions, the dead man's switch, the pages.

Promises: nothing here decides about sessions or signs; what an operator asks over HTTP goes into the inbox, as a row,
and is answered from there. Reading the database never holds up the loop: it happens in a thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from fastapi import APIRouter
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from bot.chain.errors import RpcError
from bot.domain.feeds import SOCKET, WEBHOOK
from bot.errors import TryAgain
from bot.ground import Ground
from bot.ops import words
from bot.ops.alerts import Alerts
from bot.ops.backups import Backups
from bot.ops.explain import explain
from bot.ops.metrics import Metrics, Readings
from bot.ops.readiness import Readiness
from bot.ops.self_report import SelfReport
from bot.ops.service import ServiceManager
from bot.ops.status import gather
from bot.ops.watch import DeadMansSwitch, Watch
from bot.reconciler import Reconciler
from bot.settings import Settings
from bot.store import inbox_rows, news, queries, txs
from bot.store.trouble import passing
from bot.web.operator import Access, Hosts, operator_routes

if TYPE_CHECKING:
    from bot.chain.follower import Follower
    from bot.chain.sender import Sender
    from bot.feeds.mapping import MappingFeed
    from bot.feeds.socket import SocketFeed

T = TypeVar("T")

log = structlog.get_logger("desk")

LOOK_EVERY_S = 2.0
SUMS_EVERY_S = 15.0
DAY_MS = 86_400_000
ANSWER_S = 5.0
PAGE_ROWS = 100
SETTLE_GAS = 215_000  # a tutor's first; see docs/PROTOCOL.md
BREAKERS = ("mass-end", "paused", "gas-budget", "balance")


class OperatorDesk:
    """Everything an operator looks at. The parts that are made late are given by `take`."""

    def __init__(
        self,
        settings: Settings,
        ground: Ground,
        follower: Follower,
        reconciler: Reconciler,
        alerts: Alerts,
        report: SelfReport,
        clock_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._ground = ground
        self._follower = follower
        self._reconciler = reconciler
        self._alerts = alerts
        self._report = report
        self._clock = clock_ms
        self._service = ServiceManager()
        self.hook_counters = report.counters[WEBHOOK]
        self._sender: Sender | None = None
        self._socket: SocketFeed | None = None
        self._mapping: MappingFeed | None = None
        self._now = Readings()
        self._price_wei = 0
        self.metrics_of = Metrics(ground.rpc.names, breakers=BREAKERS)
        ground.rpc.observe = self.metrics_of.asked
        self.readiness = Readiness(
            follower,
            reconciler,
            min_balance_wei=round(settings.min_balance_eth * 10**18),
            head_old_ms=round(settings.head_old_s * 1000),
            written_ms=lambda: report.written_ms,
            trouble=lambda: ground.writer.trouble,
            clock_ms=clock_ms,
        )
        self._watch = Watch(self.readiness.reasons, alerts, clock_ms, round(settings.alert_patience_s * 1000))

    def take(
        self, *, sender: Sender | None, socket: SocketFeed | None, mapping: MappingFeed | None
    ) -> dict[str, Coroutine[Any, Any, None]]:
        """The parts that exist by now. Returns what is to be run, until cancelled."""
        self._sender, self._socket, self._mapping = sender, socket, mapping
        readiness = self.readiness
        readiness.sender = sender
        readiness.key_trouble = lambda: sender.trouble if sender is not None else None
        readiness.in_use = self._report.in_use
        readiness.redis_up = lambda: mapping.up if mapping is not None else None
        parts: dict[str, Coroutine[Any, Any, None]] = {"desk": self._look(), "sums": self._sum()}
        if (backups := self._backups()) is not None:
            parts["backups"] = backups.run()
        if self._settings.heartbeat_ping_url is not None:
            url = self._settings.heartbeat_ping_url.get_secret_value()
            parts["ping"] = DeadMansSwitch(url, readiness.reasons).run()
        return parts

    def _backups(self) -> Backups | None:
        path, settings = self._ground.database.path, self._settings
        if path is None or settings.backup_every_h == 0:
            return None

        async def failed(text: str) -> None:
            await self._alerts.raise_alert("alert.backup", text)

        folder, every_s = settings.backup_folder or path.parent / "backups", settings.backup_every_h * 3600
        return Backups(self._ground.database, folder, every_s=every_s, keep=settings.backup_keep, failed=failed)

    def routes(self) -> APIRouter:
        """What is served at HTTP_BIND for operators."""
        settings = self._settings
        token = settings.operator_token
        hosts = Hosts(settings.http_bind, settings.public_url, settings.http_hosts)
        filters = {
            name: getattr(words, name) for name in ("amount", "ether", "duration", "count", "moment", "away", "short")
        }
        return operator_routes(self, Access(token.get_secret_value() if token else None), hosts, filters)

    def stopping(self) -> None:
        self._service.stopping()

    # What the pages ask -----------------------------------------------------------------------------------------------

    def not_ready(self) -> Sequence[Mapping[str, str]]:
        return [{"name": reason.name, "text": reason.text} for reason in self.readiness.reasons()]

    async def metrics(self) -> bytes:
        self._read_memory()
        return await asyncio.to_thread(self.metrics_of.render, self._now)

    async def status(self) -> dict[str, Any]:
        database, now = self._ground.database, self._clock()
        return await self._in_thread(lambda: gather(database, os.getpid(), now, settled=30))

    async def explained(self, asked: str) -> dict[str, Any] | None:
        policy, now = self._reconciler.policy, self._clock()
        return await self._read(lambda session: explain(session, asked, policy, now))

    async def settlements(self, before: int | None) -> list[dict[str, Any]]:
        return await self._read(lambda session: queries.settlements(session, before=before, limit=PAGE_ROWS))

    async def ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Leaves a request in the inbox, and waits for its answer."""
        writer = self._ground.writer
        if (why := writer.trouble) is not None:
            return {"ok": False, "error": f"nothing can be written: {why}"}
        written = asyncio.ensure_future(
            writer(lambda tx: inbox_rows.request(tx, kind, payload, self._clock()), durable=True)
        )
        try:
            number = await asyncio.wait_for(asyncio.shield(written), ANSWER_S)
        except TimeoutError:
            return {"ok": False, "error": f"not written within {ANSWER_S:g} s; it is done as soon as it can be written"}
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            row = await self._read(lambda session: queries.request(session, number))
            if row is not None and row["answered_ms"] is not None:
                return dict(row["answer"] or {})
            await asyncio.sleep(0.1)
        return {"ok": False, "error": f"no answer within {ANSWER_S:g} s; the request stays in the inbox"}

    # What is looked at now and then -----------------------------------------------------------------------------------

    async def _look(self) -> None:
        self._service.ready("at the head")
        cursor: news.Cursor | None = None
        while True:
            try:
                cursor = await (self._read(news.present) if cursor is None else self._count(cursor))
            except TryAgain as error:
                log.debug("desk.later", reason=str(error))
            await self._watch.look()
            wrong = self.readiness.reasons()
            self._service.alive("; ".join(reason.text for reason in wrong) or "ready")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _count(self, cursor: news.Cursor) -> news.Cursor:
        told = await self._read(lambda session: news.since(session, cursor))
        self.metrics_of.count(told)
        return told.cursor

    async def _sum(self) -> None:
        while True:
            try:
                await self._sum_up(self._clock() - DAY_MS)
                if self._sender is not None:
                    self._price_wei = int(await self._ground.rpc.call("eth_gasPrice"), 16)
            except (TryAgain, RpcError) as error:
                log.debug("desk.later", reason=str(error))
            await asyncio.sleep(SUMS_EVERY_S)

    async def _sum_up(self, day_ago_ms: int) -> None:
        readings = self._now
        readings.gas_spent_day_wei = await self._read(lambda session: txs.spent_since(session, day_ago_ms))
        over = await self._read(lambda session: news.overbilled_since(session, day_ago_ms // 1000))
        readings.overbilled_day_s, readings.overbilled_day_amount = over.seconds, over.amount
        readings.active = await self._read(queries.count_active)
        readings.over = (await self.status())["waiting"]["sessions"]

    def _read_memory(self) -> None:
        now, readings, reconciler, head = self._clock(), self._now, self._reconciler, self._follower.head
        readings.head = head.number if head else None
        readings.head_age_s = (now - head.received_ms) / 1000 if head else None
        readings.lag_blocks = self._follower.lag_blocks
        readings.logs = self._follower.logs_indexed
        readings.at_head = self._follower.at_head.is_set()
        readings.set_aside = len(reconciler.set_aside())
        readings.rooms_waiting = reconciler.memory.book.waiting_rooms
        readings.feeds = {name: reconciler.feeds.up(name, now) for name in (SOCKET, WEBHOOK)} | {
            "redis": bool(self._mapping and self._mapping.up)
        }
        reasons = [reason.name for reason in self.readiness.reasons()]
        readings.not_ready = reasons
        counters = reconciler.counters
        readings.linked = {
            name.partition(".")[2]: total for name, total in counters.items() if name.startswith("linked.")
        }
        readings.heartbeats, readings.duplicates = counters["heartbeats"], counters["duplicates"]
        readings.refused = self._refused()
        self._read_sender(readings, reasons)

    def _read_sender(self, readings: Readings, reasons: Sequence[str]) -> None:
        budget_wei = round(self._settings.daily_gas_budget_eth * 10**18)
        readings.gas_budget_wei = budget_wei
        sender = self._sender
        if sender is not None:
            readings.in_flight, readings.balance_wei = sender.in_flight, sender.balance_wei
        floor_wei = round(self._settings.min_balance_eth * 10**18)
        if readings.balance_wei is not None and self._price_wei:
            readings.settlements_left = max(0, readings.balance_wei - floor_wei) // (SETTLE_GAS * self._price_wei)
        readings.breakers = {
            "mass-end": bool(self._reconciler.memory.held),
            "paused": self._reconciler.conditions.paused,
            "gas-budget": readings.gas_spent_day_wei >= budget_wei,
            "balance": "balance" in reasons,
        }

    def _refused(self) -> dict[tuple[str, str], int]:
        counted = {
            SOCKET: self._socket.counters if self._socket else {},
            WEBHOOK: self.hook_counters,
            "redis": self._mapping.counters if self._mapping else {},
        }
        whys = ("refused", "unauthorised", "limited", "not_stored", "ignored")
        return {(feed, why): totals[why] for feed, totals in counted.items() for why in whys if totals.get(why)}

    async def _read(self, ask: Callable[[Session], T]) -> T:
        """Raises TryAgain while the database is away."""

        def reading() -> T:
            with self._ground.database.read() as session:
                return ask(session)

        return await self._in_thread(reading)

    async def _in_thread(self, read: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(read)
        except DBAPIError as error:
            why = passing(error)
            if why is None:
                raise
            raise TryAgain(f"the database can't be read: {why}") from None
