"""Is everything as it has to be? One list of checks, all of them at once.

Promises: every check is always in the list, in the same order: `ok`, `warning`, `failed`, or `skipped` with the reason
in `value`; what isn't ok has a remedy that names the setting. Nothing is changed, nothing is sent but reads. All is
over within `ALL_S`. Of a URL, only scheme and host show.
Doesn't promise that what works now works tonight: alerts are for that.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bot.domain.policy import RISK_OF_HINTS
from bot.errors import KeeperError, Misconfigured
from bot.settings import Settings, database_url, shown, webhook_secret_file

if TYPE_CHECKING:
    from bot.chain.guard import Delegation
    from bot.chain.rpc import Rpc
    from bot.chain.wire import RawHeader
    from bot.store.db import Database

ALL_S = 25.0
EACH_S = 8.0
REQUEST_S = 4.0
SKEW_WARN_S = 15
HEAD_OLD_S = 120
SETTLE_GAS = 212_500  # of a tutor's first settlement, the costliest
SETTLEMENTS_LOW = 100

Result = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    result: Result
    value: str
    remedy: str | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


class _Skip(Exception):
    """This check can't run, and why."""


@dataclass(slots=True)
class _Patient:
    """What earlier checks found out, for the later ones."""

    settings: Settings
    rpc: Rpc | None = None
    chain_id: int | None = None
    head: RawHeader | None = None
    head_seen_s: float = 0.0
    has_code: bool = False
    owner: str | None = None
    delegation: Delegation | None = None
    database: Database | None = None
    schema_ok: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def node(self) -> Rpc:
        if self.rpc is None or self.chain_id is None:
            raise _Skip("the RPC can't be reached")
        return self.rpc

    def contract(self) -> str:
        self.node()
        if not self.has_code:
            raise _Skip("the contract can't be read")
        return self.settings.contract()

    def stored(self) -> Database:
        if self.database is None or not self.schema_ok:
            raise _Skip("there is no database to read")
        return self.database


Checker = Callable[[_Patient], Awaitable[Check]]


async def examine(settings: Settings) -> list[Check]:
    """All checks."""
    patient = _Patient(settings)
    found: dict[str, Check] = {}
    deadline = time.monotonic() + ALL_S
    try:
        for stage in STAGES:
            checks = await asyncio.gather(*(_one(name, check, patient, deadline) for name, check in stage.items()))
            found |= {check.name: check for check in checks}
    finally:
        if patient.rpc is not None:
            await patient.rpc.close()
        if patient.database is not None:
            patient.database.dispose()
    return [found[name] for stage in STAGES for name in stage]


def unusable(checks: list[Check]) -> Check | None:
    """The check without which no command works at all: a missing setting, a node that can't be reached."""
    return next((check for check in checks if check.result == "failed" and check.name in ("settings", "rpc")), None)


def refused(message: str) -> list[Check]:
    """The list when the settings themselves can't be read."""
    rest = [name for stage in STAGES for name in stage if name != "settings"]
    skipped = [Check(name, "skipped", "the settings can't be read") for name in rest]
    return [Check("settings", "failed", message, message), *skipped]


async def _one(name: str, check: Checker, patient: _Patient, deadline: float) -> Check:
    try:
        async with asyncio.timeout(max(0.1, min(EACH_S, deadline - time.monotonic()))):
            return await check(patient)
    except _Skip as reason:
        return Check(name, "skipped", str(reason))
    except TimeoutError:
        return Check(name, "failed", "no answer in time", _REMEDIES.get(name, "Try again; look at the network"))
    except KeeperError as error:
        return Check(name, "failed", str(error), _REMEDIES.get(name, str(error)))
    except Exception as error:
        # A doctor that falls ill over one patient is no help with the others.
        return Check(name, "failed", f"{type(error).__name__}: {error}"[:200], _REMEDIES.get(name))


_REMEDIES = {
    "rpc": "Start the node or mend RPC_URL",
    "contract": "Check CONTRACT_ADDRESS and RPC_URL",
    "owner": "Check CONTRACT_ADDRESS: it isn't a LangDAO contract",
    "finality": "Use a node that knows the `finalized` tag in RPC_URL",
    "backend": "Start the backend or mend SOCKET_URL",
    "redis": "Start Redis or mend REDIS_URL; without it rooms are linked by the socket's word alone",
    "database": "Mend DATABASE_URL or the rights of the folder",
    "schema": "Start `langdao-keeper run` once, or set another DATABASE_URL",
}


# The checks ----------------------------------------------------------------------------------------------------------


