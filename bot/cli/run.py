"""`langdao-keeper run`: the daemon."""

from __future__ import annotations

import click

from bot.cli.common import json_option, load_settings, run_async


@click.command(short_help="Follow chain and backend; end lessons that nobody ends.")
@click.option("--dry-run", is_flag=True, help="Watch and explain, never sign; the same as DRY_RUN=1.")
@json_option
def command(dry_run: bool, as_json: bool) -> int:
    """Follow the chain and the backend, and end the lessons that nobody ends.

    Needs RPC_URL and CONTRACT_ADDRESS. Without a key (BACKEND_PRIVATE_KEY, a keystore or a remote signer), or with
    --dry-run, it watches and explains and never signs. The log is text on a terminal and one JSON object a line
    otherwise, or with --json.

    \b
    Example:
      RPC_URL=http://127.0.0.1:8545 CONTRACT_ADDRESS=0x… langdao-keeper run --dry-run
    """
    from bot.ops import heap, logging

    heap.share_heaps()
    settings = load_settings()
    if dry_run:
        settings = settings.model_copy(update={"dry_run": True})
    # What is missing is said before anything is opened.
    settings.endpoints()
    settings.contract()
    settings.key_source()
    logging.configure(settings, pretty=False if as_json else None)
    _tell_unread()

    from bot import keeper

    return run_async(keeper.run(settings))


def _tell_unread() -> None:
    """A slip in a name would be a setting that silently isn't there."""
    import structlog

    from bot.ops.doctor.names import unread

    if said := unread():
        structlog.get_logger("keeper").warning("settings.unread", text=f"Not read: {', '.join(said)}")
