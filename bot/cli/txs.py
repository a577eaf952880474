"""`langdao-keeper txs`: what the keeper signed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import emit, json_option, load_settings, now_ms, open_database, show, table

if TYPE_CHECKING:
    from rich.table import Table


@click.command(short_help="List the transactions that the keeper signed.")
@click.option("--open", "only_open", is_flag=True, help="Only those that are under way.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, newest first.")
@json_option
def command(only_open: bool, limit: int, as_json: bool) -> None:
    """List the transactions that the keeper signed, and where each is now. The signed bytes are not shown.

    \b
    Example:
      langdao-keeper txs --open
    """
    from bot.store import queries

    database = open_database(load_settings())
    with database.read() as session:
        rows = queries.txs(session, states=queries.TX_OPEN if only_open else None, limit=limit)
    if as_json:
        emit(rows)
    elif not rows:
        click.echo("No transactions under way." if only_open else "No transactions yet.")
    else:
        show(tx_table(rows, now_ms()))


def tx_table(rows: list[dict[str, Any]], now: int) -> Table:
    """Transactions for people: one line each."""
    from bot.ops.words import ether, moment, short

    return table(
        ("stored", "hash", "nonce", "kind", "sessions", "state", "block", "cost", "note"),
        (
            (
                moment(row["stored_ms"], now_ms=now),
                short(row["hash"]),
                row["nonce"],
                row["kind"],
                _sessions(row["sessions"]),
                row["state"],
                row["mined_block"],
                ether(int(row["gas_cost"])) if row["gas_cost"] is not None else None,
                row["note"],
            )
            for row in rows
        ),
        right=("nonce", "sessions", "block", "cost"),
        spare=("note", "block", "cost"),
    )


def _sessions(ids: list[int]) -> str:
    """The first few; a batch may hold dozens."""
    more = f" and {len(ids) - 3} more" if len(ids) > 4 else ""
    return ", ".join(map(str, ids[:3] if more else ids)) + more
