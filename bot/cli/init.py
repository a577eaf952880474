"""`langdao-keeper init`: from nothing, or from a backend's .env, to a .env of the keeper's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import emit, json_option, run_async
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from bot.ops.doctor import Check
    from bot.settings import Settings


@click.command(short_help="Write a .env, from a backend's or by asking.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="The backend's .env; it is only read.")
@click.option("--to", "target", type=click.Path(path_type=Path), default=Path(".env"), show_default=True)
@click.option("--sign", is_flag=True, help="Take over the backend's key too: the keeper may then end sessions.")
@click.option("--yes", is_flag=True, help="Ask nothing: take what is found, leave out what isn't.")
@click.option("--force", is_flag=True, help="Replace a file that is there; the old one stays as FILE.old.")
@json_option
def command(source: Path | None, target: Path, sign: bool, yes: bool, force: bool, as_json: bool) -> int:
    """Write a commented .env of mode 0600, and look whether it works.

    What the backend's .env has (RPC_URL, CONTRACT_ADDRESS, REDIS_URL, its address) is taken over; what is missing is
    asked for. Without a key the keeper watches, which is how to begin. Exits 1 when the file was written and `doctor`
    found something that fails.

    \b
    Example:
      langdao-keeper init --from ../backend/.env
      langdao-keeper run
    """
    from bot.ops import setting_up

    if target.exists() and not force:
        raise Misconfigured(f"{target} is there already. Give another file with --to, or --force (it stays as .old)")
    found = setting_up.taken_over(_read(source), sign=sign)
    try:
        setting_up.checked(found)
    except Misconfigured as error:
        raise Misconfigured(f"{source}: {error}. Mend a copy of it, or leave out --from and be asked") from None
    if not yes:
        _ask(found, sign, source)
    missing = [name for name in ("RPC_URL", "CONTRACT_ADDRESS") if not found.get(name)]
    if missing:
        raise Misconfigured(f"{' and '.join(missing)}: not found. Name a backend's .env with --from, or drop --yes")
    settings = setting_up.checked(found)
    _write(target, setting_up.text(found))
    checks = _examined(settings)
    ok = all(check.result != "failed" for check in checks)
    if as_json:
        emit({"ok": ok, "file": str(target), "settings": sorted(found), "checks": [one.document() for one in checks]})
    else:
        _say(target, found, checks, ok)
    return 0 if ok else 1


def _read(source: Path | None) -> Mapping[str, str]:
    from dotenv import dotenv_values

    if source is None:
        return {}
    if not source.is_file():
        raise Misconfigured(f"{source}: no such file. --from names the backend's .env")
    try:
        return {name: value for name, value in dotenv_values(source, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{source} can't be read ({type(error).__name__})") from None


def _ask(found: dict[str, str], sign: bool, source: Path | None) -> None:
    from bot.ops import setting_up

    open_ones = [one for one in setting_up.QUESTIONS if one.name not in found and (sign or not one.secret)]
    if open_ones and source is not None:
        taken = f"{', '.join(sorted(found))} from {source}" if found else f"Nothing was found in {source}"
        click.echo(f"{taken}. What it doesn't have:", err=True)
    for question in open_ones:
        while True:
            said = click.prompt(question.text, default="", show_default=False, hide_input=question.secret).strip()
            if not said and not question.needed:
                break
            try:
                if said:
                    setting_up.checked({question.name: said})
                    found[question.name] = said
                    break
                click.echo("It is needed. Ctrl-C leaves without writing anything.", err=True)
            except Misconfigured as error:
                click.echo(f"{error}. Once more:", err=True)


def _write(target: Path, text: str) -> None:
    try:
        if target.exists():
            target.replace(target.with_name(f"{target.name}.old"))
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
    except OSError as error:
        raise Misconfigured(f"{target} can't be written ({error.strerror})") from None


def _examined(settings: Settings) -> list[Check]:
    from bot.ops import doctor, logging

    logging.configure(settings, level="error")
    return run_async(doctor.examine(settings))


def _say(target: Path, found: Mapping[str, str], checks: list[Any], ok: bool) -> None:
    from bot.cli.doctor import print_checks

    click.echo(f"Wrote {target} (mode 0600): {', '.join(sorted(found))}.\n")
    print_checks(checks)
    watching = not any(name in found for name in ("BACKEND_PRIVATE_KEY", "KEYSTORE_FILE", "REMOTE_SIGNER_URL"))
    click.echo()
    if not ok:
        click.echo("Mend what failed, then: langdao-keeper doctor")
    elif watching:
        click.echo("Start it: langdao-keeper run. It watches and explains; docs/keys.md tells how to let it sign.")
    else:
        click.echo("Start it: langdao-keeper run. It ends what is over from now on.")
