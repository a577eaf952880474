"""What the ape scripts share: the addresses file, keys, and sending one transaction at a time.

Promises: a key comes from the addresses file of a local chain or from the environment, never from an argument, and is
never printed. Nothing is sent that the node says would revert, or that its sender can't pay: the error says which.
Doesn't promise nonces for a key that others use at the same moment.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from eth_abi import decode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.exceptions import ContractLogicError, TimeExhausted, Web3Exception
from web3.types import TxReceipt

INTERFACES = Path(__file__).resolve().parents[2] / "contracts" / "interfaces"
MINED_WITHIN_S = 180
# Refunds make the limit that is needed larger than the gas that is used; an estimate of an end can be far too low.
GAS_MARGIN = 100_000
ERROR_STRING = bytes.fromhex("08c379a0")

addresses_option = click.option(
    "--addresses",
    type=click.Path(path_type=Path),
    default=Path("addresses.json"),
    show_default=True,
    help="What `ape run deploy` wrote.",
)
world_option = click.option(
    "--world", type=click.IntRange(0), default=0, show_default=True, help="Which of its worlds."
)
contract_option = click.option("--contract", help="LangDAO, if not that of the addresses file.")


@dataclass(frozen=True)
class Place:
    """A LangDAO on a connected chain."""

    web3: Web3
    chain_id: int
    world: dict[str, Any]  # from the addresses file; empty without one
    langdao: Contract

    @property
    def token(self) -> Contract:
        return self.web3.eth.contract(address=self.langdao.functions.PYUSD_TOKEN().call(), abi=abi("PYUSD"))


def abi(name: str) -> list[dict[str, Any]]:
    return json.loads((INTERFACES / f"{name}.json").read_text())


def place(web3: Web3, addresses: Path, world: int, contract: str | None) -> Place:
    """Raises ClickException unless there is a LangDAO where it is said to be."""
    chain_id = web3.eth.chain_id
    known: dict[str, Any] = {}
    if contract is None:
        if not addresses.exists():
            raise click.ClickException(f"{addresses} doesn't exist. Run `ape run deploy` first, or give --contract.")
        document = json.loads(addresses.read_text())
        if document["chain_id"] != chain_id:
            raise click.ClickException(f"{addresses} is of chain {document['chain_id']}, the node is on {chain_id}.")
        if world >= len(document["worlds"]):
            raise click.ClickException(f"{addresses} has {len(document['worlds'])} worlds; they count from 0.")
        known = document["worlds"][world]
    at = address(contract or known["contract"])
    if not web3.eth.get_code(at):
        raise click.ClickException(f"There is no contract at {at} on chain {chain_id}.")
    langdao = web3.eth.contract(address=at, abi=abi("LangDAO"))
    try:
        langdao.functions.owner().call()
        langdao.functions.sessionCounter().call()
    except Web3Exception:
        raise click.ClickException(f"The contract at {at} isn't a LangDAO.") from None
    return Place(web3, chain_id, known, langdao)


def address(text: str) -> str:
    if not Web3.is_address(text):
        raise click.ClickException(f"{text} is no address.")
    return Web3.to_checksum_address(text)


def key_of(variable: str, person: dict[str, str] | None, role: str) -> LocalAccount:
    """The account of a key in the environment, else of a person of the addresses file."""
    text = os.environ.get(variable) or (person or {}).get("key")
    if not text:
        raise click.ClickException(f"No key for the {role}: set {variable} in the environment.")
    try:
        return Account.from_key(text if text.startswith("0x") else "0x" + text)
    except ValueError:
        # Never the text itself.
        raise click.ClickException(f"The key for the {role} ({variable}) isn't 32 bytes of hex.") from None


def person_of(there: Place, role: str, number: int) -> dict[str, str] | None:
    """Student or tutor `number` of the addresses file, if there is one."""
    people = there.world.get(f"{role}s", [])
    if there.world and number >= len(people):
        raise click.ClickException(f"The addresses file has {len(people)} {role}s; they count from 0.")
    return people[number] if people else None


def fees(web3: Web3) -> tuple[int, int]:
    """Highest fee and tip a gas, in wei: enough for some full blocks on end."""
    tip = web3.to_wei(1, "gwei")
    return 2 * web3.eth.get_block("latest").get("baseFeePerGas", 0) + tip, tip


def check_funds(web3: Web3, account: str, gas: int, max_fee: int) -> None:
    """Raises ClickException if the account can't pay for so much gas."""
    has, needs = web3.eth.get_balance(account), gas * max_fee
    if has < needs:
        raise click.ClickException(
            f"{account} has {web3.from_wei(has, 'ether')} ETH and may need {web3.from_wei(needs, 'ether')}: "
            "send it some ETH first."
        )


def send(there: Place, what: str, account: LocalAccount, function: ContractFunction) -> TxReceipt:
    """Mined with status 1, or a ClickException that says why not."""
    web3 = there.web3
    max_fee, tip = fees(web3)
    call = {"from": account.address, "to": function.address, "data": function._encode_transaction_data()}
    try:
        gas = web3.eth.estimate_gas({**call, "gasPrice": 0}) + GAS_MARGIN
    except ContractLogicError as error:
        raise click.ClickException(f"{what}: {reason(error)}") from None
    check_funds(web3, account.address, gas, max_fee)
    signed = account.sign_transaction(
        {
            "to": function.address,
            "data": call["data"],
            "gas": gas,
            "chainId": there.chain_id,
            "nonce": web3.eth.get_transaction_count(account.address, "pending"),
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": tip,
            "value": 0,
            "type": 2,
        }
    )
    receipt = mined(web3, what, web3.eth.send_raw_transaction(signed.raw_transaction))
    if receipt["status"] != 1:
        raise click.ClickException(f"{what}: reverted in {receipt['transactionHash'].to_0x_hex()}")
    return receipt


def mined(web3: Web3, what: str, tx_hash: bytes) -> TxReceipt:
    try:
        return web3.eth.wait_for_transaction_receipt(tx_hash, timeout=MINED_WITHIN_S, poll_latency=0.1)
    except TimeExhausted:
        raise click.ClickException(f"{what}: 0x{bytes(tx_hash).hex()} isn't mined after {MINED_WITHIN_S} s.") from None


def reason(error: ContractLogicError) -> str:
    """A contract's own words, where it had some."""
    data = error.data
    if isinstance(data, str) and bytes.fromhex(data[2:])[:4] == ERROR_STRING:
        return decode(["string"], bytes.fromhex(data[10:]))[0]
    return "it would revert, and gives no reason (a paused or frozen token does that)"


def pyusd(base_units: int) -> str:
    return f"{base_units / 10**6:,.6f} PYUSD"
