"""What stands on the chain: the LangDAO, its owner and the owner's delegation, and the sessions that run.

    ape run status --network http://127.0.0.1:8545
    ape run status --contract 0x… --network https://…

Reads only, needs no key. `langdao-keeper status` is about the keeper; this is about the contracts.
"""

import json
from pathlib import Path

import click
from ape.cli import ConnectedProviderCommand

from bot.chain.guard_code import delegate_of, immutables_of
from scripts.onchain import common
from scripts.onchain.common import Place


@click.command(cls=ConnectedProviderCommand)
@click.option(
    "--last", type=click.IntRange(0), default=200, show_default=True, help="Sessions to look at, newest first."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common.contract_option
@common.addresses_option
@common.world_option
def cli(provider, last: int, as_json: bool, contract, addresses: Path, world: int) -> None:
    """Show LangDAO, its owner's delegation, and the sessions that run."""
    there = common.place(provider.web3, addresses, world, contract)
    found = look(there, last)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"Chain     {found['chain_id']}, block {found['block']}")
    click.echo(f"LangDAO   {found['contract']}, {found['sessions']} sessions so far, token {found['token']}")
    click.echo(f"Owner     {found['owner']}, {found['owner_eth']} ETH")
    click.echo(f"Guard     {_guard_words(found)}")
    click.echo(f"Active    {len(found['active'])} of the last {min(last, found['sessions'])} sessions")
    for session in found["active"]:
        click.echo(
            f"  {session['id']:>6}  {session['student']} with {session['tutor']}  "
            f"{session['age_s']} s  {common.pyusd(session['cost'])}"
        )


def look(there: Place, last: int) -> dict:
    """Everything at one block."""
    web3, functions = there.web3, there.langdao.functions
    block = web3.eth.get_block("latest")
    at = block["number"]
    owner = functions.owner().call(block_identifier=at)
    delegate = delegate_of(bytes(web3.eth.get_code(owner, at)))
    immutables = immutables_of(bytes(web3.eth.get_code(delegate, at))) if delegate else None
    count = functions.sessionCounter().call(block_identifier=at)
    active = []
    for number in range(count, max(0, count - last), -1):
        student, tutor, _, started, _, rate, _, _, _, is_active = functions.getSession(number).call(block_identifier=at)
        if is_active:
            age_s = block["timestamp"] - started
            active.append({"id": number, "student": student, "tutor": tutor, "age_s": age_s, "cost": age_s * rate})
    return {
        "chain_id": there.chain_id,
        "block": at,
        "contract": there.langdao.address,
        "token": functions.PYUSD_TOKEN().call(block_identifier=at),
        "sessions": count,
        "owner": owner,
        "owner_eth": str(web3.from_wei(web3.eth.get_balance(owner, at), "ether")),
        "delegate": delegate,
        "guard": immutables is not None and immutables[1] == there.langdao.address,
        "guard_keeper": immutables[0] if immutables else None,
        "active": active,
    }


def _guard_words(found: dict) -> str:
    if found["delegate"] is None:
        return "none: the owner's account is a plain one"
    if found["guard"]:
        return f"{found['delegate']}, for the keeper {found['guard_keeper']}"
    return f"{found['delegate']} is NOT the guard of this LangDAO"
