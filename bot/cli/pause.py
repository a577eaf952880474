"""`langdao-keeper pause`: watch on, sign nothing."""

from __future__ import annotations

import click

from bot.cli.common import emit, json_option, load_settings, open_database
from bot.cli.inbox import set_paused


@click.command(short_help="Watch on, but sign nothing.")
@json_option
def command(as_json: bool) -> None:
    """Stop signing. The keeper goes on watching, nudging and explaining; what falls due is held until `resume`.

    It outlasts a restart. With no keeper running, the next one starts paused.

    \b
    Example:
      langdao-keeper pause
    """
    done = set_paused(open_database(load_settings()), True)
    if as_json:
        emit(done)
    elif done["daemon"] is None:
        click.echo("Paused. No keeper is running; the next one signs nothing until `langdao-keeper resume`.")
    else:
        click.echo(f"Paused. The keeper (pid {done['daemon']}) signs nothing until `langdao-keeper resume`.")
