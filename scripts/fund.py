"""Fills up a student's deposit.

    ape run fund --who 0 --balance 5000000 --network http://127.0.0.1:8545
    STUDENT_PRIVATE_KEY=… ape run fund --contract 0x… --network https://…

Safe to run twice: only what is missing to the balance is deposited. The token of local chains is minted where the
student has too little of it; with any other token the student has to have it.
"""

from pathlib import Path

import click
from ape.cli import ConnectedProviderCommand
from web3.exceptions import Web3Exception

from scripts.onchain import common


@click.command(cls=ConnectedProviderCommand)
@click.option("--who", type=click.IntRange(0), default=0, show_default=True, help="Student of the addresses file.")
@click.option(
    "--balance", type=click.IntRange(1), default=100_000_000, show_default=True, help="Base units to have deposited."
)
@common.contract_option
@common.addresses_option
@common.world_option
def cli(provider, who: int, balance: int, contract, addresses: Path, world: int) -> None:
    """Fill up a student's deposit, by a key of the addresses file or STUDENT_PRIVATE_KEY."""
    there = common.place(provider.web3, addresses, world, contract)
    person = None if contract else common.person_of(there, "student", who)
    account = common.key_of("STUDENT_PRIVATE_KEY", person, "student")
    langdao, token = there.langdao.functions, there.token.functions
    has = langdao.getStudentPYUSDBalance(account.address).call()
    missing = balance - has
    if missing <= 0:
        click.echo(f"{account.address} has {common.pyusd(has)} deposited: nothing to do.")
        return
    if not langdao.getStudentInfo(account.address).call()[2]:
        raise click.ClickException(f"{account.address} isn't registered: `ape run register student` first.")
    lacks = missing - token.balanceOf(account.address).call()
    if lacks > 0:
        try:
            token.mint(account.address, lacks).call({"from": account.address})
        except Web3Exception:
            raise click.ClickException(
                f"{account.address} lacks {common.pyusd(lacks)}, and this token can't be minted: send it some."
            ) from None
        common.send(there, "minting", account, token.mint(account.address, lacks))
    if token.allowance(account.address, there.langdao.address).call() < missing:
        common.send(there, "approving", account, token.approve(there.langdao.address, missing))
    common.send(there, "depositing", account, langdao.depositFunds(missing))
    click.echo(
        f"{account.address} has {common.pyusd(langdao.getStudentPYUSDBalance(account.address).call())} deposited."
    )
