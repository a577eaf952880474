"""`langdao-keeper settlements`: the public table."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from bot.cli.common import Address, emit, json_option, load_settings, now_ms, open_database, show, table
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from rich.table import Table


LIMIT = 100  # of the list


class Moment(click.ParamType):
    """A date, a date and time, or epoch seconds; without an offset it is UTC. Comes out as epoch seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from datetime import UTC, datetime

        text = str(value).strip()
        if text.isdecimal():
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is not a time (2026-10-31, 2026-10-31T18:00, or epoch seconds)", param, ctx)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


@click.command(short_help="List what was paid, to whom, and by whose end.")
@click.option("--student", type=Address(), help="Only those of this student.")
@click.option("--tutor", type=Address(), help="Only those of this tutor.")
@click.option("--participant", type=Address(), help="Only those of this address, in either role.")
@click.option("--since", type=Moment(), help="Only those that ended at this time or later: a date, a time, or seconds.")
@click.option("--until", type=Moment(), help="Only those that ended before this time.")
@click.option(
    "--limit", type=click.IntRange(1), help="At most so many, newest first.  [default: 100; none with --export]"
)
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all of them to this file, oldest first: CSV, or JSON Lines if it ends in .jsonl; - is stdout, as CSV.",
)
@json_option
def command(
    student: str | None,
    tutor: str | None,
    participant: str | None,
    since: int | None,
    until: int | None,
    limit: int | None,
    export: Path | None,
    as_json: bool,
) -> None:
    """List settlements: what was paid, who ended it, and what of it was too much.

    --json and --export have every column of the public table: amounts as decimal text in base units, times in epoch
    seconds. Dates and times are UTC.

    \b
    Example:
      langdao-keeper settlements --limit 20
      langdao-keeper settlements --json | jq '[.[] | .overbilled_s // 0] | add'
      langdao-keeper settlements --export october.csv --since 2026-10-01 --until 2026-11-01
    """
    from bot.ops.words import count
    from bot.store import queries

    if export is not None and limit is not None:
        raise click.UsageError("--limit is for the list; --export writes all of them")
    which = queries.Which(student, tutor, participant, since, until)
    database = open_database(load_settings())
    with database.read() as session:
        if export is not None:
            written = write_export(export, queries.each_settlement(session, which))
            said = {"file": str(export), "settlements": written}
            if as_json and str(export) != "-":
                emit(said)
            else:
                click.echo(f"{count(written, 'settlement')} written to {export}.", err=True)
            return
        rows = queries.settlements(session, which=which, limit=limit or LIMIT)
    if as_json:
        emit(rows)
    elif not rows:
        click.echo("No settlements like these." if any(one is not None for one in which) else "No settlements yet.")
    else:
        show(settlement_table(rows, now_ms()))


def write_export(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows to a file, which appears whole or not at all; how many there were. Raises Misconfigured."""
    if str(path) == "-":
        return _write(sys.stdout, rows, lines=False)
    beside = path.with_name(f".{path.name}.part")
    try:
        try:
            with beside.open("w", newline="", encoding="utf-8") as out:
                count = _write(out, rows, lines=path.suffix.lower() in (".jsonl", ".ndjson"))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise Misconfigured(f"--export: {path} can't be written ({error.strerror}). Choose another place") from None
    return count


def _write(out: TextIO, rows: Iterable[dict[str, Any]], *, lines: bool) -> int:
    import csv
    import json

    from bot.store.queries import SETTLEMENT_COLUMNS

    table_of = None if lines else csv.DictWriter(out, SETTLEMENT_COLUMNS, lineterminator="\n")
    if table_of is not None:
        table_of.writeheader()
    count = 0
    for row in rows:
        count += 1
        if table_of is None:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            table_of.writerow({name: _cell(value) for name, value in row.items()})
    return count


def _cell(value: Any) -> Any:
    """A value for a spreadsheet: no formula, whatever a stranger named a room; booleans as in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


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
        spare=("transaction", "room", "finality", "too long", "billed"),
    )
