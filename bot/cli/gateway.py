"""`langdao-keeper gateway`: the bundled backend."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import json_option, load_settings, run_async

if TYPE_CHECKING:
    from bot.settings import Settings
    from bot.web.gateway import GatewayConfig


@click.command(short_help="Serve the bundled backend.")
@json_option
def command(as_json: bool) -> int:
    """Serve the bundled backend: Socket.IO and the documented endpoints, for the devnet or in place of a backend.

    Listens on GATEWAY_BIND (127.0.0.1:4000). Needs GATEWAY_TOKEN, which the keeper has to be given too: nudges and
    the record are for those who know it. With RPC_URL and CONTRACT_ADDRESS it looks at the chain, and only then takes
    signatures. What it knows is kept in REDIS_URL, or in GATEWAY_STATE_FILE.

    \b
    Example:
      GATEWAY_TOKEN=$(openssl rand -hex 16) langdao-keeper gateway
    """
    from bot.ops import logging
    from bot.places import state_dir

    settings = load_settings()
    settings.shared_token()
    redactor = logging.configure(settings, pretty=False if as_json else None)

    from bot.feeds.webhook import secret_in
    from bot.web.gateway import GatewayConfig

    secret, _ = secret_in(settings.gateway_secret_file or state_dir() / "gateway-webhook.secret")
    redactor.add(secret)
    run_async(_until_told_to_stop(_serve(settings, GatewayConfig.of(settings, secret))))
    return 0


async def _serve(settings: Settings, config: GatewayConfig) -> None:
    """With the chain to look at, where RPC_URL and CONTRACT_ADDRESS name one."""
    from bot.web.gateway import serve

    if settings.rpc_url is None or settings.contract_address is None:
        await serve(config)
        return
    from bot.chain.rpc import Rpc
    from bot.chain.witness import Witness

    rpc = Rpc(settings.endpoints())
    try:
        await serve(config, Witness(rpc, settings.contract()))
    finally:
        await rpc.close()


async def _until_told_to_stop(serving: Coroutine[Any, Any, None]) -> None:
    """Serves until SIGTERM or SIGINT."""
    import asyncio
    import signal

    task = asyncio.ensure_future(serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
