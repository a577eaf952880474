"""The keeper's ties to the backend that it stands in front of: what is passed on to it, what it is told.

Promises: nothing is passed on that could make it end another session than the one that is meant; see `feeds/tee.py`
and `feeds/aftermath.py`. Here is only what the two need to know of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from bot.chain.errors import RpcError, Unreachable, WrongAnswer
from bot.chain.langdao import LangDAO
from bot.chain.witness import Witness
from bot.domain.facts import SessionKey
from bot.errors import Misconfigured, TryAgain
from bot.feeds import wire
from bot.feeds.aftermath import Aftermath, Verifier
from bot.feeds.canary import Canary
from bot.feeds.limits import Window
from bot.feeds.mapping import MappingFeed
from bot.feeds.tee import Tee
from bot.ops.alerts import Alerts
from bot.places import state_dir
from bot.reconciler import Reconciler
from bot.settings import Settings
from bot.store.aftermath import EndedRooms
from bot.store.db import Writer
from bot.store.tee import TeeQueue

if TYPE_CHECKING:
    from fastapi import APIRouter


def limit(settings: Settings) -> Window:
    """What the backend takes of us in a minute, for all of our parts together."""
    return Window(settings.backend_posts_per_minute)


def tee(
    settings: Settings,
    writer: Writer,
    reconciler: Reconciler,
    langdao: LangDAO,
    alerts: Alerts,
    window: Window,
    clock_ms: Callable[[], int],
) -> Tee | None:
    """None without BACKEND_EVENTS_URL."""
    if settings.backend_events_url is None:
        return None

    async def starved(text: str) -> None:
        await alerts.raise_alert("alert.backend-limit", text)

    return Tee(
        with_path(settings.backend_events_url.get_secret_value(), wire.EVENTS_PATH),
        TeeQueue(writer),
        KnownSessions(reconciler, langdao),
        starved,
        clock_ms=clock_ms,
        window=window,
        max_age_ms=round(settings.backend_end_max_age_s * 1000),
    )


def canary(
    settings: Settings, on_heard: Callable[[], None], alerts: Alerts, clock_ms: Callable[[], int]
) -> Canary | None:
    """None without SIGNALLING_URL."""
    if settings.signalling_url is None:
        return None

    async def lost(text: str) -> None:
        await alerts.raise_alert("alert.canary", text)

    return Canary(
        settings.signalling_url.get_secret_value().strip(),
        silence_s=settings.feed_silence_s,
        on_heard=on_heard,
        on_lost=lost,
        clock_ms=clock_ms,
    )


def aftermath(
    settings: Settings, writer: Writer, mapping: MappingFeed | None, window: Window, clock_ms: Callable[[], int]
) -> Aftermath | None:
    """None where there is nobody to tell and no mapping to delete."""
    verifier = _verifier(settings)
    if verifier is None and mapping is None:
        return None
    # The bundled backend holds nobody to a limit who knows its token.
    limited = window if verifier is not None and verifier.token is None else None
    return Aftermath(EndedRooms(writer), verifier, mapping, window=limited, clock_ms=clock_ms)


def counted(mapping: MappingFeed | None, tee: Tee | None, aftermath: Aftermath | None) -> dict[str, Any]:
    """What these parts count, for `status`; those that there are."""
    found: dict[str, Any] = {}
    if mapping is not None:
        found["redis"] = {"up": mapping.up, "counters": dict(mapping.counters)}
    if tee is not None:
        found["tee"] = {"waiting": tee.waiting, "counters": dict(tee.counters)}
    if aftermath is not None:
        found["aftermath"] = {"counters": dict(aftermath.counters)}
    return found


def socket_options(settings: Settings) -> dict[str, Any]:
    """What a SocketFeed has to be told of this backend. Raises Misconfigured."""
    try:
        events = wire.events_with(settings.socket_events)
    except ValueError as error:
        raise Misconfigured(f"SOCKET_EVENTS: {error}. Name one of these, or leave the kind empty") from None
    auth, headers = settings.socket_auth, settings.socket_headers
    return {
        "events": events,
        "auth": json.loads(auth.get_secret_value()) if auth else None,
        "headers": {name: str(value) for name, value in json.loads(headers.get_secret_value()).items()}
        if headers
        else None,
    }


async def serve_gateway(settings: Settings, witness: Witness, routers: Sequence[APIRouter] = ()) -> None:
    """Serves the bundled backend, and `routers` beside it, until cancelled. Raises Misconfigured."""
    from bot.feeds.webhook import secret_in
    from bot.ops.logging import redactor
    from bot.web.gateway import GatewayConfig, serve

    secret, _ = secret_in(settings.gateway_secret_file or state_dir() / "gateway-webhook.secret")
    redactor.add(secret)
    await serve(GatewayConfig.of(settings, secret), witness, routers=routers)


def with_path(url: str, path: str) -> str:
    """The URL as it is, or with `path` where it has none."""
    pieces = urlsplit(url)
    return url if pieces.path.strip("/") else urlunsplit(pieces._replace(path=path))


def _verifier(settings: Settings) -> Verifier | None:
    socket = settings.socket_url.get_secret_value() if settings.socket_url else None
    if settings.gateway_token is not None and socket is not None:
        # The bundled backend, by its token: it never touches the chain.
        return Verifier(_base(socket), settings.gateway_token.get_secret_value())
    events = settings.backend_events_url.get_secret_value() if settings.backend_events_url else None
    if settings.backend_verifies_ends and (events or socket):
        return Verifier(_base(events or socket or ""))
    return None


def _base(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path="", query="", fragment=""))


class KnownSessions:
    """What the tee asks, of the reconciler and of the chain."""

    def __init__(self, reconciler: Reconciler, langdao: LangDAO) -> None:
        self._reconciler = reconciler
        self._langdao = langdao

    def joined(self, room: str) -> SessionKey | None:
        return self._reconciler.joined(room)

    def running(self, key: SessionKey) -> bool:
        live = self._reconciler.about(key)
        return live is not None and not live.session.ended

    async def in_slot(self, key: SessionKey, began_by_ms: int | None) -> bool:
        try:
            session = await self._langdao.active(key.tutor, "latest")
        except (RpcError, Unreachable, WrongAnswer) as error:
            raise TryAgain(f"the tutor's slot can't be read ({type(error).__name__})") from None
        # The index may have come further than the node that answered.
        if session is None or not self.running(key) or (session.id, session.student) != (key.session_id, key.student):
            return False
        skew_ms = self._reconciler.conditions.skew_ms
        return began_by_ms is None or session.start_s * 1000 - skew_ms <= began_by_ms
