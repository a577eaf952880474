"""`langdao-keeper webhook`: the address to paste into the signalling server."""

from __future__ import annotations

import click

from bot.cli.common import emit, json_option, load_settings, locate, sqlite_file
from bot.errors import Misconfigured


@click.command(short_help="Print the signalling server's BACKEND_URL line.")
@json_option
def command(as_json: bool) -> None:
    """Print the line for the signalling server's settings, so that it posts to the keeper.

    The line holds a secret: whoever knows it is believed as the signalling server is. It is made by the first
    `langdao-keeper run`, in WEBHOOK_SECRET_FILE or beside the database. Set PUBLIC_URL when the signalling server
    reaches the keeper under another address than HTTP_BIND.

    \b
    Example:
      langdao-keeper webhook >> signalling/.env
    """
    from bot.feeds.webhook import secret_in
    from bot.places import webhook_secret_file

    settings = load_settings()
    # With a file of its own nobody has to be asked where the database is.
    path = webhook_secret_file(settings, None if settings.webhook_secret_file else sqlite_file(locate(settings)))
    if not path.exists():
        raise Misconfigured(
            f"WEBHOOK_SECRET_FILE: no secret at {path} yet. Start `langdao-keeper run` once, it makes one"
        )
    secret, _ = secret_in(path)
    base = settings.public_url or f"http://{_reachable(settings.http_bind)}"
    address = f"{base.rstrip('/')}/hook/{secret}"
    if as_json:
        emit({"BACKEND_URL": address, "secret_file": str(path)})
    else:
        click.echo(f"BACKEND_URL={address}")


def _reachable(bind: str) -> str:
    """An address that can be connected to, for one that is listened on."""
    host, _, port = bind.rpartition(":")
    if host in ("0.0.0.0", "[::]", "::"):
        host = "127.0.0.1"
    return f"{host}:{port}"
