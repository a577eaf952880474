"""The gateway as one ASGI app, and the server that runs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import socketio
import structlog
from fastapi import APIRouter, FastAPI

from bot.chain.witness import Witness
from bot.store.shelf import FileShelf
from bot.web import serving
from bot.web.gateway.checks import Checks
from bot.web.gateway.config import GatewayConfig
from bot.web.gateway.events import Hub
from bot.web.gateway.http import http_app
from bot.web.gateway.kept import Shelf
from bot.web.gateway.lessons import Lessons
from bot.web.gateway.plans import Plans
from bot.web.gateway.redis_shelf import RedisShelf
from bot.web.gateway.reports import Reports, Watched
from bot.web.gateway.session_state import session_routes, session_state
from bot.web.gateway.sockets import MAX_FRAME_BYTES, Sockets, socket_server
from bot.web.gateway.tape import Tape
from bot.web.pages import page_routes

log = structlog.get_logger(__name__)


def create_gateway(
    config: GatewayConfig,
    witness: Witness | None = None,
    routers: Sequence[APIRouter] = (),
    shelf: Shelf | None = None,
) -> Any:
    """The ASGI app: Socket.IO under /socket.io/, everything else FastAPI. What it knows is kept on `shelf`.

    Without a `witness` it can't look at the chain: then nothing is verified, and no signature taken. `routers` are a
    host program's own, served beside the gateway's.
    """
    server = socket_server(config)

    async def emit(event: str, said: dict[str, Any]) -> None:
        tape.note(config.clock_ms(), "fact", event, said)
        await server.emit(event, said)

    tape = Tape()
    plans = Plans()
    watched = Watched()
    hub = Hub(config, emit, shelf or shelf_of(config), [watched])
    lessons = Lessons(witness)
    sockets = Sockets(config, server, hub, lessons, plans, tape)
    checks = Checks(hub, lessons)
    reports = Reports(hub, checks, lessons, watched)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await hub.kept.load()
        tasks = [asyncio.create_task(hub.run(), name="gateway-monitor")]
        if witness is not None:
            tasks.append(asyncio.create_task(reports.run(), name="gateway-reports"))
        try:
            yield
        finally:
            if play is not None:
                await play.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await server.shutdown()
            await hub.mappings.close()
            await hub.kept.close()

    async def state(name: str) -> dict[str, Any] | None:
        return await session_state(hub, plans, lessons, name)

    play = None
    if config.debug_page and witness is not None:
        from bot.web.debug.playground import Playground
        from bot.web.debug.routes import debug_routes

        play = Playground(hub, witness.rpc, witness.contract)
        routers = [debug_routes(play, tape), *routers]
    pages = page_routes(state, explorer_url=config.explorer_url, test_wallet=play is not None)
    routers = [session_routes(hub, plans, lessons), pages, *routers]
    return socketio.ASGIApp(
        server, other_asgi_app=http_app(config, hub, sockets, plans, lessons, checks, reports, lifespan, routers)
    )


def shelf_of(config: GatewayConfig) -> Shelf | None:
    """Where this gateway keeps what it knows: in Redis, else in its file. Raises Misconfigured."""
    if config.redis_url is not None:
        return RedisShelf(config.redis_url, config.hook_secret)
    if config.state_file is None:
        return None
    shelf = FileShelf(config.state_file, "GATEWAY_STATE_FILE")
    shelf.open()
    return shelf


async def serve(
    config: GatewayConfig,
    witness: Witness | None = None,
    *,
    on_ready: Callable[[], None] | None = None,
    routers: Sequence[APIRouter] = (),
) -> None:
    """Serves until cancelled. Signals are the caller's. Raises Misconfigured when the address is taken."""

    def ready() -> None:
        log.info("gateway.listening", bind=config.bind, verifies=witness is not None)
        if on_ready is not None:
            on_ready()

    app = create_gateway(config, witness, routers, shelf_of(config))
    bind, proxies = config.bind, config.trusted_proxies
    await serving.serve(app, bind, "GATEWAY_BIND", proxies=proxies, on_ready=ready, ws_max_size=MAX_FRAME_BYTES)
