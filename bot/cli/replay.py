"""`langdao-keeper replay`: makes the stored decisions again, by the same policy or by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bot.cli.common import NotFound, emit, json_option, load_settings, now_ms, open_database, show, table
from bot.errors import Misconfigured


@click.command(short_help="Make stored decisions again, by the same policy or another.")
@click.option("--set", "given", metavar="NAME=VALUE", multiple=True, help="Suppose this setting; may be repeated.")
@click.option(
    "--policy", "file", metavar="FILE", type=click.Path(path_type=Path), help="Suppose these NAME=VALUE lines."
)
@click.option("--session", "session_id", metavar="ID", type=int, help="Only this session.")
@json_option
def command(given: tuple[str, ...], file: Path | None, session_id: int | None, as_json: bool) -> None:
    """Make the stored decisions again from what they saw.

    By the policy that was in force nothing may differ: then the exit code is 0, else 1, and the decisions that this
    version of the keeper would make otherwise are listed. With --set or --policy: which sessions would have gone
    otherwise, and what that would have cost or saved in billed seconds and gas. Names and units are the settings'.

    \b
    Example:
      langdao-keeper replay
      langdao-keeper replay --set NUDGE_WINDOW_S=30 --set DISCONNECT_GRACE_S=20
      langdao-keeper replay --policy tighter.env --session 5 --json
    """
    from bot.ops import replay

    wanted = replay.read_file(file) if file is not None else {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise Misconfigured(f"--set {one}: is no NAME=VALUE, e.g. --set NUDGE_WINDOW_S=30")
        wanted[name] = value
    changed = replay.changes(wanted)
    if file is not None and not wanted:
        raise Misconfigured(f"--policy: {file} sets nothing")
    database = open_database(load_settings())
    with database.read() as session:
        found = (
            replay.supposed(session, changed, session_id, now_ms()) if wanted else replay.checked(session, session_id)
        )
    if found is None:
        raise NotFound(f"Nothing was decided on a session {session_id}. `langdao-keeper sessions` lists them")
    if as_json:
        emit(found)
    elif wanted:
        _print_supposed(found)
    else:
        _print_checked(found)
    if not wanted and found["different"]:
        raise click.exceptions.Exit(1)


def _print_checked(found: dict[str, Any]) -> None:
    from bot.ops.words import moment

    if found["different"]:
        rows = (
            (
                one["session_id"],
                moment(one["at_ms"], now_ms=now_ms()),
                f"{one['was']['action']} {one['was']['reason']}",
                f"{one['now']['action']} {one['now']['reason']}",
                ", ".join(name for name in one["was"] if one["was"][name] != one["now"][name]),
            )
            for one in found["different"]
        )
        show(table(("session", "when (UTC)", "was", "would be", "differs in"), rows, right=("session",)))
        click.echo()
    count = len(found["different"])
    click.echo(
        f"{found['decisions']} decisions on {found['sessions']} sessions made again, "
        f"{count or 'no'} difference{'' if count == 1 else 's'}"
    )
    _print_old(found["without_inputs"], "decisions")


def _print_supposed(found: dict[str, Any]) -> None:
    from bot.ops.words import amount

    if found["changed"]:
        rows = (
            (
                one["session_id"],
                _end(one["was"]),
                _end(one["then"]),
                f"{one['billed_s']:+d}",
                f"{one['settlements']:+d}",
                f"{one['nudges']:+d}",
            )
            for one in found["changed"]
        )
        columns = ("session", "was", "then", "billed s", "settlements", "nudges")
        show(table(columns, rows, right=("session", "billed s", "settlements", "nudges")))
        click.echo()
    gas = (
        "unknown: none of ours is recorded"
        if found["gas_wei"] is None
        else f"{int(found['gas_wei']) / 10**18:+.6f} ETH"
    )
    money = amount(abs(int(found["amount"])))
    click.echo(f"{len(found['changed'])} of {found['sessions']} sessions would have gone otherwise")
    click.echo(f"Billed      {found['billed_s']:+d} s, {'-' if int(found['amount']) < 0 else '+'}{money}")
    click.echo(f"Settlements {found['settlements']:+d}, gas {gas}")
    click.echo(f"Nudges      {found['nudges']:+d}")
    _print_old(found["without_inputs"], "sessions")


def _end(one: dict[str, Any]) -> str:
    from bot.ops.words import moment

    if one["end_ms"] is None:
        return "held" if one["held"] else "not by the keeper"
    return f"{moment(one['end_ms'], now_ms=now_ms())} {one['reason']}"


def _print_old(count: int, what: str) -> None:
    if count:
        click.echo(f"{count} {what} are left out: stored by an older keeper, without what they saw")
