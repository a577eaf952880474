"""`langdao-keeper doctor`: is everything as it has to be?"""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from bot.cli.common import emit, json_option, plain, quietly, run_async

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

    Every check is in the list, with its result, value and remedy. Exits 1 if any failed. Without a setting that all
    commands need, or a node, it says that alone, and exits 2 as they do; --json lists every check, always.
    Changes nothing and takes at most 30 s.

    \b
    Example:
      langdao-keeper doctor
      langdao-keeper doctor --json | jq '.checks[] | select(.result == "failed")'
    """
    from bot.loading import load_usable
    from bot.ops import doctor

    settings, wrong = load_usable()
    checks = run_async(doctor.examine(quietly(settings), wrong))
    ok = all(check.result != "failed" for check in checks)
    if as_json:
        emit({"ok": ok, "checks": [check.document() for check in checks]})
    elif (blocked := doctor.unusable(checks)) is not None:
        _print_blocked(blocked, checks)
        return 2
    else:
        print_checks(checks)
    return 0 if ok else 1


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
        _print(f"{mark:8} {check.name:{wide}}  ", plain(check.value), click.style(f"{mark:8}", fg=colour))
        if check.remedy and check.result in ("warning", "failed"):
            _print(f"{'':8} {'':{wide}}  → ", plain(check.remedy))
    failed = sum(1 for check in checks if check.result == "failed")
    warned = sum(1 for check in checks if check.result == "warning")
    click.echo(f"\n{failed} failed, {warned} to look at, {len(checks) - failed - warned} fine or not applicable.")


def _print(before: str, text: str, coloured: str = "") -> None:
    """On a terminal a long text goes on below its beginning; a file gets one line."""
    lines = [before + text]
    if sys.stdout.isatty():
        columns = max(shutil.get_terminal_size().columns, len(before) + 20)
        lines = textwrap.wrap(text, columns, initial_indent=before, subsequent_indent=" " * len(before))
    click.echo("\n".join(lines).replace(before[: len(click.unstyle(coloured))], coloured, 1))
