"""The type-4 transaction of EIP-7702, signed.

Promises: the authorization is for one chain only; chain id 0, which is all chains, is refused. Its nonce is the one at
which the account will be when it is looked at: one later if the account sends the transaction itself.
Doesn't promise that the delegation took effect: a node ignores an authorization it doesn't like, and the transaction
succeeds all the same. Whoever sends it looks at the account's code afterwards.
"""

from __future__ import annotations

from eth_account import Account
from web3 import Web3

NOBODY = "0x" + 40 * "0"
# Two signatures' worth of gas and more: what is used is 37,000 to 62,000.
GAS = 100_000


def signed(
    account_key: bytes,
    delegate: str,
    *,
    sender_key: bytes,
    chain_id: int,
    account_nonce: int,
    sender_nonce: int,
    max_fee: int,
    tip: int,
    authorized_chain_id: int | None = None,
) -> bytes:
    """The transaction in which the account delegates; to NOBODY, it revokes. Nonces are the ones now, fees in wei."""
    # Tests authorize for another chain than that of the transaction, to see what becomes of it.
    authorized_chain_id = chain_id if authorized_chain_id is None else authorized_chain_id
    if authorized_chain_id == 0:
        raise ValueError("an authorization for chain id 0 holds on every chain")
    sender = Account.from_key(sender_key).address
    own = Account.from_key(account_key).address == sender
    authorization = Account.sign_authorization(
        {
            "chainId": authorized_chain_id,
            "address": Web3.to_checksum_address(delegate),
            "nonce": account_nonce + 1 if own else account_nonce,
        },
        account_key,
    )
    transaction = {
        "type": 4,
        "chainId": chain_id,
        "nonce": sender_nonce,
        "to": sender,
        "value": 0,
        "gas": GAS,
        "maxFeePerGas": max_fee,
        "maxPriorityFeePerGas": tip,
        "authorizationList": [authorization],
    }
    return bytes(Account.sign_transaction(transaction, sender_key).raw_transaction)