async def _settings(patient: _Patient) -> Check:
    settings = patient.settings
    try:
        settings.endpoints()
        settings.contract()
        settings.key_source()
    except Misconfigured as error:
        return Check("settings", "failed", str(error), str(error))
    given = [name.upper() for name in ("socket_url", "redis_url", "gateway_token") if getattr(settings, name)]
    return Check("settings", "ok", ", ".join(["RPC_URL", "CONTRACT_ADDRESS", *given]))


async def _rpc(patient: _Patient) -> Check:
    from bot.chain.rpc import Rpc
    from bot.chain.start import chain_name

    try:
        endpoints = patient.settings.endpoints()
    except Misconfigured as error:
        raise _Skip(str(error)) from None
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


async def _contract(patient: _Patient) -> Check:
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
    return Check("contract", "ok", f"{address}, {len(code)} bytes of code")


async def _clock(patient: _Patient) -> Check:
    patient.node()
    if patient.head is None:
        raise _Skip("the node knows no newest block")
    ahead_s = int(patient.head.timestamp, 16) - patient.head_seen_s
    value = f"newest block is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this clock"
    if ahead_s > SKEW_WARN_S:
        return Check("clock", "warning", value, "Set this machine's clock by NTP")
    if ahead_s < -HEAD_OLD_S:
        return Check("clock", "warning", value, "Is the node in sync, and this machine's clock right?")
    return Check("clock", "ok", value)


async def _finality(patient: _Patient) -> Check:
    rpc = patient.node()
    final = await rpc.header("finalized")
    if final is None or patient.head is None:
        return Check("finality", "warning", "the node names no finalized block", _REMEDIES["finality"])
    behind = int(patient.head.number, 16) - int(final.number, 16)
    return Check("finality", "ok", f"block {int(final.number, 16)}, {max(0, behind)} behind the head")


async def _owner(patient: _Patient) -> Check:
    from bot.chain.langdao import LangDAO

    address = patient.contract()
    dao = LangDAO(patient.node(), address)
    patient.owner, token = await asyncio.gather(dao.owner(), dao.token())
    decimals = await dao.decimals(token)
    value = f"{patient.owner}; token {token} with {decimals} decimals"
    if decimals != 6:
        return Check("owner", "warning", value, "CONTRACT_ADDRESS: amounts are shown as PYUSD, which has 6 decimals")
    return Check("owner", "ok", value)


async def _key(patient: _Patient) -> Check:
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
    seen, langdao = patient.delegation, patient.settings.contract()
    if patient.owner is None or seen is None:
        raise _Skip("the owner and its delegation can't be read")
    if seen.admits(address, langdao):
        who = "the owner" if address == patient.owner else "the guard's keeper"
        return Check("key", "ok", f"{address}, {who}, by {source}: guarded mode")
    if address == patient.owner:
        return Check("key", "ok", f"{address}, the owner, by {source}: direct mode")
    from bot.chain.sender.mode import why_refused

    remedy = f"{source}: use the owner's key, or the guard: docs/guard.md"
    return Check("key", "failed", why_refused(seen, address, langdao, str(source)), remedy)


async def _guard(patient: _Patient) -> Check:
    from bot.chain.guard import EFFECTS, delegation

    node, owner = patient.node(), patient.owner
    if owner is None:
        raise _Skip("the owner can't be read")
    seen = patient.delegation = await delegation(node, owner)
    if seen.delegate is None and not seen.is_contract:
        value = "the owner delegates to nobody: an end may hit the tutor's next lesson"
        return Check("guard", "ok", f"{value}; what is done about it: docs/guard.md")
    if seen.keeper is None or seen.langdao != patient.settings.contract():
        why = seen.why_not(seen.keeper or "", patient.settings.contract())
        return Check("guard", "warning", f"the owner {why}", "Delegate it to the guard, or revoke: docs/guard.md")
    return Check("guard", "ok", f"the owner delegates to the guard for the keeper {seen.keeper}. {' '.join(EFFECTS)}")


async def _address_of_key(settings: Settings) -> tuple[str | None, str | None]:
    """The setting that names the key, and the key's address. Raises Misconfigured, TryAgain: it can't sign now."""
    try:
        source = settings.key_source()
    except Misconfigured:
        raise _Skip("the settings don't say which key is meant") from None
    if source is None:
        return None, None
    from bot.chain.keys import open_signer
    from bot.ops.logging import redactor

    signer = await open_signer(settings, redactor.add, must_answer=True)
    assert signer is not None
    await signer.close()
    return source, str(signer.address)


