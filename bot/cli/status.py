"""`langdao-keeper status`: the keeper on one screen.

Promises: what `bot.ops.status` gathered is what `--json` prints; `render` only draws what it is given.
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
SHOWN = 30  # of each list, when it is printed
HEADING_ROWS = 13  # of the live picture: what isn't a row of a list


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
            data = _gather(database)
            emit(data) if as_json else show(render(data))
        elif as_json:
            _repeat(lambda: click.echo(json.dumps(_gather(database), default=str)), EVERY_S)
        elif sys.stdout.isatty():
            _draw(database, note)
        else:
            _repeat(lambda: show(render(_gather(database))), EVERY_PLAIN_S)
    finally:
        database.dispose()


def _gather(database: Database) -> dict[str, Any]:
    from bot.ops.status import daemon_pid, gather

    now = now_ms()
    return gather(database, daemon_pid(database, now), now)


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
        drawn = render(_gather(database), shown=max(2, rows * 2 // 3), settled=max(2, rows // 3))
        return Group(drawn, Text(), Text(note)) if note else drawn

    with Live(picture(), console=screen, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(picture(), refresh=True), EVERY_S)


# How it looks --------------------------------------------------------------------------------------------------------


def render(data: dict[str, Any], *, shown: int = SHOWN, settled: int = SHOWN) -> RenderableType:
    """The screen, with at most so many sessions and settlements."""
    from rich.console import Group
    from rich.text import Text

    from bot.cli.sessions import session_table
    from bot.cli.settlements import settlement_table
    from bot.cli.txs import tx_table
    from bot.ops.status import by_reason, urgent_first
    from bot.ops.words import amount, count, moment

    now = data["now_ms"]
    parts: list[RenderableType] = [_daemon_line(data), _head_line(data), _feeds_line(data)]
    if held := (data["breaker"] or {}).get("held"):
        parts.append(_breaker_line(data["breaker"], held, now))
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
    lines = urgent_first(data["sessions"])
    parts += [Text(), Text(f"Sessions active on chain: {by_reason(data)}", style="bold")]
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
        line.append(f" ({daemon['signing']} mode)" if daemon["signing"] else "")
        if daemon["stale"]:
            line.append(", but it hasn't said anything lately", style="bold red")
    if daemon["paused"]:
        line.append("  PAUSED (`langdao-keeper resume`)", style="bold yellow")
    return line


def _breaker_line(breaker: dict[str, Any], held: int, now: int) -> RenderableType:
    from rich.text import Text

    from bot.ops.words import amount, away, count

    line = Text("Breaker  ", style="bold")
    cost, per_minute = amount(int(breaker["cost"])), amount(int(breaker["per_minute"]))
    line.append(f"holds the ends of {count(held, 'session')}: {cost} so far, {per_minute} a minute", style="bold red")
    line.append(f"; the silent ones are ended {away(breaker['until_ms'], now)}, all by `langdao-keeper resume`")
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
    if data["gas"]["budget_wei"] is not None:
        spent, budget = int(data["gas"]["day_wei"]), int(data["gas"]["budget_wei"])
        line.append(f", burnt {ether(spent)} of {ether(budget)} in 24 h", style="bold red" if spent >= budget else "")
    if abs(data["skew_ms"] or 0) >= 2_000:
        line.append(f", clocks differ by {data['skew_ms'] / 1000:+.1f} s", style="yellow")
    return line


def _numbers(feed: dict[str, Any]) -> str:
    """What a feed counts, as far as it isn't zero: `412 received, 2 refused, 1 lost`."""
    counted = {"waiting": feed.get("waiting") or 0} | (feed.get("counters") or {})
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counted.items() if number)


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
        if "up" in said:
            up = said["up"]
            line.append(f"{name} {'up' if up else 'down'}{since}", style="green" if up else "red")
        else:
            line.append(name)
        if numbers := _numbers(said):
            line.append(f" ({numbers})", style="dim")
    if data["rooms_waiting"]:
        line.append(f"; {count(len(data['rooms_waiting']), 'room')} without a session")
    return line
