"""`langdao-keeper resume`: the end of `pause`, and of what the mass-end breaker holds."""

from __future__ import annotations

import click

from bot.cli.common import emit, json_option, load_settings, open_database
from bot.cli.inbox import set_paused


@click.command(short_help="Sign again.")
@json_option
def command(as_json: bool) -> None:
    """Sign again after `pause`. What fell due meanwhile is decided anew.

    It also releases what the mass-end breaker holds, as too many lessons seemed to end at once: you know that they did.

    \b
    Example:
      langdao-keeper resume
    """
    done = set_paused(open_database(load_settings()), False)
    if as_json:
        emit(done)
    elif done["daemon"] is None:
        click.echo("No longer paused. No keeper is running; the next one starts unpaused.")
    else:
        click.echo(f"No longer paused. The keeper (pid {done['daemon']}) goes on as it was started.")
