"""`langdao-keeper audit`: the index against the chain."""

from __future__ import annotations

import sys
from typing import Any

import click

from bot.cli.common import GIVE_UP_S, emit, json_option, load_settings, open_database, run_async, with_rpc

SAMPLE = 500

_TITLES = {
    "branch": "the newest block is on the node's chain",
    "logs": "every log, by its content",
    "rows": "sessions and settlements, by the logs that make them",
    "paid": "what all settlements paid",
    "counter": "the contract's count of sessions",
    "sessions": "getSession, field by field",
    "balances": "each student's balance",
    "cover": "the contract's tokens cover all balances",
}


@click.command(short_help="Compare the index with the chain.")
@click.option("--all", "everything", is_flag=True, help=f"Ask for every session, not for {SAMPLE} drawn at random.")
@click.option("--sample", type=click.IntRange(min=0), default=SAMPLE, show_default=True, help="Sessions to ask for.")
@json_option
def command(everything: bool, sample: int, as_json: bool) -> int:
    """Compare every log, what is derived from them, sums, sessions and balances with the chain.

    Needs RPC_URL and CONTRACT_ADDRESS, and reads only, also beside a running keeper. All is compared at the newest
    block of the index. Exits 1 when something differs, and says what.

    \b
    Example:
      RPC_URL=http://127.0.0.1:8545 CONTRACT_ADDRESS=0x… langdao-keeper audit --all
    """
    settings = load_settings()
    settings.endpoints()
    settings.contract()
    database = open_database(settings)

    async def work(rpc: Any) -> dict[str, Any]:
        from bot.errors import Misconfigured
        from bot.ops.audit import audit
        from bot.store import identity as identities

        with database.read() as session:
            identity = identities.known(session)
            if identity is None or identity.contract != settings.contract():
                raise Misconfigured("DATABASE_URL: this index is of another contract than CONTRACT_ADDRESS")
            return await audit(rpc, session, identity, sample=None if everything else sample, tell=_teller())

    try:
        document = run_async(with_rpc(settings, work, give_up_s=None, request_s=GIVE_UP_S))
    finally:
        database.dispose()
    if as_json:
        emit(document)
    else:
        _print(document)
    return 0 if document["agrees"] else 1


def _teller() -> Any:
    if not sys.stderr.isatty():
        return lambda *_: None

    def tell(block: int, last: int) -> None:
        click.echo(f"\r\033[Kblock {block} of {last}" if block < last else "\r\033[K", nl=False, err=True)

    return tell


def _print(document: dict[str, Any]) -> None:
    click.echo(f"At block {document['block']} ({document['block_hash']}):")
    for check in document["checks"]:
        differences = check["differences"]
        said = f"{differences} differ" if differences else f"agrees ({check['compared']} compared)"
        click.echo(f"  {_TITLES[check['name']]}: {said}")
        for example in check["examples"]:
            click.echo(f"    {example}")
        if differences > len(check["examples"]):
            click.echo(f"    and {differences - len(check['examples'])} more")
        if check["note"]:
            click.echo(f"    {check['note']}")
