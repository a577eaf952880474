"""`langdao-keeper explain ID`: everything known of a session, and why the keeper does what it does."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from bot.cli.common import NotFound, emit, json_option, load_settings, now_ms, open_database, plain, show, table

WIDTH = 110  # of a paragraph


@click.command(short_help="All that is known of a session, and why.")
@click.argument("asked", metavar="ID")
@json_option
def command(asked: str, as_json: bool) -> None:
    """Tell everything that is known of a session in time order, the present decision, and what happens next.

    ID is the session's number on chain, or the name of its room.

    \b
    Example:
      langdao-keeper explain 5
      langdao-keeper explain req_qn8g
    """
    from bot.ops.explain import explain

    settings = load_settings()
    database = open_database(settings)
    now = now_ms()
    with database.read() as session:
        found = explain(session, asked, settings.policy(), now)
    if found is None:
        raise NotFound(f"No session and no room {plain(asked)} in the database. `langdao-keeper sessions` lists them")
    if as_json:
        emit(found)
    else:
        _print(found, now)


def _print(found: dict[str, Any], now: int) -> None:
    from bot.ops.words import moment

    for line in _head(found, now):
        click.echo(line)
    click.echo()
    show(
        table(
            ("when (UTC)", "what", "from", ""),
            (
                (
                    moment(event["at_ms"], now_ms=now) if event["at_ms"] else None,
                    event["what"],
                    event["source"],
                    event["text"],
                )
                for event in found["timeline"]
            ),
        )
    )
    click.echo()
    decision = found["decision"]
    if decision is not None:
        click.echo(f"Decision  {decision['action']} by rule `{decision['reason']}`")
    click.echo(_folded("Rule", found["rule"]))
    for number, value in enumerate(found["values"]):
        click.echo(f"{'Values' if number == 0 else '':10}{plain(value['text'])}")
    click.echo(_folded("Next", found["next"]["text"]))


def _folded(name: str, text: str) -> str:
    return textwrap.fill(plain(text), WIDTH, initial_indent=f"{name:10}", subsequent_indent=" " * 10)


def _head(found: dict[str, Any], now: int) -> list[str]:
    from bot.ops.words import amount, duration, moment

    line = found["session"]
    if line is None:
        return [f"Room {plain(found['asked'])}, joined to no session"]
    age = f", {duration(line['age_s'])}" if line["age_s"] is not None else ""
    head = [f"Session {line['session_id']}, {line['state']}{age}"]
    rooms = ", ".join(plain(room["room"]) for room in found["rooms"])
    head.append(f"Room      {rooms or '– (never heard of off chain)'}")
    head.append(f"Student   {line['student']}")
    head.append(f"Tutor     {line['tutor']}")
    if line["started_at"] is not None:
        head.append(f"Started   {moment(line['started_at'] * 1000, now_ms=now)} UTC")
    if line["cost"] is not None:
        rate = f", {amount(3600 * int(line['rate']))} an hour" if line["rate"] and line["state"] == "active" else ""
        head.append(f"{'Cost      ' if line['state'] == 'active' else 'Paid      '}{amount(int(line['cost']))}{rate}")
    return head
