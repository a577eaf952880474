"""Lets the account that owns LangDAO run the settlement guard's code, or, with --revoke, no code again.

    ape run delegate --network http://127.0.0.1:8545
    OWNER_PRIVATE_KEY=… KEEPER_PRIVATE_KEY=… ape run delegate --contract 0x… --guard 0x… --network https://…

Promises: it says what a delegation does to the backend before it signs, signs for this chain only, and only for a
contract whose code is the guard's, for this LangDAO. It signs when none of the owner's transactions is under way, tries
again when the owner's nonce moved meanwhile, and calls it done only when the account's code says so. Safe to run twice.
Doesn't promise that nobody else with the owner's key delegates it elsewhere afterwards; `ape run status` shows it.
"""

import time
from pathlib import Path

import click
from ape.cli import ConnectedProviderCommand
from eth_account.signers.local import LocalAccount
from web3.exceptions import Web3RPCError

from bot.chain.guard import EFFECTS
from bot.chain.guard_code import delegate_of, immutables_of
from scripts.onchain import authorization, common
from scripts.onchain.common import Place

ATTEMPTS = 5
POLL_S = 0.5

STAYS = "It signs, sends and ends sessions as before, and may revoke at any time: `ape run delegate --revoke`."
GIVES = """It lets {keeper} end sessions of {langdao} in the owner's name, running ones too, and nothing else."""
REVOKES = """Revoking ends all of that. A keeper in guarded mode ends nothing from then on."""


@click.command(cls=ConnectedProviderCommand)
@click.option("--revoke", is_flag=True, help="Make it a plain account again.")
@click.option("--guard", help="The guard, if not that of the addresses file.")
@click.option(
    "--sender",
    type=click.Choice(["keeper", "owner"]),
    default="keeper",
    show_default=True,
    help="Who sends the owner's authorization, and pays.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--wait", type=click.IntRange(1), default=300, show_default=True, help="Seconds to wait for the owner.")
@common.contract_option
@common.addresses_option
@common.world_option
def cli(
    provider, revoke: bool, guard, sender: str, yes: bool, wait: int, contract, addresses: Path, world: int
) -> None:
    """Delegate the owner's account to the guard (EIP-7702), or revoke that.

    Keys: OWNER_PRIVATE_KEY and, unless --sender owner, KEEPER_PRIVATE_KEY, else those of the addresses file.
    """
    there = common.place(provider.web3, addresses, world, contract)
    owner = common.key_of("OWNER_PRIVATE_KEY", there.world.get("owner"), "owner")
    payer = owner
    if sender == "keeper":
        payer = common.key_of("KEEPER_PRIVATE_KEY", there.world.get("keeper"), "keeper")
    real_owner = there.langdao.functions.owner().call()
    if owner.address != real_owner:
        raise click.ClickException(f"The key is for {owner.address}, but LangDAO's owner is {real_owner}.")

    target = None
    if not revoke:
        target = common.address(guard or there.world.get("guard") or _missing_guard())
        keeper = _keeper_of(there, target)
    code = bytes(there.web3.eth.get_code(owner.address))
    if code and delegate_of(code) is None:
        raise click.ClickException(f"{owner.address} is a contract of its own; it can't delegate.")
    if delegate_of(code) == target:
        click.echo(f"{owner.address} delegates to {target or 'nobody'} already: nothing to do.")
        return
    if delegate_of(code):
        click.echo(f"{owner.address} delegates to {delegate_of(code)} now.")
    click.echo(f"What a delegation does to {owner.address}, which is also the backend's account:")
    for effect in (*EFFECTS, STAYS):
        click.echo(click.wrap_text(effect, 110, initial_indent=" - ", subsequent_indent="   "))
    click.echo(REVOKES if revoke else GIVES.format(keeper=keeper, langdao=there.langdao.address))
    if not yes:
        click.confirm("Sign it?", abort=True)
    _until_it_shows(there, owner, payer, target, time.monotonic() + wait)


def _missing_guard() -> str:
    raise click.ClickException("Which guard? Give --guard, or an addresses file that names one (`ape run deploy`).")


def _keeper_of(there: Place, guard: str) -> str:
    """The keeper of the guard. Raises ClickException unless it is one for this LangDAO."""
    immutables = immutables_of(bytes(there.web3.eth.get_code(guard)))
    if immutables is None:
        raise click.ClickException(f"The code at {guard} isn't the settlement guard's: not signing.")
    keeper, langdao = immutables
    if langdao != there.langdao.address:
        raise click.ClickException(f"The guard at {guard} is for the LangDAO at {langdao}: not signing.")
    return keeper


def _until_it_shows(
    there: Place, owner: LocalAccount, payer: LocalAccount, target: str | None, deadline: float
) -> None:
    web3 = there.web3
    for attempt in range(1, ATTEMPTS + 1):
        nonce = _quiet_nonce(there, owner.address, deadline)
        max_fee, tip = common.fees(web3)
        common.check_funds(web3, payer.address, authorization.GAS, max_fee)
        transaction = authorization.signed(
            bytes(owner.key),
            target or authorization.NOBODY,
            sender_key=bytes(payer.key),
            chain_id=there.chain_id,
            account_nonce=nonce,
            sender_nonce=nonce if payer == owner else web3.eth.get_transaction_count(payer.address, "pending"),
            max_fee=max_fee,
            tip=tip,
        )
        try:
            tx_hash = web3.eth.send_raw_transaction(transaction)
        except Web3RPCError as error:
            if "nonce" not in str(error).lower():
                raise click.ClickException(f"The node refuses the transaction: {error}") from None
        else:
            receipt = common.mined(web3, "delegating", tx_hash)
            # Status 1 says nothing: an authorization whose nonce has passed is ignored.
            code = bytes(web3.eth.get_code(owner.address, receipt["blockNumber"]))
            if delegate_of(code) == target and (target or not code):
                click.echo(f"{owner.address} delegates to {target or 'nobody'}, in {tx_hash.to_0x_hex()}.")
                return
        click.echo(f"Attempt {attempt}: the owner's nonce moved meanwhile.")
    raise click.ClickException(
        f"The owner's nonce moved {ATTEMPTS} times: stop whatever sends from {owner.address}, and run this again."
    )


def _quiet_nonce(there: Place, owner: str, deadline: float) -> int:
    """The owner's nonce, once nothing of the owner's is pending."""
    said = False
    while True:
        latest, pending = (there.web3.eth.get_transaction_count(owner, at) for at in ("latest", "pending"))
        if latest == pending:
            return latest
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"{pending - latest} transactions of {owner} are still pending: run this again when they are mined."
            )
        if not said:
            click.echo(f"Waiting for {pending - latest} pending transactions of the owner …")
            said = True
        time.sleep(POLL_S)
