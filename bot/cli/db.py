"""`langdao-keeper db`: looking after the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot.cli.common import emit, json_option, load_settings, open_database
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from bot.store.db import Database


@click.group(short_help="Check, copy, or shrink the database.")
def command() -> None:
    """Check the database, copy it while the keeper works, or give back the disk that it doesn't need any more."""


@command.command()
@json_option
def check(as_json: bool) -> int:
    """Look whether the database is whole. Exits 1 with what is wrong.

    \b
    Example:
      langdao-keeper db check
    """
    from bot.store import care

    database = _opened()
    try:
        wrong = care.check(database)
    finally:
        database.dispose()
    if as_json:
        emit({"ok": not wrong, "wrong": wrong})
    elif wrong:
        click.echo("\n".join(wrong))
    else:
        click.echo("It is whole.")
    return 1 if wrong else 0


@command.command()
@click.argument("target", type=click.Path(path_type=Path))
@json_option
def backup(target: Path, as_json: bool) -> None:
    """Copy the database to the file TARGET (mode 0600), while the keeper goes on.

    \b
    Example:
      langdao-keeper db backup /backups/keeper.db
    """
    from bot.store.backup import take_backup

    if target.exists():
        raise Misconfigured(f"{target} is there already. Name another file, or remove it")
    database = _opened()
    try:
        size = take_backup(database, target)
    finally:
        database.dispose()
    emit({"file": str(target), "bytes": size}) if as_json else click.echo(f"{target}, {size:,} bytes.")


@command.command()
@json_option
def vacuum(as_json: bool) -> None:
    """Give back the disk that the database doesn't need any more. The keeper has to be stopped.

    \b
    Example:
      langdao-keeper db vacuum
    """
    from bot.store import care
    from bot.store.lock import Lock

    database = _opened()
    before = _size(database)
    lock = Lock(database)
    try:
        care.vacuum(database)
    finally:
        lock.release()
        database.dispose()
    after = _size(database)
    if as_json:
        emit({"before_bytes": before, "after_bytes": after})
    else:
        click.echo("Done." if before is None or after is None else f"{before:,} bytes before, {after:,} now.")


def _opened() -> Database:
    return open_database(load_settings())


def _size(database: Database) -> int | None:
    return database.path.stat().st_size if database.path is not None else None
