"""The node and the contract: can they be read, as fast and as far as the keeper needs?"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bot.chain.errors import RpcError, too_many
from bot.errors import Misconfigured
from bot.ops.doctor.patient import REMEDIES, REQUEST_S, Check, Patient, Skip

if TYPE_CHECKING:
    from bot.chain.langdao import LangDAO

SKEW_WARN_S = 15
APART_BLOCKS = 5  # heads of two endpoints
ZERO = "0x" + "00" * 20
RANGE_BLOCKS = 10_000  # a page that most nodes take


async def rpc(patient: Patient) -> Check:
    from bot.chain.rpc import Rpc
    from bot.chain.start import chain_name

    try:
        endpoints = patient.settings.endpoints()
    except Misconfigured as error:
        raise Skip(str(error)) from None
    patient.rpc = Rpc(endpoints, timeout_s=REQUEST_S)
    answers = await patient.rpc.on_each("eth_chainId")
    chains = {place: int(answer, 16) for place, answer in answers if isinstance(answer, str)}
    down = [f"{place} ({getattr(answer, 'reason', answer)})" for place, answer in answers if place not in chains]
    if not chains:
        return Check("rpc", "failed", f"can't be reached: {', '.join(down)}", "Start the node or mend RPC_URL")
    if len(set(chains.values())) > 1:
        told = ", ".join(f"{place} is chain {number}" for place, number in chains.items())
        return Check("rpc", "failed", told, "RPC_URL: all endpoints have to be nodes of one chain")
    patient.head = await patient.rpc.header("latest")
    patient.head_seen_s = time.time()
    patient.chain_id = next(iter(chains.values()))
    value = f"{', '.join(chains)}: {chain_name(patient.chain_id)}"
    if patient.head is not None:
        value += f", block {int(patient.head.number, 16)}"
    if down:
        return Check("rpc", "warning", f"{value}; down: {', '.join(down)}", "RPC_URL: mend or remove what is down")
    return Check("rpc", "ok", value)


async def contract(patient: Patient) -> Check:
    from bot.chain.langdao import LangDAO
    from bot.chain.start import chain_name

    rpc, address = patient.node(), patient.settings.contract()
    code = await LangDAO(rpc, address).code()
    if not code:
        where = chain_name(patient.chain_id or 0)
        return Check(
            "contract",
            "failed",
            f"no code at {address} on {where}",
            "CONTRACT_ADDRESS: deployed elsewhere? Check RPC_URL",
        )
    patient.has_code = True
    value = f"{address}, {len(code)} bytes of code"
    start = patient.settings.start_block
    if start and await _was_there(LangDAO(rpc, address), start - 1):
        value += f"; it was there before START_BLOCK {start} already: what it did until then isn't indexed"
        return Check("contract", "warning", value, "Set START_BLOCK to the block of its deployment, on a new database")
    return Check("contract", "ok", value)


async def _was_there(dao: LangDAO, block: int) -> bool:
    """As far as the node keeps old state."""
    try:
        return bool(await dao.code(block))
    except RpcError:
        return False


async def clock(patient: Patient) -> Check:
    patient.node()
    if patient.head is None:
        raise Skip("the node knows no newest block")
    ahead_s = int(patient.head.timestamp, 16) - patient.head_seen_s
    value = f"newest block is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this clock"
    if ahead_s > SKEW_WARN_S:
        return Check("clock", "warning", value, "Set this machine's clock by NTP")
    if ahead_s < -patient.settings.head_old_s:
        return Check("clock", "warning", value, "Is the node in sync, and this machine's clock right?")
    return Check("clock", "ok", value)


async def finality(patient: Patient) -> Check:
    rpc = patient.node()
    final = await rpc.header("finalized")
    if final is None or patient.head is None:
        return Check("finality", "warning", "the node names no finalized block", REMEDIES["finality"])
    behind = int(patient.head.number, 16) - int(final.number, 16)
    return Check("finality", "ok", f"block {int(final.number, 16)}, {max(0, behind)} behind the head")


async def owner(patient: Patient) -> Check:
    from bot.chain.langdao import LangDAO

    address = patient.contract()
    dao = LangDAO(patient.node(), address)
    patient.owner, token = await asyncio.gather(dao.owner(), dao.token())
    decimals, count = await asyncio.gather(dao.decimals(token), dao.counter())
    nobody = await dao.active(ZERO, "latest")
    if nobody is not None:
        return Check("owner", "failed", "activeSessions answers for nobody", REMEDIES["owner"])
    value = f"{patient.owner}; token {token} with {decimals} decimals; {count:,} sessions so far"
    if decimals != 6:
        return Check("owner", "warning", value, "CONTRACT_ADDRESS: amounts are shown as PYUSD, which has 6 decimals")
    return Check("owner", "ok", value)


async def guard(patient: Patient) -> Check:
    from bot.chain.guard import EFFECTS, delegation

    node, owner = patient.node(), patient.owner
    if owner is None:
        raise Skip("the owner can't be read")
    seen = patient.delegation = await delegation(node, owner)
    if seen.delegate is None and not seen.is_contract:
        value = "the owner delegates to nobody: an end may hit the tutor's next lesson"
        return Check("guard", "ok", f"{value}; what is done about it: docs/guard.md")
    if seen.keeper is None or seen.langdao != patient.settings.contract():
        why = seen.why_not(seen.keeper or "", patient.settings.contract())
        return Check("guard", "warning", f"the owner {why}", "Delegate it to the guard, or revoke: docs/guard.md")
    return Check("guard", "ok", f"the owner delegates to the guard for the keeper {seen.keeper}. {' '.join(EFFECTS)}")


async def sync(patient: Patient) -> Check:
    """Is each endpoint in sync, and do they agree on where the head is?"""
    node = patient.node()
    syncing = await node.on_each("eth_syncing")
    heads = await node.on_each("eth_blockNumber")
    behind = [place for place, answer in syncing if isinstance(answer, dict)]
    numbers = {place: int(answer, 16) for place, answer in heads if isinstance(answer, str)}
    if behind:
        return Check("sync", "warning", f"still syncing: {', '.join(behind)}", "RPC_URL: wait, or use another node")
    if not numbers:
        raise Skip("no endpoint tells its head")
    newest = max(numbers.values())
    late = [f"{place} is {newest - at} blocks behind" for place, at in numbers.items() if newest - at > APART_BLOCKS]
    if late:
        return Check("sync", "warning", "; ".join(late), "RPC_URL: mend or remove what lags")
    several = f", {len(numbers)} endpoints" if len(numbers) > 1 else ""
    return Check("sync", "ok", f"in sync at block {newest}{several}")


async def websocket(patient: Patient) -> Check:
    """Are new heads announced, so that nothing waits for the next poll?"""
    node = patient.node()
    if not node.pushes:
        raise Skip(f"RPC_URL names no ws(s):// endpoint: heads are polled each {patient.settings.poll_interval_s:g} s")
    heads = node.subscribe_heads()
    try:
        await anext(heads)
    finally:
        await heads.aclose()  # type: ignore[attr-defined]
    return Check("websocket", "ok", "new heads are announced")


async def ranges(patient: Patient) -> Check:
    """How many blocks of logs the node takes in one request."""
    address = patient.contract()
    if patient.head is None:
        raise Skip("the node knows no newest block")
    newest = int(patient.head.number, 16)
    first = max(0, newest - RANGE_BLOCKS + 1)
    began_s = time.monotonic()
    try:
        logs = await patient.node().get_logs(first, newest, address)
    except RpcError as error:
        value = f"not {newest - first + 1:,} blocks at once ({error.message[:120]}): a backfill takes smaller pages"
        return Check("ranges", "ok" if too_many(error) else "warning", value, "RPC_URL: a node with eth_getLogs")
    took_s = time.monotonic() - began_s
    return Check("ranges", "ok", f"{newest - first + 1:,} blocks at once, {len(logs):,} logs in {took_s:.2f} s")
