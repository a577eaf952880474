"""`langdao-keeper alert`: do alerts arrive?"""

from __future__ import annotations

import click

from bot.cli.common import NotFound, emit, json_option, load_settings

STOPPED = "The keeper has stopped and isn't started again: look at its log (journalctl -u langdao-keeper)"


@click.command(short_help="Send a test alert; list the alerts there are.")
@click.option("--test", is_flag=True, help="Send `alert.test` to APPRISE_URLS, and say whether it was taken.")
@click.option(
    "--stopped", is_flag=True, help="Send `alert.stopped`: for the service manager, when the keeper has failed."
)
@json_option
def command(test: bool, stopped: bool, as_json: bool) -> None:
    """List the alerts that the keeper may raise, or, with --test or --stopped, send one now.

    Needs neither the node nor the database. Exit code 1 when a channel didn't take it.

    \b
    Example:
      langdao-keeper alert --test
    """
    from bot.errors import Misconfigured
    from bot.ops.catalogue import ALERTS, guide

    if not test and not stopped:
        listed = [{"name": name, "condition": one.condition, "guide": guide(name)} for name, one in ALERTS.items()]
        if as_json:
            emit(listed)
        else:
            for one in listed:
                click.echo(f"{one['name']:26}{one['guide']}")
        return
    settings = load_settings()
    if settings.apprise_urls is None:
        raise Misconfigured("APPRISE_URLS is not set: alerts go to the log and the database alone")
    from bot.ops.alerts import APPRISE_GUIDE, deliver, unknown

    name, text = ("alert.stopped", STOPPED) if stopped else ("alert.test", "A test: alerts of this keeper arrive here")
    urls = settings.apprise_urls.get_secret_value()
    if strange := unknown(urls):
        raise Misconfigured(f"APPRISE_URLS: {', '.join(strange)} is nothing that Apprise knows. {APPRISE_GUIDE}")
    if refused := deliver(urls, name, text):
        raise NotFound(f"APPRISE_URLS: {', '.join(refused)} didn't take the alert; with LOG_LEVEL=debug it says why")
    if as_json:
        emit({"sent": True})
    else:
        click.echo("Sent. It has to arrive on each channel in APPRISE_URLS")
