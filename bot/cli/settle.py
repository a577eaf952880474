"""`langdao-keeper settle ID`: an operator's word that a session is to be ended now."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import (
    NotFound,
    emit,
    json_option,
    load_settings,
    locate,
    now_ms,
    open_database,
    run_async,
    sqlite_file,
    with_rpc,
)
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from bot.chain.codec import OnChainSession
    from bot.settings import Settings
    from bot.store.db import Database

WAIT_S = 300.0
_LOOK_EVERY_S = 0.5
_STILL_COMING = ("settled", "waiting", "withdrawn", "lost", "retracted")  # outcomes after which the keeper goes on


@click.command(short_help="End a session on chain now.")
@click.argument("session_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--wait", is_flag=True, help=f"Wait until it is settled or has failed, at most {WAIT_S:.0f} s.")
@json_option
def command(session_id: int, yes: bool, wait: bool, as_json: bool) -> int:
    """End a session on chain now.

    Asks first, with the session's age and last sign of life. A running keeper does it, and `explain ID` shows how it
    goes; when none runs on this database, this command ends it by itself, with BACKEND_PRIVATE_KEY, and waits for the
    proof.

    \b
    Example:
      langdao-keeper settle 5
      langdao-keeper settle 5 --yes --wait
    """
    from bot.ops.status import daemon_pid

    settings = load_settings()
    database = _database(settings)
    try:
        line = _known(database, session_id) or _on_chain(settings, session_id)
        if line["state"] != "active":
            raise NotFound(f"Session {session_id} has ended already. `langdao-keeper explain {session_id}` tells how")
        if not yes:
            _confirm(line)
        pid = daemon_pid(database, now_ms()) if database is not None else None
        if database is not None and pid is not None:
            outcome = _through_daemon(database, session_id, pid, wait)
        else:
            outcome = _alone(settings, session_id)
    finally:
        if database is not None:
            database.dispose()
    if as_json:
        emit({"session_id": session_id, **outcome})
    else:
        click.echo(outcome["text"])
    return 0 if outcome["ok"] else 1


def _database(settings: Settings) -> Database | None:
    """The keeper's database if there is one: `settle` also works where no keeper ever ran."""
    settings.endpoints()
    settings.contract()
    file = sqlite_file(locate(settings))
    if file is not None and not file.exists():
        return None
    return open_database(settings)


def _known(database: Database | None, session_id: int) -> dict[str, Any] | None:
    """The session's line from the record."""
    from bot.ops import overview
    from bot.store import queries

    if database is None:
        return None
    with database.read() as session:
        row = queries.session(session, session_id)
        return overview.lines(session, [row], now_ms())[0] if row is not None else None


def _on_chain(settings: Settings, session_id: int) -> dict[str, Any]:
    """The same from the chain, for a session that the record doesn't know."""
    from bot.chain.langdao import LangDAO

    async def read(rpc: Any) -> tuple[OnChainSession | None, int]:
        head = await rpc.header("latest")
        at = int(head.number, 16)
        return await LangDAO(rpc, settings.contract()).session(session_id, at), int(head.timestamp, 16)

    found, at_s = run_async(with_rpc(settings, read))
    if found is None:
        raise NotFound(f"There is no session {session_id} on this contract. `langdao-keeper stranded` lists the active")
    age_s = max(0, at_s - found.start_s)
    return {
        "session_id": session_id,
        "room_id": None,
        "student": found.student,
        "tutor": found.tutor,
        "state": "active" if found.active else "ended",
        "age_s": age_s,
        "cost": str(age_s * found.rate),
        "life_ms": None,
    }


