"""`langdao-keeper settlements`: the public table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import Address, emit, json_option, load_settings, now_ms, open_database, show, table

if TYPE_CHECKING:
    from rich.table import Table


@click.command(short_help="List what was paid, to whom, and by whose end.")
@click.option("--student", type=Address(), help="Only those of this student.")
@click.option("--tutor", type=Address(), help="Only those of this tutor.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, newest first.")
@json_option
def command(student: str | None, tutor: str | None, limit: int, as_json: bool) -> None:
    """List settlements: what was paid, who ended it, and what of it was too much.

    --json has every column of the public table: amounts as decimal text in base units, times in epoch seconds.

    \b
    Example:
      langdao-keeper settlements --limit 20
      langdao-keeper settlements --json | jq '[.[] | .overbilled_s // 0] | add'
    """
    from bot.store import queries

    database = open_database(load_settings())
    with database.read() as session:
        rows = queries.settlements(session, student=student, tutor=tutor, limit=limit)
    if as_json:
        emit(rows)
    elif not rows:
        click.echo("No settlements yet.")
    else:
        show(settlement_table(rows, now_ms()))


def settlement_table(rows: list[dict[str, Any]], now: int) -> Table:
    """Settlements for people: one line each."""
    from bot.ops.words import amount, duration, moment, short

    return table(
        ("id", "room", "ended", "billed", "paid", "by", "reason", "too long", "too much", "finality", "transaction"),
        (
            (
                row["session_id"],
                row["room_id"],
                moment(row["ended_at"] * 1000, now_ms=now) if row["ended_at"] else None,
                duration(int(row["billed_s"])),
                amount(int(row["paid"])),
                row["ended_by"],
                row["reason"],
                duration(row["overbilled_s"]) if row["overbilled_s"] is not None else None,
                amount(int(row["overbilled_amount"])) if row["overbilled_amount"] is not None else None,
                row["finality"],
                short(row["tx_hash"]),
            )
            for row in rows
        ),
        right=("id", "billed", "paid", "too long", "too much"),
    )