async def _balance(patient: _Patient) -> Check:
    from bot.ops.words import ether

    rpc = patient.node()
    address = patient.notes.get("address")
    if address is None:
        raise _Skip("no key is set")
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


async def _pending(patient: _Patient) -> Check:
    rpc = patient.node()
    address = patient.notes.get("address")
    if address is None:
        raise _Skip("no key is set")
    mined, waiting = (
        int(answer, 16)
        for answer in await asyncio.gather(
            *(rpc.call("eth_getTransactionCount", (address, tag)) for tag in ("latest", "pending"))
        )
    )
    if waiting > mined:
        return Check(
            "nonce",
            "warning",
            f"{mined} used, {waiting - mined} transactions wait in the pool",
            "They may be the backend's, which signs with the same key; if they stay, see `langdao-keeper txs`",
        )
    return Check("nonce", "ok", f"{mined} used, none waits")


async def _backend(patient: _Patient) -> Check:
    import aiohttp

    url = patient.settings.socket_url
    if url is None:
        raise _Skip("SOCKET_URL is not set")
    address = url.get_secret_value().rstrip("/") + "/socket.io/?EIO=4&transport=polling"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S)) as http,
            http.get(address.replace("ws://", "http://", 1).replace("wss://", "https://", 1)) as answer,
        ):
            opening = (await answer.content.read(200)).decode(errors="replace")
            status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return Check("backend", "failed", f"{shown(url)}: {type(error).__name__}", _REMEDIES["backend"])
    if status != 200 or not opening.startswith("0{"):
        return Check(
            "backend", "failed", f"{shown(url)}: no Socket.IO 4 (HTTP {status})", "SOCKET_URL: is it the backend?"
        )
    return Check("backend", "ok", f"{shown(url)} speaks Socket.IO")


async def _nudges(patient: _Patient) -> Check:
    from bot.ops.reach import ways

    try:
        found = await asyncio.to_thread(ways, patient.settings)
    except Misconfigured as error:
        return Check("nudges", "failed", str(error), "See docs/nudges.md")
    if not found:
        value = "no channel reaches a participant: there is no nudge window, and the grace alone is given"
        remedy = (
            "Set GATEWAY_TOKEN, if the backend at SOCKET_URL is the bundled one; other backends pass on no nudges. "
            "Other ways: docs/nudges.md"
        )
        return Check("nudges", "warning", value, remedy)
    return Check("nudges", "ok", "; ".join(found))


async def _public_url(patient: _Patient) -> Check:
    if patient.settings.public_url is None:
        return Check(
            "public-url", "warning", "not set: nudges have no link", "Set PUBLIC_URL to the address others reach"
        )
    return Check("public-url", "ok", shown(patient.settings.public_url))


async def _redis(patient: _Patient) -> Check:
    url = patient.settings.redis_url
    if url is None:
        raise _Skip("REDIS_URL is not set")
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(url.get_secret_value(), socket_timeout=REQUEST_S, socket_connect_timeout=REQUEST_S)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return Check("redis", "failed", f"{shown(url)}: {type(error).__name__}", _REMEDIES["redis"])
    finally:
        await client.aclose()
    return Check("redis", "ok", shown(url))


async def _database(patient: _Patient) -> Check:
    from bot.store.db import Database, reachable

    settings = patient.settings
    if settings.database_url is None and (patient.chain_id is None or settings.contract_address is None):
        raise _Skip("its default name needs the chain id: the RPC can't be reached")
    url = database_url(settings, patient.chain_id or 0)
    path = _sqlite_path(url)
    if path is not None and not path.exists():
        patient.notes["beside"] = path
        return _not_made_yet(path)
    database = Database(url, must_exist=True)
    reachable(database)
    patient.database, patient.notes["beside"] = database, path
    where = str(path) if path else shown(url)
    if path is not None and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return Check("database", "failed", f"{where} can't be written", _REMEDIES["database"])
    return Check("database", "ok", where)


def _sqlite_path(url: str) -> Path | None:
    from sqlalchemy import make_url

    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _not_made_yet(path: Path) -> Check:
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Check("database", "failed", f"{path} can't be made: {folder} isn't writable", _REMEDIES["database"])
    return Check("database", "ok", f"{path}, made by the first `langdao-keeper run`")


async def _schema(patient: _Patient) -> Check:
    from bot.store import schema

    if patient.database is None:
        raise _Skip("there is no database yet")
    present = schema.version(patient.database)
    patient.schema_ok = present == schema.HEAD
    if not patient.schema_ok:
        value = f"{present or 'none'}, this keeper's is {schema.HEAD}"
        return Check("schema", "warning" if present is None else "failed", value, _REMEDIES["schema"])
    return Check("schema", "ok", schema.HEAD)


