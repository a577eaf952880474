"""The composition root: wires the parts, runs them, stops them. The only place that knows them all.

    chain logs ─▶ Follower ─┐                                  ┌─▶ Nudger ─▶ sockets, webhook, Apprise
    socket.io  ─▶ SocketFeed ├─▶ Reconciler ─▶ (store) actions ─┼─▶ Sender ─▶ the chain
    HTTP posts ─▶ webhook   │    facts, links, decisions         └─▶ Alerts ─▶ log, Apprise
    Redis      ─▶ MappingFeed│
    commands   ─▶ inbox     ─┘    the earliest deadline: one APScheduler job

Promises: nothing is decided before the follower has reached the head; a fatal error of any part stops all of them,
and the next start resumes by reading. SIGTERM or SIGINT: no new work, everything is stored, exit within 5 s (code 0, or
1 when something hung and was left behind); a second one ends it at once (130).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from bot.domain.policy import RISK_OF_HINTS
from bot.errors import Misconfigured, TryAgain
from bot.ground import Ground, opened
from bot.ops import heap
from bot.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter

    from bot.chain.balances import Balances
    from bot.chain.details import Details
    from bot.chain.sender import Sender
    from bot.chain.signer import Signer
    from bot.nudges.bills import Bills
    from bot.nudges.nudger import Nudger
    from bot.plans import Plans

log = structlog.get_logger("keeper")

STATUS_EVERY_S = 2.0
INBOX_EVERY_S = 0.25
PULSE_EVERY_S = 1.0
HOUSEKEEPING_EVERY_S = 30.0
SWITCH_S = 0.0005  # the loop and the writer's thread take turns ten times as often as by default: neither waits long
SHUTDOWN_S = 4.5  # of the five that are promised


def clock_ms() -> int:
    """Epoch milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000


async def run(settings: Settings) -> int:
    """Runs the daemon until it is told to stop; the exit code."""
    sys.setswitchinterval(SWITCH_S)
    _say_mode(settings)
    hints = settings.policy().hints
    log.info("keeper.trusts", text=f"TRUST_BACKEND_HINTS={hints}: {RISK_OF_HINTS[hints]}")
    async with opened(settings) as ground:
        keeper = Keeper(settings, ground)
        return await keeper.run()


async def settle_once(settings: Settings, session_id: int) -> dict[str, Any]:
    """Settles one session without a daemon, and returns {"outcome", "reason", "tx_hash"} when it is known."""
    if settings.key_source() is None or settings.dry_run:
        raise Misconfigured("BACKEND_PRIVATE_KEY is not set: without it nothing can be signed")
    async with opened(settings) as ground:
        return await Keeper(settings, ground, listen=False).settle_one(session_id)


def _say_mode(settings: Settings) -> None:
    if settings.dry_run:
        log.warning("keeper.watching", text="Watching only: --dry-run or DRY_RUN=1, nothing will be signed")
    elif (source := settings.key_source()) is None:
        log.warning("keeper.watching", text="Watching only: BACKEND_PRIVATE_KEY is not set, nothing will be signed")
    else:
        log.info("keeper.signing", text=f"Will end sessions that are over, with the key in {source}")


# The daemon ----------------------------------------------------------------------------------------------------------


