"""Puts a world on a local chain: the token, LangDAO contracts with guards, and people who can hold lessons at once.

    ape run deploy --network http://127.0.0.1:8545 --out addresses.json

With --guard-for it deploys nothing but a guard for a LangDAO that is there already, on any chain; DEPLOYER_PRIVATE_KEY
pays for it and has no rights over it:

    DEPLOYER_PRIVATE_KEY=… ape run deploy --guard-for 0x… --keeper 0x… --network https://…

Promises: when it ends well, every transaction was mined with status 1 and the file names everything, written in one
piece. Run again, it deploys anew and leaves what was there. Needs nothing of the node but standard methods, and waits
for two blocks however many accounts there are: all nonces are counted here, and nothing waits for its own turn.
Does not promise anything on a public network: the accounts are those of Anvil's mnemonic, whose keys everybody knows.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ape
import click
import rlp
from ape.cli import ConnectedProviderCommand
from eth_account import Account
from eth_account.hdaccount import key_from_seed, seed_from_mnemonic
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.types import TxParams, TxReceipt

from bot.chain.guard_code import immutables_of
from scripts.onchain import common

MNEMONIC = "test test test test test test test test test test test junk"
# World w owns the accounts from 40w on: its owner, then its students, then its tutors; the last one is the keeper's.
ACCOUNTS_PER_WORLD = 40

# Wide limits for calls that cannot be estimated before what they depend on is mined. The costliest uses 120k.
CALL_GAS = 300_000
# Larger than any rate of a local world.
BUDGET_PER_S = 10**18
MINTED_PER_DEPOSIT = 10
MINED_WITHIN_S = 60.0


@dataclass
class Sender:
    """Signs for one account and counts its nonce, so that many transactions can be under way at once."""

    web3: Web3
    account: LocalAccount
    chain_id: int
    nonce: int

    def send(self, transaction: TxParams) -> bytes:
        latest = self.web3.eth.get_block("latest")
        tip = self.web3.to_wei(1, "gwei")
        transaction = {
            **transaction,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": 2 * latest.get("baseFeePerGas", 0) + tip,
            "value": 0,
            "type": 2,
        }
        signed = self.account.sign_transaction(transaction)
        self.nonce += 1
        return self.web3.eth.send_raw_transaction(signed.raw_transaction)


@dataclass
class Batch:
    """Transactions under way, each with words for a person should it fail."""

    web3: Web3
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def create(self, what: str, sender: Sender, contract: type[Contract], *arguments: object) -> None:
        constructor = contract.constructor(*arguments)
        data = constructor.data_in_transaction
        gas = self.web3.eth.estimate_gas({"from": sender.account.address, "data": data})
        self.sent.append((what, sender.send({"data": data, "gas": gas, "to": b""})))

    def call(self, what: str, sender: Sender, function: ContractFunction) -> None:
        data = function._encode_transaction_data()
        self.sent.append((what, sender.send({"to": function.address, "data": data, "gas": CALL_GAS})))

    def mined(self) -> list[TxReceipt]:
        """Waits for all of them, in the order in which they were sent."""
        deadline = time.monotonic() + MINED_WITHIN_S
        receipts = []
        for what, tx_hash in self.sent:
            remaining_s = max(0.1, deadline - time.monotonic())
            receipt = self.web3.eth.wait_for_transaction_receipt(tx_hash, timeout=remaining_s, poll_latency=0.05)
            if receipt["status"] != 1:
                raise click.ClickException(f"{what}: reverted in {receipt['transactionHash'].to_0x_hex()}")
            receipts.append(receipt)
        return receipts


def accounts(first: int, count: int, seed: bytes) -> list[LocalAccount]:
    return [Account.from_key(key_from_seed(seed, f"m/44'/60'/0'/0/{i}")) for i in range(first, first + count)]


def described(account: LocalAccount) -> dict[str, str]:
    return {"address": account.address, "key": account.key.to_0x_hex()}


def senders(web3: Web3, people: Sequence[LocalAccount], chain_id: int) -> dict[str, Sender]:
    poor = [person.address for person in people if web3.eth.get_balance(person.address) == 0]
    if poor:
        raise click.ClickException(
            f"{len(poor)} of {len(people)} accounts have no ETH here, {poor[0]} first. "
            f"Start the node with the mnemonic '{MNEMONIC}' and more accounts (anvil --accounts N)."
        )
    return {
        person.address: Sender(web3, person, chain_id, web3.eth.get_transaction_count(person.address, "pending"))
        for person in people
    }


@click.command(cls=ConnectedProviderCommand)
@click.option("--out", type=click.Path(path_type=Path), default=Path("addresses.json"), show_default=True)
@click.option("--worlds", type=click.IntRange(1), default=1, show_default=True, help="LangDAO contracts.")
@click.option("--students", type=click.IntRange(0), default=6, show_default=True, help="Students per world.")
@click.option("--tutors", type=click.IntRange(0), default=6, show_default=True, help="Tutors per world.")
@click.option("--rate", type=click.IntRange(0), default=1_000, show_default=True, help="Base units per second.")
@click.option(
    "--deposit", type=click.IntRange(1), default=100_000_000, show_default=True, help="Base units per student."
)
@click.option("--language", type=click.IntRange(0, 37), default=1, show_default=True, help="Language id.")
@click.option("--guard-for", help="Deploy a guard for this LangDAO, and nothing else.")
@click.option("--keeper", help="The address that may call that guard.")
def cli(
    provider,
    out: Path,
    worlds: int,
    students: int,
    tutors: int,
    rate: int,
    deposit: int,
    language: int,
    guard_for: str | None,
    keeper: str | None,
) -> None:
    """Deploy the token, LangDAO and its guard to a local chain, with funded students and tutors."""
    if guard_for is not None:
        deploy_guard(provider.web3, guard_for, keeper, out)
        return
    if keeper is not None:
        raise click.UsageError("--keeper goes with --guard-for; a local world has a keeper of its own.")
    if 2 + students + tutors > ACCOUNTS_PER_WORLD:
        raise click.UsageError(f"A world has {ACCOUNTS_PER_WORLD} accounts: owner, students, tutors and a keeper.")
    started = time.monotonic()
    web3: Web3 = provider.web3
    chain_id = web3.eth.chain_id
    seed = seed_from_mnemonic(MNEMONIC, passphrase="")
    casts = [accounts(world * ACCOUNTS_PER_WORLD, 1 + students + tutors, seed) for world in range(worlds)]
    keepers = [accounts((world + 1) * ACCOUNTS_PER_WORLD - 1, 1, seed)[0] for world in range(worlds)]
    by_address = senders(web3, [person for cast in casts for person in cast] + keepers, chain_id)

    def of(person: LocalAccount) -> Sender:
        return by_address[person.address]

    token_type, langdao_type = ape.project.PYUSD.contract_type, ape.project.LangDAO.contract_type
    langdao_abi = [entry.model_dump(mode="json", by_alias=True) for entry in langdao_type.abi]
    guard_type = ape.project.SettlementGuard.contract_type
    guard_abi = [entry.model_dump(mode="json", by_alias=True) for entry in guard_type.abi]
    guard_factory = web3.eth.contract(abi=guard_abi, bytecode=guard_type.get_deployment_bytecode())
    token_abi = [entry.model_dump(mode="json", by_alias=True) for entry in token_type.abi]
    token_factory = web3.eth.contract(abi=token_abi, bytecode=token_type.get_deployment_bytecode())
    langdao_factory = web3.eth.contract(abi=langdao_abi, bytecode=langdao_type.get_deployment_bytecode())

    # A contract's address follows from its creator and nonce: all can be created in the same block.
    first_owner = of(casts[0][0])
    token_address = contract_address(first_owner)
    creations = Batch(web3)
    creations.create("deploying PYUSD", first_owner, token_factory)
    for cast in casts:
        creations.create("deploying LangDAO", of(cast[0]), langdao_factory, token_address)
    token_receipt, *langdao_receipts = creations.mined()
    token = web3.eth.contract(address=token_receipt["contractAddress"], abi=token_abi)

    calls = Batch(web3)
    for cast, receipt in zip(casts, langdao_receipts, strict=True):
        langdao = web3.eth.contract(address=receipt["contractAddress"], abi=langdao_abi)
        for student in cast[1 : 1 + students]:
            sender = of(student)
            calls.call(
                "registering a student",
                sender,
                langdao.functions.registerStudent(language, max(BUDGET_PER_S, rate)),
            )
            calls.call("minting", sender, token.functions.mint(student.address, MINTED_PER_DEPOSIT * deposit))
            calls.call("approving", sender, token.functions.approve(langdao.address, 2**256 - 1))
            calls.call("depositing", sender, langdao.functions.depositFunds(deposit))
        for tutor in cast[1 + students :]:
            calls.call("registering a tutor", of(tutor), langdao.functions.registerTutor([language], rate))
    # Last, so that their receipts are: a guard asks whether there is a contract at its LangDAO's address.
    for cast, keeper_account, receipt in zip(casts, keepers, langdao_receipts, strict=True):
        arguments = keeper_account.address, receipt["contractAddress"]
        calls.create("deploying SettlementGuard", of(cast[0]), guard_factory, *arguments)
    guard_receipts = calls.mined()[-worlds:]

    result = {
        "chain_id": chain_id,
        "token": token.address,
        "worlds": [
            {
                "contract": receipt["contractAddress"],
                "deploy_block": receipt["blockNumber"],
                "owner": described(cast[0]),
                "keeper": described(keeper_account),
                "guard": guard_receipt["contractAddress"],
                "students": [described(person) for person in cast[1 : 1 + students]],
                "tutors": [described(person) for person in cast[1 + students :]],
            }
            for cast, receipt, keeper_account, guard_receipt in zip(
                casts, langdao_receipts, keepers, guard_receipts, strict=True
            )
        ],
    }
    write(out, result)

    click.echo(f"PYUSD {token.address}")
    for world in result["worlds"]:
        click.echo(
            f"LangDAO {world['contract']} block {world['deploy_block']} owner {world['owner']['address']}, "
            f"{students} students, {tutors} tutors, guard {world['guard']}"
        )
    click.echo(f"{len(creations.sent) + len(calls.sent)} transactions in {time.monotonic() - started:.1f} s, {out}")


def contract_address(creator: Sender) -> str:
    encoded = rlp.encode([bytes.fromhex(creator.account.address[2:]), creator.nonce])
    return Web3.to_checksum_address(Web3.keccak(encoded)[12:])


def write(out: Path, result: dict) -> None:
    """In one piece."""
    partial = out.with_name(out.name + ".part")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(out)


def deploy_guard(web3: Web3, langdao: str, keeper: str | None, out: Path) -> None:
    """A guard for a LangDAO that is there. Does nothing if the file names one for the same two that still stands."""
    if keeper is None:
        raise click.UsageError("--guard-for needs --keeper: the address that may call the guard.")
    there = common.place(web3, out, 0, langdao)
    langdao, keeper = there.langdao.address, common.address(keeper)
    if keeper == there.langdao.functions.owner().call():
        raise click.UsageError("The keeper is the owner: a guard is for a keeper with a key of its own.")
    known = json.loads(out.read_text()) if out.exists() else {}
    if known and known.get("chain_id") != there.chain_id:
        raise click.ClickException(f"{out} is of chain {known.get('chain_id')}: name another file with --out.")
    worlds = known.get("worlds", [])
    for world in worlds:
        guard = world.get("guard")
        if guard and immutables_of(bytes(web3.eth.get_code(guard))) == (keeper, langdao):
            click.echo(f"There is a guard for {langdao} and {keeper} already: {guard}")
            return
    account = common.key_of("DEPLOYER_PRIVATE_KEY", None, "deployer")
    guard_type = ape.project.SettlementGuard.contract_type
    guard_abi = [entry.model_dump(mode="json", by_alias=True) for entry in guard_type.abi]
    factory = web3.eth.contract(abi=guard_abi, bytecode=guard_type.get_deployment_bytecode())
    data = factory.constructor(keeper, langdao).data_in_transaction
    gas = web3.eth.estimate_gas({"from": account.address, "data": data, "gasPrice": 0})
    common.check_funds(web3, account.address, gas, common.fees(web3)[0])
    nonce = web3.eth.get_transaction_count(account.address, "pending")
    batch = Batch(web3)
    batch.create("deploying SettlementGuard", Sender(web3, account, there.chain_id, nonce), factory, keeper, langdao)
    (receipt,) = batch.mined()
    guard = receipt["contractAddress"]
    if immutables_of(bytes(web3.eth.get_code(guard))) != (keeper, langdao):
        raise click.ClickException(f"The code at {guard} isn't what was compiled here.")
    # No keys here, and no people: this file may be of a public chain.
    entry = {"contract": langdao, "guard": guard, "keeper": {"address": keeper}}
    write(out, {"chain_id": there.chain_id, "token": there.token.address, **known, "worlds": [*worlds, entry]})
    click.echo(f"SettlementGuard {guard} for {langdao}, keeper {keeper}; added to {out}")
