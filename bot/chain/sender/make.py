"""A sender as the settings say."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from bot.chain.fees import Caps
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.sender.mode import carrier_for
from bot.chain.sender.sender import Sender
from bot.chain.sender.terms import Hooks, SenderConfig
from bot.chain.signer import Signer
from bot.domain.address import Address
from bot.settings import Settings
from bot.store.db import Writer

log = structlog.get_logger("sender")


async def make_sender(
    settings: Settings,
    signer: Signer,
    rpc: Rpc,
    writer: Writer,
    langdao: LangDAO,
    owner: Address,
    chain_id: int,
    hooks: Hooks,
    clock_ms: Callable[[], int],
) -> Sender:
    """Raises Misconfigured for a key that can't end sessions."""
    source = str(settings.key_source())
    carrier = await carrier_for(rpc, langdao, owner, signer.address, source=source, gas_limit=settings.gas_limit)
    log.info("sender.mode", mode=carrier.mode, signer=signer.address, owner=owner)
    # Pools take one transaction at a time of an account that is delegated itself.
    alone = carrier.mode == "guarded" and signer.address == owner
    config = SenderConfig(
        chain_id=chain_id,
        gas_limit=settings.gas_limit,
        confirmations=settings.confirmations,
        replace_after_blocks=settings.replace_after_blocks,
        max_in_flight=1 if alone else settings.max_in_flight,
        caps=Caps.of(settings.max_fee_gwei, settings.max_fee_multiple),
        min_balance_wei=round(settings.min_balance_eth * 10**18),
        daily_budget_wei=round(settings.daily_gas_budget_eth * 10**18),
        warn_settlements=settings.balance_warning_settlements,
        probe_every_ms=round(settings.probe_every_s * 1000),
    )
    return Sender(rpc, writer, langdao, carrier, signer, config, hooks, clock_ms)