class Keeper:
    """All parts, wired. `listen` false: no feeds, inbox or HTTP, for a single settlement."""

    def __init__(self, settings: Settings, ground: Ground, *, listen: bool = True) -> None:
        from bot.chain.follower import Follower
        from bot.chain.langdao import LangDAO
        from bot.desk import OperatorDesk
        from bot.hearing import Hearing
        from bot.hooks import ChainHooks, EffectHooks, SenderHooks
        from bot.ops.alerts import Alerts
        from bot.ops.inbox import Inbox
        from bot.ops.questions import Questions
        from bot.ops.self_report import SelfReport
        from bot.reconciler import Reconciler

        self._settings = settings
        self._ground = ground
        self._listen = listen
        self._stop = asyncio.Event()
        urls = settings.apprise_urls.get_secret_value() if settings.apprise_urls is not None else None
        self.alerts = Alerts(ground.writer, urls, clock_ms)
        self.effects = EffectHooks(self.alerts)
        self.reconciler = Reconciler(
            ground.writer,
            settings.policy(),
            self.effects,
            webhook_silence_ms=round(settings.feed_silence_s * 1000),
            max_attempts=settings.max_attempts,
            clock_ms=clock_ms,
        )
        self.follower = Follower(
            ground.rpc,
            ground.writer,
            ground.identity,
            poll_interval_s=settings.poll_interval_s,
            confirmations=settings.confirmations,
            on_change=lambda change: self.chain_hooks.changed(change),
            on_alert=lambda name, text: self.alerts.raise_alert(name, text),
            on_violation=lambda violated: self.chain_hooks.violation(violated),
        )
        self.chain_hooks = ChainHooks(self.follower, self.reconciler, self.alerts)
        self.sender_hooks = SenderHooks(self.reconciler, self.alerts)
        self.langdao = LangDAO(ground.rpc, ground.identity.contract)
        self.inbox = Inbox(ground.writer, self.reconciler, signs=lambda: self.sender is not None, clock_ms=clock_ms)
        self.report = SelfReport(ground.writer, self.follower, self.reconciler, self._about_me, clock_ms)
        self.questions = Questions(ground.writer, self.reconciler, settings.public_url, clock_ms)
        self.desk = OperatorDesk(settings, ground, self.follower, self.reconciler, self.alerts, self.report, clock_ms)
        self.signer: Signer | None = None
        self.hearing = Hearing(settings, ground, self.reconciler, self.langdao, self.alerts, self.report, clock_ms)
        self.sender: Sender | None = None
        self.details: Details | None = None
        self.balances: Balances | None = None
        self.nudger: Nudger | None = None
        self.bills: Bills | None = None
        self.plans: Plans | None = None

    async def run(self) -> int:
        """Until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        await self._work(self._stop.wait())
        log.info("keeper.stopped")
        return 0

    async def settle_one(self, session_id: int) -> dict[str, Any]:
        """Catches up, ends this session, and says what came of it."""
        found: dict[str, Any] = {}

        async def until_settled() -> None:
            key = await self.reconciler.settle(session_id, {"by": "operator"})
            if key is None:
                found.update(outcome="over", reason="no such session is active at the newest block", tx_hash=None)
                return
            while True:
                told, outcome = await self.sender_hooks.outcomes.get()
                if told == key and outcome["outcome"] != "waiting":
                    found.update(outcome)
                    return

        await self._work(until_settled())
        return found

    async def _work(self, until: Coroutine[Any, Any, Any]) -> None:
        """Starts everything, waits for `until`, stops everything. A part that fails stops the rest."""
        try:
            prepared = await self._prepared()
        except BaseException:
            until.close()
            raise
        if not prepared:
            return until.close()
        heap.settle_down()  # walking what stays each time would hold the loop up for tens of milliseconds
        goal = asyncio.create_task(until, name="until")
        parts = [asyncio.create_task(part, name=name) for name, part in self._parts().items()]
        try:
            done, _ = await asyncio.wait([goal, *parts], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not goal:
                    log.error("keeper.part-failed", part=task.get_name(), error=repr(task.exception())[:300])
                await task
        finally:
            for task in (goal, *parts):
                task.cancel()
            if self.nudger is not None:
                await self.nudger.close()
            await asyncio.wait([goal, *parts], timeout=SHUTDOWN_S)
            if self.signer is not None:
                await self.signer.close()

    async def _prepared(self) -> bool:
        """Whether it may begin; False when it was told to stop before it had reached the head."""
        preparing, told = asyncio.create_task(self._prepare()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([preparing, told], return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                preparing.result()
            return preparing.done()
        finally:
            preparing.cancel()
            told.cancel()
            await asyncio.wait([preparing, told])

    async def _prepare(self) -> None:
        """Reaches the head, reads what was left, then listens."""
        from bot.ops.self_report import last_seen_s

        owner, token = await asyncio.gather(self.langdao.owner(), self.langdao.token())
        await self._make_sender(owner)
        self._make_chain_readers(owner, token)
        while not self.follower.at_head.is_set():
            try:
                await self.follower.catch_up()
            except TryAgain as error:
                log.warning("keeper.not-at-head", reason=str(error))
            if not self.follower.at_head.is_set():
                await asyncio.sleep(1)
        conditions = self.reconciler.conditions
        conditions.watching = self.sender is None
        if self._listen:
            self._make_nudger()
        await self.inbox.load_paused()
        await self.reconciler.load(await self._ground.writer(last_seen_s), watches=self._listen)
        if self.balances is not None:
            self.balances.ask({live.session.key.student for live in self.reconciler.active()})
        self.chain_hooks.tell_sender()
        await self.questions.load()
        if self._listen:
            self._make_plans()
            await self.hearing.open()

    def _parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        from bot.ops.timer import keep_deadlines

        parts: dict[str, Coroutine[Any, Any, None]] = {
            "reconciler": self.reconciler.run(),
            "follower": self.follower.run(),
            "deadlines": keep_deadlines(self.reconciler, clock_ms),
            "pulse": _every(PULSE_EVERY_S, self.reconciler.pulse),
            "housekeeping": _every(HOUSEKEEPING_EVERY_S, self._tidy),
            **self.hearing.parts(),
        }
        for name, part in (
            ("sender", self.sender),
            ("details", self.details),
            ("balances", self.balances),
            ("bills", self.bills),
            ("plans", self.plans),
        ):
            if part is not None:
                parts[name] = part.run()
        if self._listen:
            parts["inbox"] = _every(INBOX_EVERY_S, self.inbox.read)
            parts["status"] = _every(STATUS_EVERY_S, self.report.write)
            hearing, desk = self.hearing, self.desk
            parts["http"] = hearing.serve(self._answers(), desk.routes(), desk.hook_counters)
            parts |= desk.take(sender=self.sender, socket=hearing.socket, mapping=hearing.mapping)
            if self._settings.gateway:
                parts["gateway"] = hearing.serve_gateway([self._answers(pages=True)])
        return parts

    def _told_to_stop(self, number: int) -> None:
        log.info("keeper.stopping", signal=signal.Signals(number).name)
        self.desk.stopping()
        self._stop.set()
        # Not by the loop: what is slow to stop may be what holds it up. Whatever is stored by then is stored, and the
        # next start resumes by reading.
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(each)
            signal.signal(each, lambda *_: _force(130))
        late = threading.Timer(SHUTDOWN_S, _force, (1,))
        late.daemon = True
        late.start()

    # Making the parts ------------------------------------------------------------------------------------------------

    async def _make_sender(self, owner: str) -> None:
        settings = self._settings
        if settings.key_source() is None or settings.dry_run:
            return
        from bot.chain.keys import open_signer
        from bot.chain.sender import make_sender
        from bot.ops.logging import redactor

        signer = self.signer = await open_signer(settings, redactor.add)
        assert signer is not None
        ground = self._ground
        self.sender = await make_sender(
            settings,
            signer,
            ground.rpc,
            ground.writer,
            self.langdao,
            owner,
            ground.identity.chain_id,
            self.sender_hooks,
            clock_ms,
        )
        self.effects.sender = self.chain_hooks.sender = self.sender
        # With the guard's keeper key the backend has no head start: it signs with another one.
        self.reconciler.conditions.direct = signer.address == owner

    def _make_chain_readers(self, owner: str, token: str) -> None:
        from bot.chain.balances import Balances
        from bot.chain.details import Details

        self.details = Details(
            self._ground.rpc,
            self._ground.writer,
            self.langdao,
            owner=owner,
            on_settled=self.reconciler.settlement_known,
            on_session=self.reconciler.session_known,
        )
        self.balances = Balances(self.langdao, token, self.reconciler.set_balance)
        self.chain_hooks.details, self.chain_hooks.balances = self.details, self.balances

    def _make_nudger(self) -> None:
        from bot import nudging

        settings, writer, link = self._settings, self._ground.writer, self.questions.link
        made = nudging.make(settings, self.reconciler, writer, self.hearing.line, link, self.alerts, clock_ms)
        self.nudger, self.bills = made
        self.effects.nudger = self.nudger

    def _make_plans(self) -> None:
        if not self._has_gateway():
            return
        from bot.plans import Plans

        ground = self._ground
        self.plans = Plans(self.reconciler, ground.writer, ground.identity, self.hearing.line.plan, clock_ms)
        self.reconciler.when_decided(self.plans.touched)
        self.hearing.hooks.when_socket_up.append(self.plans.connected)

    def _answers(self, *, pages: bool = False) -> APIRouter:
        from bot.web.still_here import still_here_routes

        return still_here_routes(self.questions, pages=pages)

    def _has_gateway(self) -> bool:
        return self._settings.socket_url is not None and self._settings.gateway_token is not None

    async def _tidy(self) -> None:
        await self.reconciler.forget_final()
        await self.questions.forget_expired()

    # Reporting -------------------------------------------------------------------------------------------------------

    def _about_me(self) -> dict[str, Any]:
        sender = self.sender
        return {
            "signer": sender.address if sender else None,
            "signing": sender.mode if sender else None,
            "in_flight": sender.in_flight if sender else 0,
            "balance_wei": str(sender.balance_wei) if sender and sender.balance_wei is not None else None,
            "gas_budget_wei": str(round(self._settings.daily_gas_budget_eth * 10**18)) if sender else None,
            **self.hearing.state(),
        }


def _force(code: int) -> None:
    log.warning("keeper.forced")
    os._exit(code)


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await work()
        await asyncio.sleep(seconds)
