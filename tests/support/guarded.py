"""The settlement guard on a test's Anvil, and the owner's account delegated to it by a real authorization."""

from __future__ import annotations

from eth_account import Account

from scripts.onchain import authorization
from tests.support.anvil import OWNER_KEY, World

KEEPER_KEY = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6"  # Anvil's tenth account
KEEPER = Account.from_key(KEEPER_KEY).address


def deploy_guard(world: World, keeper: str = KEEPER, langdao: str | None = None) -> str:
    address, _ = world.deploy("SettlementGuard.vy", ["address", "address"], [keeper, langdao or world.contract])
    return address


def delegate(world: World, to: str | None, payer_key: str = "") -> None:
    """The owner's account runs the code at `to` from the next block on; None: no code."""
    key = payer_key or Account.create().key.to_0x_hex()  # somebody else pays: the keeper's nonces stay its own
    payer = Account.from_key(key)
    world.node.rpc("anvil_setBalance", payer.address, hex(10**18))
    raw = authorization.signed(
        bytes.fromhex(OWNER_KEY[2:]),
        to or authorization.NOBODY,
        sender_key=bytes(payer.key),
        chain_id=31337,
        account_nonce=int(world.node.rpc("eth_getTransactionCount", world.owner, "latest"), 16),
        sender_nonce=int(world.node.rpc("eth_getTransactionCount", payer.address, "latest"), 16),
        max_fee=200 * 10**9,
        tip=10**9,
    )
    world.node.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    world.node.mine()
    code = world.node.rpc("eth_getCode", world.owner, "latest")
    assert code == ("0xef0100" + to[2:].lower() if to else "0x"), code