async def _identity(patient: _Patient) -> Check:
    from bot.store import identity

    database = patient.stored()
    with database.read() as session:
        known = identity.known(session)
    if known is None:
        raise _Skip("no keeper has used it yet")
    value = f"chain {known.chain_id}, contract {known.contract}, from block {known.deploy_block}"
    remedy = "Set another DATABASE_URL (or move the old file away)"
    if patient.chain_id is not None and known.chain_id != patient.chain_id:
        return Check("identity", "failed", f"{value}; RPC_URL is chain {patient.chain_id}", remedy)
    if known.contract != patient.settings.contract_address:
        return Check("identity", "failed", f"{value}; CONTRACT_ADDRESS is {patient.settings.contract_address}", remedy)
    genesis = await patient.node().header(0)
    if genesis is not None and genesis.hash != known.genesis_hash:
        return Check("identity", "failed", f"{value}; the node's chain began with another block", remedy)
    return Check("identity", "ok", value)


async def _lock(patient: _Patient) -> Check:
    from bot.store.lock import holder

    if patient.database is None:
        raise _Skip("there is no database yet")
    try:
        pid = holder(patient.database)
    except PermissionError:
        raise _Skip("the lock is another user's") from None
    if pid is None:
        return Check("keeper", "warning", "not running: nothing is nudged or ended", "Start `langdao-keeper run`")
    return Check("keeper", "ok", f"running, pid {pid}")


async def _webhook(patient: _Patient) -> Check:
    if "beside" not in patient.notes and patient.settings.webhook_secret_file is None:
        raise _Skip("its file lies beside the database")
    path = webhook_secret_file(patient.settings, patient.notes.get("beside"))
    if not path.exists():
        return Check("webhook", "warning", f"no secret at {path} yet", "Start `langdao-keeper run` once, it makes one")
    from bot.feeds.webhook import secret_in

    secret_in(path)
    heard = _heard(patient, "webhook")
    if heard is None:
        return Check(
            "webhook",
            "warning",
            f"secret in {path}, but no post with it was ever received",
            "Point the signalling server at the keeper: `langdao-keeper webhook` prints the line",
        )
    from bot.ops.words import away

    return Check("webhook", "ok", f"secret in {path}, in use: last post {away(heard, int(time.time() * 1000))}")


def _heard(patient: _Patient, source: str) -> int | None:
    from bot.store import queries

    if patient.database is None or not patient.schema_ok:
        return None
    with patient.database.read() as session:
        return queries.heard_from(session, source)


async def _ends(patient: _Patient) -> Check:
    settings = patient.settings
    sources = []
    if settings.socket_url is not None:
        sources.append("SOCKET_URL")
    if _heard(patient, "webhook") is not None:
        sources.append("the signalling server's posts")
    if sources:
        return Check("ends", "ok", f"a lesson's end is reported by {' and '.join(sources)}")
    return Check(
        "ends",
        "warning",
        "nothing configured can tell that a lesson ended",
        f"Set SOCKET_URL or point the signalling server at http://{settings.http_bind} (`langdao-keeper webhook`)",
    )


async def _hints(patient: _Patient) -> Check:
    hints = patient.settings.policy().hints
    return Check("hints", "ok", f"TRUST_BACKEND_HINTS={hints}: {RISK_OF_HINTS[hints]}")


async def _alerts(patient: _Patient) -> Check:
    if patient.settings.apprise_urls is None:
        return Check("alerts", "warning", "go to the log and the database only", "Set APPRISE_URLS to be told")
    count = len(patient.settings.apprise_urls.get_secret_value().replace(",", " ").split())
    return Check("alerts", "ok", f"{count} address{'es' if count != 1 else ''} in APPRISE_URLS")


# A later stage may use what the earlier ones found out; within a stage, all run at once.
STAGES: tuple[dict[str, Checker], ...] = (
    {"settings": _settings, "rpc": _rpc},
    {"contract": _contract, "clock": _clock, "finality": _finality},
    {"owner": _owner},
    {"guard": _guard},
    {"key": _key},
    {"balance": _balance, "nonce": _pending},
    {
        "backend": _backend,
        "redis": _redis,
        "nudges": _nudges,
        "public-url": _public_url,
        "hints": _hints,
        "alerts": _alerts,
    },
    {"database": _database},
    {"schema": _schema},
    {"identity": _identity, "keeper": _lock, "webhook": _webhook, "ends": _ends},
)
