"""The database, and what it says of feeds and of a running keeper."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

from bot.ops.doctor.patient import REMEDIES, REQUEST_S, Check, Patient, Skip
from bot.places import database_url, webhook_secret_file
from bot.values import shown

DISK_LOW_BYTES = 1 << 30


async def database(patient: Patient) -> Check:
    from bot.store.db import Database, reachable

    settings = patient.settings
    if settings.database_url is None and (patient.chain_id is None or settings.contract_address is None):
        raise Skip("its default name is made of the chain's id and CONTRACT_ADDRESS")
    url = database_url(settings, patient.chain_id or 0)
    path = _sqlite_path(url)
    if path is not None and not path.exists():
        patient.notes["beside"] = path
        return _not_made_yet(path)
    database = Database(url, must_exist=True)
    await asyncio.to_thread(reachable, database)
    patient.database, patient.notes["beside"] = database, path
    where = str(path) if path else shown(url)
    if path is not None and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return Check("database", "failed", f"{where} can't be written", REMEDIES["database"])
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
        return Check("database", "failed", f"{path} can't be made: {folder} isn't writable", REMEDIES["database"])
    return Check("database", "ok", f"{path}, made by the first `langdao-keeper run`")


async def schema(patient: Patient) -> Check:
    from bot.store import schema

    if patient.database is None:
        raise Skip("there is no database yet")
    present = schema.version(patient.database)
    remedy = schema.differs(present)
    patient.schema_ok = remedy is None
    if remedy is not None:
        value = f"{present or 'none'}, this keeper's is {schema.HEAD}"
        return Check("schema", "warning" if present is None else "failed", value, remedy)
    return Check("schema", "ok", schema.HEAD)


async def identity(patient: Patient) -> Check:
    from bot.store import identity

    database = patient.stored()
    with database.read() as session:
        known = identity.known(session)
    if known is None:
        raise Skip("no keeper has used it yet")
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


async def lock(patient: Patient) -> Check:
    from bot.store.lock import Closed, holder

    if patient.database is None:
        raise Skip("there is no database yet")
    try:
        pid = holder(patient.database)
    except Closed:
        raise Skip("the lock is another user's") from None
    if pid is None:
        return Check("keeper", "warning", "not running: nothing is nudged or ended", "Start `langdao-keeper run`")
    patient.notes["running"] = True
    return Check("keeper", "ok", f"running, pid {pid}")


async def webhook(patient: Patient) -> Check:
    if "beside" not in patient.notes and patient.settings.webhook_secret_file is None:
        raise Skip("its file lies beside the database")
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

    value = f"secret in {path}, in use: last post {away(heard, int(time.time() * 1000))}"
    if patient.notes.get("running") and not await _listens(patient.settings.http_bind):
        value += f"; nothing answers at {patient.settings.http_bind}"
        return Check("webhook", "failed", value, "Check HTTP_BIND")
    return Check("webhook", "ok", value)


async def _listens(bind: str) -> bool:
    """Does the running keeper answer on its own address?"""
    import aiohttp

    host, _, port = bind.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"http://{host}:{port}/health") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def _heard(patient: Patient, source: str) -> int | None:
    from bot.store import queries

    if patient.database is None or not patient.schema_ok:
        return None
    with patient.database.read() as session:
        return queries.heard_from(session, source)


async def ends(patient: Patient) -> Check:
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


async def disk(patient: Patient) -> Check:
    """Is there room where the database is?"""
    path: Path | None = patient.notes.get("beside")
    if path is None:
        raise Skip("the database is no file of this machine, or its place isn't known")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    value = f"{free / (1 << 30):.1f} GB free at {folder}"
    if free < DISK_LOW_BYTES:
        return Check("disk", "warning", value, "Make room: when the disk is full nothing is signed")
    return Check("disk", "ok", value)
