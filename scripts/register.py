"""Registers a student or a tutor.

    ape run register student --who 0 --network http://127.0.0.1:8545
    STUDENT_PRIVATE_KEY=… ape run register student --contract 0x… --network https://…

Safe to run twice: who is registered already is left alone, and the second run says so.
"""

from pathlib import Path

import click
from ape.cli import ConnectedProviderCommand

from scripts.onchain import common


@click.command(cls=ConnectedProviderCommand)
@click.argument("role", type=click.Choice(["student", "tutor"]))
@click.option("--who", type=click.IntRange(0), default=0, show_default=True, help="Which one of the addresses file.")
@click.option("--language", type=click.IntRange(0, 37), multiple=True, default=[1], show_default=True)
@click.option(
    "--rate", type=click.IntRange(0), default=1_000, show_default=True, help="A tutor's, base units a second."
)
@click.option("--budget", type=click.IntRange(0), default=10_000, show_default=True, help="A student's, a second.")
@common.contract_option
@common.addresses_option
@common.world_option
def cli(provider, role: str, who: int, language, rate: int, budget: int, contract, addresses: Path, world: int) -> None:
    """Register a student or a tutor, by a key of the addresses file or STUDENT_PRIVATE_KEY / TUTOR_PRIVATE_KEY."""
    there = common.place(provider.web3, addresses, world, contract)
    person = None if contract else common.person_of(there, role, who)
    account = common.key_of(f"{role.upper()}_PRIVATE_KEY", person, role)
    functions = there.langdao.functions
    info = functions.getStudentInfo if role == "student" else functions.getTutorInfo
    if info(account.address).call()[2]:
        click.echo(f"{account.address} is registered as a {role} already.")
        return
    if role == "student":
        if len(language) > 1:
            raise click.UsageError("A student has one target language.")
        call = functions.registerStudent(language[0], budget)
    else:
        call = functions.registerTutor(list(language), rate)
    receipt = common.send(there, f"registering the {role}", account, call)
    click.echo(f"{account.address} is registered as a {role}, in block {receipt['blockNumber']}.")
