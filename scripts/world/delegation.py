"""The owner's account of a local world runs its guard, by a real authorization that the keeper's account sends.

Promises: when `delegate` returns, the node says that the account delegates to the guard.
"""

from __future__ import annotations

import asyncio

from scripts.onchain import authorization
from scripts.world.chain import Node
from scripts.world.deployment import Deployed
from scripts.world.processes import Failed


async def delegate(node: Node, deployed: Deployed) -> None:
    """Raises Failed when the account's code is another afterwards."""
    price, account_nonce, sender_nonce = (
        int(answer, 16)
        for answer in await asyncio.gather(
            node.call("eth_gasPrice"),
            node.call("eth_getTransactionCount", deployed.owner.address, "latest"),
            node.call("eth_getTransactionCount", deployed.keeper.address, "latest"),
        )
    )
    raw = authorization.signed(
        bytes.fromhex(deployed.owner.key.removeprefix("0x")),
        deployed.guard,
        sender_key=bytes.fromhex(deployed.keeper.key.removeprefix("0x")),
        chain_id=deployed.chain_id,
        account_nonce=account_nonce,
        sender_nonce=sender_nonce,
        max_fee=3 * price,
        tip=min(10**9, price),
    )
    await node.receipt(await node.call("eth_sendRawTransaction", "0x" + raw.hex()))
    code = await node.call("eth_getCode", deployed.owner.address, "latest")
    if code.lower() != "0xef0100" + deployed.guard[2:].lower():
        raise Failed(f"{deployed.owner.address} doesn't delegate to {deployed.guard}: its code is {code}")
