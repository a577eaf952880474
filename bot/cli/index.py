"""`langdao-keeper index`: the contract's logs into the database, without a key and without a daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import emit, json_option, load_settings, run_async

if TYPE_CHECKING:
    from bot.ops.indexing import State

_LINE_EVERY_S = 2.0  # without a terminal
_DRAW_EVERY_S = 0.2  # on one


@click.command(short_help="Bring the contract's logs into the database; needs no key.")
@click.option("--details", is_flag=True, help="Read rates, tokens and who ended too.")
@click.option("--follow", is_flag=True, help="Go on with the head, details included, until interrupted.")
@json_option
def command(details: bool, follow: bool, as_json: bool) -> int:
    """Commit logs, sessions and settlements up to the head of the chain, and exit.

    Needs RPC_URL and CONTRACT_ADDRESS alone. Whenever it is stopped, the next start goes on from there. What logs
    don't carry (rate, token, who ended) is read with --details or --follow; until then it stays visibly unfinished.
    Progress goes to stderr, and says whether it waits for the node or for the disk.

    \b
    Example:
      RPC_URL=http://127.0.0.1:8545 CONTRACT_ADDRESS=0x… langdao-keeper index --details
    """
    settings = load_settings()
    settings.endpoints()
    settings.contract()

    async def work() -> dict[str, Any]:
        from bot.ops import indexing

        try:
            return await indexing.index(settings, details=details, follow=follow, tell=_teller(follow))
        except indexing.Violated as error:
            raise click.ClickException(str(error)) from None

    document = run_async(work())
    if as_json:
        emit(document)
    else:
        _print(document)
    return 0


def _teller(follow: bool) -> Any:
    """Shows a state on stderr: one line drawn anew on a terminal, a line now and then elsewhere."""
    import time

    live = sys.stderr.isatty()
    every_s = _DRAW_EVERY_S if live else _LINE_EVERY_S
    shown_s = time.monotonic()

    def tell(state: State, *, now: bool = False) -> None:
        nonlocal shown_s
        if not now and time.monotonic() - shown_s < every_s:
            return
        shown_s = time.monotonic()
        click.echo(f"\r\033[K{state}" if live else str(state), nl=not live or (now and follow), err=True)

    return tell


def _print(document: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    unfinished = document["unfinished"]
    click.echo(
        f"Committed up to block {document['block']}: {document['logs']} logs, {document['sessions']} sessions, "
        f"{document['settlements']} settlements; {document['new_logs']} logs in {document['took_s']:.1f} s."
    )
    if unfinished["sessions"] or unfinished["settlements"]:
        remedy = "`langdao-keeper index --details` reads them"
        said = "the contract or node doesn't say them" if document["details"] else remedy
        click.echo(
            f"Unfinished: {unfinished['sessions']} sessions without a rate, {unfinished['settlements']} settlements "
            f"without who ended ({said})."
        )
