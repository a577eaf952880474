"""What the keeper hears by: the backend's socket, the signalling server's posts, Redis; and what it passes on of that.

Promises: each way is there only if a setting names it, and the log says so when none of them can report an end. A post
is answered from the time at which the address is open, and nothing that was heard goes past `hooks`, which keep the
order in which things were told.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from bot import backend
from bot.chain.langdao import LangDAO
from bot.chain.witness import Witness
from bot.domain.facts import Hint
from bot.domain.feeds import SOCKET, WEBHOOK
from bot.feeds.lookup import Lookup
from bot.feeds.statements import Statements
from bot.ground import Ground
from bot.hooks import FeedHooks, SocketLine
from bot.ops.alerts import Alerts
from bot.ops.self_report import SelfReport
from bot.places import webhook_secret_file
from bot.reconciler import Reconciler
from bot.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter
    from pydantic import SecretStr

    from bot.feeds.aftermath import Aftermath
    from bot.feeds.canary import Canary
    from bot.feeds.mapping import MappingFeed
    from bot.feeds.socket import SocketFeed
    from bot.feeds.tee import Tee

log = structlog.get_logger("keeper")


class Hearing:
    """Made before the chain is read, so that the rest can name it; `open` makes the feeds, `parts` are to be run."""

    def __init__(
        self,
        settings: Settings,
        ground: Ground,
        reconciler: Reconciler,
        langdao: LangDAO,
        alerts: Alerts,
        report: SelfReport,
        clock_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._ground = ground
        self._reconciler = reconciler
        self._langdao = langdao
        self._alerts = alerts
        self._report = report
        self._clock = clock_ms
        self.witness = Witness(ground.rpc, ground.identity.contract)
        self.lookup = Lookup(reconciler.take, reconciler.store, reconciler.joined)
        self.statements = Statements(self.lookup.take, self.witness.verify, reconciler.signed, clock_ms=clock_ms)
        self.hooks = FeedHooks(reconciler, self._record, self.statements.take)
        self.line = SocketLine(lambda: self.socket)
        self.socket: SocketFeed | None = None
        self.mapping: MappingFeed | None = None
        self.tee: Tee | None = None
        self.aftermath: Aftermath | None = None
        self.canary: Canary | None = None

    async def open(self) -> None:
        """Makes what the settings name. Raises Misconfigured."""
        await self._make_socket()
        await self._count_on_posts()
        self._make_mapping()
        settings, clock = self._settings, self._clock
        self.canary = backend.canary(settings, self.hooks.canary_heard, self._alerts, clock)
        window = backend.limit(settings)
        writer = self._ground.writer
        self.tee = backend.tee(settings, writer, self._reconciler, self._langdao, self._alerts, window, clock)
        self.aftermath = backend.aftermath(settings, writer, self.mapping, window, clock)
        self._report.others = lambda: backend.counted(self.mapping, self.tee, self.aftermath)

    def parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What is to be run, until cancelled."""
        parts = {"events": self.hooks.run()}
        for name, part in (
            ("socket", self.socket),
            ("mapping", self.mapping),
            ("tee", self.tee),
            ("aftermath", self.aftermath),
            ("canary", self.canary),
        ):
            if part is not None:
                parts[name] = part.run()
        return parts

    async def serve(self, answers: APIRouter, operator: APIRouter, counters: Any) -> None:
        """Serves posts, participants' answers and the operator's pages at HTTP_BIND, until cancelled."""
        from bot.feeds.webhook import secret_in, webhook_routes
        from bot.ops.logging import redactor
        from bot.web.app import keeper_app
        from bot.web.serving import serve

        path = webhook_secret_file(self._settings, self._ground.database.path)
        secret, made = secret_in(path)
        redactor.add(secret)
        log.info("webhook.secret-made" if made else "webhook.secret", file=str(path))
        routes = webhook_routes(
            self.lookup.store,
            secret=secret,
            open_to_all=self._settings.webhook_open,
            clock_ms=self._clock,
            counters=counters,
            on_post=self.hooks.posted,
            tee=self.tee.take if self.tee is not None else None,
            own=self.canary.takes if self.canary is not None else lambda _: False,
        )
        bind = self._settings.http_bind
        app = routes.direct(keeper_app(routes, answers, operator))
        proxies = self._settings.proxies()
        await serve(app, bind, "HTTP_BIND", proxies=proxies, on_ready=lambda: log.info("http.listening", bind=bind))

    async def serve_gateway(self, routers: Sequence[APIRouter]) -> None:
        """Serves the bundled backend beside it, until cancelled."""
        await backend.serve_gateway(self._settings, self.witness, routers)

    def state(self) -> dict[str, Any]:
        """For `status`."""
        return {"canary": {"up": self.canary.up, "since_ms": self.canary.since_ms} if self.canary else None}

    # Making ----------------------------------------------------------------------------------------------------------

    async def _make_socket(self) -> None:
        settings = self._settings
        if settings.socket_url is None:
            return
        from bot.feeds.socket import SocketFeed
        from bot.store import fact_rows

        self.socket = SocketFeed(
            settings.socket_url.get_secret_value(),
            self.statements.take,
            token=_secret(settings.gateway_token),
            on_state=self.hooks.socket_state,
            clock_ms=self._clock,
            can_return=await self._ground.writer(fact_rows.heard_returns),
            **backend.socket_options(settings),
        )
        self._report.uses(SOCKET, self.socket.counters)

    async def _count_on_posts(self) -> None:
        from bot.store import fact_rows

        if await self._ground.writer(fact_rows.heard_webhook):
            self._report.uses(WEBHOOK)
        elif self._settings.socket_url is None:
            log.warning(
                "keeper.deaf",
                text="Nothing configured can tell that a lesson ended: set SOCKET_URL or point the signalling "
                f"server at http://{self._settings.http_bind} (`langdao-keeper webhook` prints the line)",
            )

    def _make_mapping(self) -> None:
        url = _secret(self._settings.redis_url)
        if url is None:
            return
        from bot.feeds.mapping import MappingFeed

        self.mapping = self.lookup.mapping = MappingFeed(url, self._reconciler.take, clock_ms=self._clock)
        self.hooks.when_socket_up.append(self.mapping.scan_soon)

    async def _record(self) -> Iterable[Hint]:
        """What the backend noted while nobody listened; there is no replay on the socket."""
        from bot.feeds.record import read_record

        url, token = _secret(self._settings.socket_url), _secret(self._settings.gateway_token)
        if url is None or token is None:
            return ()
        return await read_record(url, token, clock_ms=self._clock)


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None
