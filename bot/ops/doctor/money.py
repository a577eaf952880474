"""The key: whose it is, what it is good for, and whether somebody else uses it."""

from __future__ import annotations

import asyncio

from bot.errors import Misconfigured
from bot.ops.doctor.patient import Check, Patient, Skip
from bot.settings import Settings

SETTLE_GAS = 212_500  # of a tutor's first settlement, the costliest
SETTLEMENTS_LOW = 100


async def key(patient: Patient) -> Check:
    source, address = await _address_of_key(patient.settings)
    if address is None:
        return Check(
            "key",
            "warning",
            "not set: the keeper watches and never signs",
            "Set BACKEND_PRIVATE_KEY to the guard's keeper's key or the owner's, or name a keystore or signer: "
            "docs/keys.md",
        )
    patient.notes["address"] = address
    if patient.settings.dry_run:
        return Check("key", "warning", f"{address}, but DRY_RUN=1: never signs", "Unset DRY_RUN to let it sign")
    seen = patient.delegation
    if patient.owner is None or seen is None:
        raise Skip("the owner and its delegation can't be read")
    langdao = patient.settings.contract()
    if seen.admits(address, langdao):
        who = "the owner" if address == patient.owner else "the guard's keeper"
        return Check("key", "ok", f"{address}, {who}, by {source}: guarded mode")
    if address == patient.owner:
        return Check("key", "ok", f"{address}, the owner, by {source}: direct mode")
    from bot.chain.sender.mode import why_refused

    remedy = f"{source}: use the owner's key, or the guard: docs/guard.md"
    return Check("key", "failed", why_refused(seen, address, langdao, str(source)), remedy)


async def _address_of_key(settings: Settings) -> tuple[str | None, str | None]:
    """The setting that names the key, and the key's address. Raises Misconfigured, TryAgain: it can't sign now."""
    try:
        source = settings.key_source()
    except Misconfigured:
        raise Skip("the settings don't say which key is meant") from None
    if source is None:
        return None, None
    from bot.chain.keys import open_signer
    from bot.ops.logging import redactor

    signer = await open_signer(settings, redactor.add, must_answer=True)
    assert signer is not None
    await signer.close()
    return source, str(signer.address)


async def balance(patient: Patient) -> Check:
    from bot.ops.words import ether

    rpc = patient.node()
    address = patient.notes.get("address")
    if address is None:
        raise Skip("no key is set")
    balance, price = (
        int(answer, 16)
        for answer in await asyncio.gather(rpc.call("eth_getBalance", (address, "latest")), rpc.call("eth_gasPrice"))
    )
    left = balance // max(1, SETTLE_GAS * price)
    value = f"{ether(balance)}, about {left:,} settlements at the present fee"
    minimum = round(patient.settings.min_balance_eth * 10**18)
    if balance < minimum:
        return Check(
            "balance",
            "failed",
            f"{value}; below MIN_BALANCE_ETH ({ether(minimum)}) nothing is signed",
            f"Send ETH to {address}",
        )
    if left < SETTLEMENTS_LOW:
        return Check("balance", "warning", value, f"Send ETH to {address}")
    return Check("balance", "ok", value)


async def pending(patient: Patient) -> Check:
    rpc = patient.node()
    address = patient.notes.get("address")
    if address is None:
        raise Skip("no key is set")
    mined, waiting = (
        int(answer, 16)
        for answer in await asyncio.gather(
            *(rpc.call("eth_getTransactionCount", (address, tag)) for tag in ("latest", "pending"))
        )
    )
    if waiting > mined:
        others = "They may be the backend's, which signs with the same key. " if address == patient.owner else ""
        return Check(
            "nonce",
            "warning",
            f"{mined} used, {waiting - mined} transactions wait in the pool",
            f"{others}If they stay, see `langdao-keeper txs`",
        )
    return Check("nonce", "ok", f"{mined} used, none waits")
