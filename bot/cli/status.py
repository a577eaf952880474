"""`langdao-keeper status`: the keeper on one screen.

Promises: `gather` only reads, and what it returns is what `--json` prints; `render` only draws what it is given.
Doesn't promise the present second: the daemon writes its state every two seconds, `updated_ms` says when.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import emit, json_option, load_settings, now_ms, open_database, plain, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bot.store.db import Database

EVERY_S = 1.0
EVERY_PLAIN_S = 5.0  # without a terminal: lines, not a picture
SHOWN = 30  # of each list
HEADING_ROWS = 13  # of the live picture: what isn't a row of a list
ALERTS_FOR_MS = 24 * 3_600_000
STALE_MS = 15_000  # of a state that is written every two seconds


@click.command(short_help="Feeds, head, sessions, transactions, alerts, costs.")
@click.option("--watch", is_flag=True, help="Stay, and draw it again every second. Ctrl-C ends it.")
@click.option("--note", envvar="STATUS_NOTE", default="", hidden=True, help="Lines to keep below the live picture.")
@json_option
def command(watch: bool, note: str, as_json: bool) -> None:
    """Show what the keeper sees, thinks and does: feeds, head, sessions, transactions, alerts, what waiting costs.

    \b
    Example:
      langdao-keeper status --watch
    """
    database = open_database(load_settings())
    try:
        if not watch:
            data = gather(database)
            emit(data) if as_json else show(render(data))
        elif as_json:
            _repeat(lambda: click.echo(json.dumps(gather(database), default=str)), EVERY_S)
        elif sys.stdout.isatty():
            _draw(database, note)
        else:
            _repeat(lambda: show(render(gather(database))), EVERY_PLAIN_S)
    finally:
        database.dispose()


def _repeat(tell: Any, every_s: float) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            tell()
            time.sleep(every_s)


def _draw(database: Database, note: str) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from bot.cli.common import console

    screen = console()

    def picture() -> RenderableType:
        # What doesn't fit would be cut off at the bottom, the note first.
        rows = max(4, screen.height - HEADING_ROWS - (note.count("\n") + 2 if note else 0))
        drawn = render(gather(database), shown=max(2, rows * 2 // 3), settled=max(2, rows // 3))
        return Group(drawn, Text(), Text(note)) if note else drawn

    with Live(picture(), console=screen, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(picture(), refresh=True), EVERY_S)


# What is known -------------------------------------------------------------------------------------------------------


def gather(database: Database, now: int | None = None) -> dict[str, Any]:
    """Everything on the screen, as data: amounts in base units as decimal text, `_ms` epoch ms, `_at` epoch s."""
    from bot.cli.inbox import daemon_pid
    from bot.ops import overview
    from bot.store import queries

    at = now_ms() if now is None else now
    pid = daemon_pid(database)
    with database.read() as session:
        meta = queries.meta(session, "status", "paused", "chain_id", "contract", "deploy_block")
        newest = queries.newest_block(session)
        active = queries.count_active(session)
        lines = overview.lines(session, queries.sessions(session, state="active", limit=1000), at)
        transactions = queries.txs(session, states=queries.TX_OPEN, limit=SHOWN)
        alerts = queries.open_alerts(session, at - ALERTS_FOR_MS, SHOWN)
        settlements = queries.settlements(session, limit=10)
        rooms = queries.waiting_rooms(session)
    state = _state(meta.get("status"))
    paused = meta.get("paused") == "1"
    return {
        "now_ms": at,
        "database": str(database.path) if database.path else database.engine.url.get_backend_name(),
        "chain_id": int(meta["chain_id"]) if "chain_id" in meta else None,
        "contract": meta.get("contract"),
        "daemon": {
            "running": pid is not None,
            "pid": pid or state.get("pid") if pid is not None else None,
            "mode": state.get("mode") if pid is not None else None,
            "paused": paused,
            "updated_ms": state.get("updated_ms"),
            "stale": pid is not None and at - int(state.get("updated_ms") or 0) > STALE_MS,
        },
        "head": {
            "number": state.get("head", newest["number"] if newest else None),
            "head_ms": state.get("head_ms"),
            "indexed": newest["number"] if newest else None,
            "indexed_at": newest["timestamp_s"] if newest else None,
            "lag_blocks": state.get("lag_blocks"),
            "at_head": state.get("at_head"),
        },
        "feeds": state.get("feeds") or {},
        "skew_ms": state.get("skew_ms"),
        "balance_wei": str(state["balance_wei"]) if state.get("balance_wei") is not None else None,
        "active": active,
        "sessions": lines,
        "by_reason": _counted(lines),
        "waiting": overview.waiting_cost(lines, at),
        "rooms_waiting": [room["room"] for room in rooms],
        "transactions": transactions,
        "alerts": alerts,
        "settlements": settlements,
    }


def _state(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _counted(lines: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in lines:
        name = line["reason"] or "not looked at"
        found[name] = found.get(name, 0) + 1
    return found


# How it looks --------------------------------------------------------------------------------------------------------


def render(data: dict[str, Any], *, shown: int = SHOWN, settled: int = SHOWN) -> RenderableType:
    """The screen, with at most so many sessions and settlements."""
    from rich.console import Group
    from rich.text import Text

    from bot.cli.sessions import session_table
    from bot.cli.settlements import settlement_table
    from bot.cli.txs import tx_table
    from bot.ops.words import amount, count, moment

    now = data["now_ms"]
    parts: list[RenderableType] = [_daemon_line(data), _head_line(data), _feeds_line(data)]
    waiting = data["waiting"]
    cost = Text("Waiting  ", style="bold")
    if waiting["sessions"]:
        still = f"{count(waiting['sessions'], 'session')} on chain whose lesson seems over"
        cost.append(f"{still}: {amount(int(waiting['per_minute']))} a minute", style="yellow")
    else:
        cost.append("no lesson seems over that still runs on chain")
    parts.append(cost)
    if data["alerts"]:
        parts.append(Text())
        parts += [
            Text(f"alert  {moment(one['at_ms'], now_ms=now)}  {one['name']}  {plain(one['text'])}", style="bold red")
            for one in data["alerts"][:5]
        ]
    # What is due first comes first; what only runs comes last.
    lines = sorted(data["sessions"], key=lambda line: (not line["over"], line["due_ms"] or 2**62, line["session_id"]))
    parts += [Text(), Text(f"Sessions active on chain: {data['active']}", style="bold")]
    if lines:
        parts.append(session_table(lines[:shown], now))
    if len(lines) > shown:
        parts.append(Text(f"… and {data['active'] - shown} more: langdao-keeper sessions --active"))
    if data["transactions"]:
        parts += [Text(), Text("Transactions under way", style="bold"), tx_table(data["transactions"], now)]
    if data["settlements"]:
        parts += [Text(), Text("Settled last", style="bold"), settlement_table(data["settlements"][:settled], now)]
    return Group(*parts)


def _daemon_line(data: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    daemon = data["daemon"]
    line = Text("Keeper   ", style="bold")
    if not daemon["running"]:
        line.append("not running", style="bold red")
        line.append(": nothing is nudged or ended. Start `langdao-keeper run`")
    else:
        line.append(f"running, pid {daemon['pid']}", style="green")
        line.append(f", {daemon['mode'] or 'starting'}")
        if daemon["stale"]:
            line.append(", but it hasn't said anything lately", style="bold red")
    if daemon["paused"]:
        line.append("  PAUSED (`langdao-keeper resume`)", style="bold yellow")
    return line


def _head_line(data: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    from bot.ops.words import away, ether

    head = data["head"]
    line = Text("Chain    ", style="bold")
    line.append(f"{data['chain_id']}, contract {data['contract']}, block {head['number']}")
    if head["head_ms"]:
        line.append(f" ({away(head['head_ms'], data['now_ms'])})")
    if head["at_head"] is False or (head["lag_blocks"] or 0) > 0:
        line.append(f", {head['lag_blocks']} blocks behind", style="yellow")
    if data["balance_wei"] is not None:
        line.append(f", key holds {ether(int(data['balance_wei']))}")
    if abs(data["skew_ms"] or 0) >= 2_000:
        line.append(f", clocks differ by {data['skew_ms'] / 1000:+.1f} s", style="yellow")
    return line


def _feeds_line(data: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    from bot.ops.words import count, duration

    line = Text("Feeds    ", style="bold")
    if not data["feeds"]:
        line.append("none known: start `langdao-keeper run`" if not data["daemon"]["running"] else "none yet")
    for number, (name, feed) in enumerate(data["feeds"].items()):
        said = feed if isinstance(feed, dict) else {"up": bool(feed)}
        line.append(", " if number else "")
        if said.get("configured") is False:
            line.append(f"{name} not set up")
            continue
        since = f" for {duration((data['now_ms'] - said['since_ms']) / 1000)}" if said.get("since_ms") else ""
        up = said.get("up")
        line.append(f"{name} {'up' if up else 'down'}{since}", style="green" if up else "red")
    if data["rooms_waiting"]:
        line.append(f"; {count(len(data['rooms_waiting']), 'room')} without a session")
    return line
