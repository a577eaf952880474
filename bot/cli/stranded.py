"""`langdao-keeper stranded`: every session that is active on chain, with nothing but a node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import GIVE_UP_S, emit, json_option, load_settings, run_async, show, table, with_rpc

if TYPE_CHECKING:
    from bot.chain.rpc import Rpc
    from bot.ops.stranded import Found

NOTE = "The chain alone can't tell a running lesson from a stranded one: these are all sessions active on chain."


@click.command(short_help="All sessions active on chain, with nothing but a node.")
@json_option
def command(as_json: bool) -> None:
    """List every session that is active on chain: its age, what it costs, and how to end it.

    Needs only RPC_URL and CONTRACT_ADDRESS: no database, no key, no running keeper.

    \b
    Example:
      RPC_URL=https://… CONTRACT_ADDRESS=0x… langdao-keeper stranded
    """
    from bot.ops.stranded import read

    settings = load_settings()
    settings.endpoints()
    contract = settings.contract()

    async def ask(rpc: Rpc) -> Found:
        return await read(rpc, contract, first_answer_s=GIVE_UP_S, progress=_progress())

    # However many sessions there are: once the node has answered, each request has its own limit.
    found = run_async(with_rpc(settings, ask, give_up_s=None, request_s=GIVE_UP_S))
    if as_json:
        emit({"note": NOTE, **found.document()})
    else:
        _print(found.document())


def _progress() -> Any:
    if not sys.stderr.isatty():
        return None

    def tell(done: int, of: int) -> None:
        click.echo(f"\r{done} of {of} sessions read" if done < of else "\r\033[K", nl=False, err=True)

    return tell


def _print(document: dict[str, Any]) -> None:
    from bot.ops.words import amount, duration, moment, short

    click.echo(NOTE)
    head = document["head"]
    total = document["total"]
    click.echo(
        f"{document['chain']}, block {head['number']} of {moment(head['at'] * 1000)} UTC: "
        f"{total['active']} of {document['sessions_ever']} sessions are active."
    )
    if not document["sessions"]:
        return
    show(
        table(
            ("id", "student", "tutor", "age", "cost so far", "cost an hour", "drained", "to end it"),
            (
                (
                    line["session_id"],
                    short(line["student"]),
                    short(line["tutor"]),
                    duration(line["age_s"]),
                    amount(int(line["cost"])),
                    amount(int(line["cost_per_hour"])),
                    f"{duration(head['at'] - line['drained_at'])} ago" if line["drained"] else None,
                    line["settle"],
                )
                for line in document["sessions"]
            ),
            right=("id", "age", "cost so far", "cost an hour", "drained"),
        )
    )
    click.echo(
        f"Total: {amount(int(total['cost']))} so far, {amount(int(total['cost_per_hour']))} an hour; "
        f"{total['drained']} drained (these cost their students nothing more, their tutors work unpaid)."
    )
