"""What the commands share: settings, the database, the node, and how results are printed.

Promises: light to import. A command that only reads opens the database read-only in effect, never makes one, and
needs the node only to find the default database's name. Unless a command says otherwise, a node that can't be reached
is given up after `GIVE_UP_S`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bot.errors import Misconfigured

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from bot.chain.rpc import Rpc
    from bot.settings import Settings
    from bot.store.db import Database

T = TypeVar("T")

REQUEST_S = 4.0  # for one request of a command that a person waits for
GIVE_UP_S = 7.0  # until a node counts as unreachable, whatever is configured

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")


class NotFound(click.ClickException):
    """The answer is that there is no such thing. Exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"langdao-keeper: {self.format_message()}", err=True)


class Address(click.ParamType):
    """An address in any casing; comes out checksummed."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from bot.domain.address import checksum

        found = checksum(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not an address (0x and 40 hex digits)", param, ctx)
        return found


# Settings, node, database --------------------------------------------------------------------------------------------


def load_settings() -> Settings:
    """The settings; from here on the log keeps their secrets, and stays out of the way. Raises Misconfigured."""
    from bot.loading import load

    return quietly(load())


def quietly(settings: Settings) -> Settings:
    """A command's result is all it says; what went on below is for those who ask."""
    import sys

    from bot.ops import logging

    logging.configure(settings, stream=sys.stderr, level="debug" if settings.log_level == "debug" else "error")
    return settings


def run_async(awaitable: Awaitable[T]) -> T:
    """Runs a coroutine to its end."""
    import asyncio

    async def whole() -> T:
        return await awaitable

    return asyncio.run(whole())


async def with_rpc(
    settings: Settings,
    ask: Callable[[Rpc], Awaitable[T]],
    *,
    give_up_s: float | None = GIVE_UP_S,
    request_s: float = REQUEST_S,
) -> T:
    """What `ask` returns, given the node. Raises Misconfigured without RPC_URL, Unreachable when it takes too long."""
    import asyncio

    from bot.chain.errors import Unreachable
    from bot.chain.rpc import Rpc

    rpc = Rpc(settings.endpoints(), timeout_s=request_s)
    try:
        async with asyncio.timeout(give_up_s):
            return await ask(rpc)
    except TimeoutError:
        raise Unreachable(rpc.shown, f"no answer within {give_up_s:g} s") from None
    finally:
        await rpc.close()


def locate(settings: Settings) -> str:
    """The database's URL: DATABASE_URL, or the default, whose name has the chain id in it. Raises Misconfigured."""
    from bot.chain.errors import Unreachable
    from bot.places import database_url

    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    endpoints = settings.endpoints()
    settings.contract()  # complains before anything is asked

    async def chain_id(rpc: Rpc) -> int:
        return int(await rpc.call("eth_chainId"), 16)

    try:
        return database_url(settings, run_async(with_rpc(settings, chain_id)))
    except Unreachable as error:
        named = f" (the first of {len(endpoints)})" if len(endpoints) > 1 else ""
        raise Misconfigured(
            f"RPC_URL: {error.endpoint}{named} can't be reached ({error.reason}), and the default database is named "
            "by its chain. Start the node, mend RPC_URL, or set DATABASE_URL to read without a node"
        ) from None


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database, None for another kind. Raises Misconfigured."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Misconfigured("DATABASE_URL is not a database URL, e.g. sqlite:////var/lib/keeper.db") from None
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def open_database(settings: Settings) -> Database:
    """The keeper's database, which has to be there. Raises Misconfigured."""
    from bot.store import schema
    from bot.store.db import Database, reachable

    database = Database(locate(settings), must_exist=True)
    reachable(database)
    present = schema.version(database)
    if (remedy := schema.differs(present)) is not None:
        where = database.path or "DATABASE_URL"
        said = f"has schema {present}" if present else "has no schema"
        raise Misconfigured(f"The database at {where} {said}, and this keeper's is {schema.HEAD}. {remedy}")
    return database


def now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000


# Output --------------------------------------------------------------------------------------------------------------


def emit(document: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))


def console() -> Console:
    """Rich's console on stdout. Without a terminal lines are as long as they need to be: nothing wraps in a file."""
    import sys

    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 250)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    spare: Sequence[str] = (),
) -> Table:
    """A plain table; `right` names the columns whose values end at the same place. None shows as –.

    Those in `spare` are left out, one after the other, on a terminal that is too narrow for all.
    """
    from rich.measure import Measurement

    lines, out = list(rows), console()
    unbound = out.options.update(width=10_000)  # a measure never exceeds the width it is taken at
    made = _table(columns, lines, right)
    for left_out in spare if out.is_terminal else ():
        if Measurement.get(out, unbound, made).maximum <= out.width:
            break
        at = columns.index(left_out)
        columns = [*columns[:at], *columns[at + 1 :]]
        lines = [[*line[:at], *line[at + 1 :]] for line in lines]
        made = _table(columns, lines, right)
    return made


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(plain(value)) for value in row))
    return made


def show(*parts: RenderableType) -> None:
    """Prints for people, without the blanks that fill up lines."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain(value: object) -> str:
    """One line of printable text: whatever a stranger wrote, a terminal isn't steered by it."""
    if value is None or value == "":
        return "–"
    return "".join(char if char.isprintable() else "�" for char in str(value))