def _confirm(line: dict[str, Any]) -> None:
    from bot.ops.words import amount, away, duration

    if not sys.stdin.isatty():
        raise Misconfigured("settle asks before it ends a session, and there is no terminal. Give --yes to end it")
    life = f"last sign of life {away(line['life_ms'], now_ms())}" if line["life_ms"] else "no sign of life is known"
    age = f"{duration(line['age_s'])} old" if line["age_s"] is not None else "of unknown age"
    cost = f", {amount(int(line['cost']))} so far" if line["cost"] is not None else ""
    click.echo(
        f"Session {line['session_id']} of student {line['student']} and tutor {line['tutor']}: {age}{cost}, {life}.",
        err=True,
    )
    click.confirm("End it on chain now?", abort=True, err=True)


def _through_daemon(database: Database, session_id: int, pid: int, wait: bool) -> dict[str, Any]:
    from bot.cli.inbox import answer, ask

    asked_ms = now_ms()
    said = answer(database, ask(database, "settle", {"session_id": session_id, "by": "operator"}))
    refused = said.get("error") or (None if said.get("ok", True) else said.get("text") or "no reason given")
    if refused:
        return _outcome(False, f"The keeper (pid {pid}) refused: {refused}", daemon=pid, answer=said)
    if not wait:
        text = f"The keeper (pid {pid}) has taken it over. How it goes: langdao-keeper explain {session_id}"
        return _outcome(True, text, daemon=pid, answer=said)
    return _until_settled(database, session_id, asked_ms) | {"daemon": pid, "answer": said}


def _until_settled(database: Database, session_id: int, asked_ms: int) -> dict[str, Any]:
    from bot.ops.words import amount
    from bot.store import queries

    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with database.read() as session:
            row = queries.session(session, session_id)
            settlement = queries.settlement(session, session_id)
            key = queries.key_of(row) if row else ""
            actions = queries.actions_of(session, key, kind="settle", since_ms=asked_ms)
            decision = queries.latest_decisions(session, [key]).get(key)
        if settlement is not None:
            paid = amount(int(settlement["paid"]))
            text = f"Settled in {settlement['tx_hash']}: {settlement['billed_s']} s, {paid} paid."
            return _outcome(True, text, settlement=settlement)
        held = decision["inputs"].get("hold") if decision and decision["action"] == "hold" else None
        if held and decision and decision["at_ms"] >= asked_ms:
            return _outcome(False, f"Held: {held}. It stays due; langdao-keeper explain {session_id}")
        why = (actions[-1]["outcome"] or "no reason recorded") if actions and actions[-1]["ended_ms"] else None
        if why is not None and why not in _STILL_COMING:
            return _outcome(False, f"Not settled: {why}. More: langdao-keeper explain {session_id}")
        time.sleep(_LOOK_EVERY_S)
    return _outcome(False, f"Not settled within {WAIT_S:.0f} s. How it goes: langdao-keeper explain {session_id}")


def _alone(settings: Settings, session_id: int) -> dict[str, Any]:
    """Ends it by itself. Raises Misconfigured without a key."""
    from bot.ops import logging

    if settings.key_source() is None:
        raise Misconfigured(
            "BACKEND_PRIVATE_KEY is not set, and no keeper runs on this database: nobody can sign. "
            "Set it to the guard's keeper's key or the contract owner's, or start `langdao-keeper run` with it"
        )
    if settings.dry_run:
        raise Misconfigured("DRY_RUN=1 forbids to sign, and no keeper runs on this database. Unset DRY_RUN to settle")
    logging.configure(settings, stream=sys.stderr, level="warning")

    from bot import keeper

    said: dict[str, Any] = run_async(keeper.settle_once(settings, session_id))
    settled = said.get("outcome") == "settled"
    if settled:
        text = f"Settled in {said.get('tx_hash', 'an unknown transaction')}."
    else:
        text = f"Not settled: {said.get('outcome', 'unknown')}" + (f" ({said['reason']})" if said.get("reason") else "")
    return _outcome(settled, text, **said)


def _outcome(ok: bool, text: str, **more: Any) -> dict[str, Any]:
    return {"ok": ok, "text": text, **more}
