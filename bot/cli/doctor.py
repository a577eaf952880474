"""`langdao-keeper doctor`: is everything as it has to be?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bot.cli.common import emit, json_option, load_settings, plain, run_async
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from bot.ops.doctor import Check

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "red"),
    "skipped": ("–", "white"),
}


@click.command(short_help="Check that everything is as it has to be.")
@json_option
def command(as_json: bool) -> int:
    """Check settings, node, contract, key, clock, backend, Redis and database, and say what to do.

    Every check is in the list, with its result, value and remedy. Exits 1 if any failed, 2 if without a setting or
    a node there was next to nothing to check. Changes nothing and takes at most 30 s.

    \b
    Example:
      langdao-keeper doctor
      langdao-keeper doctor --json | jq '.checks[] | select(.result == "failed")'
    """
    from bot.ops import doctor

    try:
        checks = run_async(doctor.examine(load_settings()))
    except Misconfigured as error:
        checks = doctor.refused(str(error))
    ok = all(check.result != "failed" for check in checks)
    blocked = doctor.unusable(checks)
    if as_json:
        emit({"ok": ok, "checks": [check.document() for check in checks]})
    elif blocked is not None:
        _print_blocked(blocked, checks)
    else:
        print_checks(checks)
    return 0 if ok else 2 if blocked is not None else 1


def _print_blocked(blocked: Check, checks: list[Check]) -> None:
    said = blocked.value if blocked.name == "settings" else f"RPC_URL: {blocked.value}. {blocked.remedy}"
    click.echo(f"langdao-keeper: {plain(said)}", err=True)
    left = sum(1 for check in checks if check.result == "skipped")
    click.echo(f"{left} of {len(checks)} checks had to be skipped. The others: langdao-keeper doctor --json", err=True)


def print_checks(checks: list[Check]) -> None:
    """For people: each finding, and what to do about it."""
    wide = max(len(check.name) for check in checks)
    for check in checks:
        mark, colour = _MARKS[check.result]
        click.echo(f"{click.style(f'{mark:8}', fg=colour)} {check.name:{wide}}  {plain(check.value)}")
        if check.remedy and check.result in ("warning", "failed"):
            click.echo(f"{'':8} {'':{wide}}  → {plain(check.remedy)}")
    failed = sum(1 for check in checks if check.result == "failed")
    warned = sum(1 for check in checks if check.result == "warning")
    click.echo(f"\n{failed} failed, {warned} to look at, {len(checks) - failed - warned} fine or not applicable.")
