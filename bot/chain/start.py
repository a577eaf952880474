"""What has to be known before anything else: does the node answer, which chain is it, is the contract there.

Promises: what is wrong is said in one line that names the setting (`Misconfigured`); of a URL only scheme and host
show. Doesn't promise that the node stays reachable or honest.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bot.chain.errors import RpcError, Unreachable, WrongAnswer
from bot.chain.refusals import reverted
from bot.chain.rpc import Rpc
from bot.domain.address import Address
from bot.domain.identity import Identity
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from bot.chain.langdao import Block, LangDAO

CHAIN_NAMES = {
    1: "Mainnet",
    10: "OP Mainnet",
    8453: "Base",
    17000: "Holesky",
    31337: "local",
    42161: "Arbitrum One",
    560048: "Hoodi",
    11155111: "Sepolia",
}
_RETRY_S = 0.2
_COMPARE_S = 3.0  # for the other endpoints: one that hangs holds up no start


def chain_name(chain_id: int) -> str:
    """`chain 11155111 (Sepolia)`; without brackets when the keeper knows no name."""
    name = CHAIN_NAMES.get(chain_id)
    return f"chain {chain_id} ({name})" if name else f"chain {chain_id}"


async def wait_for_rpc(rpc: Rpc, timeout_s: float) -> int:
    """The chain id, as soon as the node says it. Raises Misconfigured when it doesn't within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    place, reason = rpc.shown, "no answer"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left_s):
                return int(await rpc.call("eth_chainId"), 16)
        except Unreachable as error:
            place, reason = error.endpoint, error.reason
        except RpcError as error:
            reason = str(error)
        except TimeoutError:
            break
        except (ValueError, TypeError):
            reason = "not an Ethereum node"
        await asyncio.sleep(min(_RETRY_S, max(0.0, deadline - time.monotonic())))
    raise Misconfigured(
        f"RPC_URL: no answer from {place} within {timeout_s:g} s ({reason}). Is the node running and the address right?"
    )


async def of_one_chain(rpc: Rpc) -> None:
    """Raises Misconfigured when endpoints are of different chains, as far as they answer in `_COMPARE_S`."""
    if rpc.alone:
        return
    try:
        async with asyncio.timeout(_COMPARE_S):
            answers = await rpc.on_each("eth_chainId")
    except TimeoutError:
        return
    said = [f"{place} is chain {int(answer, 16)}" for place, answer in answers if isinstance(answer, str)]
    if len({answer for _, answer in answers if isinstance(answer, str)}) > 1:
        raise Misconfigured(f"RPC_URL: {', '.join(said)}. All endpoints have to be nodes of one chain")


async def sessions_ever(dao: LangDAO, at: Block, chain_id: int) -> int:
    """How many sessions there ever were. Raises Misconfigured when what is at the address is no LangDAO."""
    try:
        return await dao.counter(at)
    except (RpcError, WrongAnswer) as error:
        if isinstance(error, RpcError) and not reverted(error):
            raise
        raise Misconfigured(
            f"CONTRACT_ADDRESS: what is at {dao.address} on {chain_name(chain_id)} isn't a LangDAO contract: it counts "
            "no sessions. Is it the token's address? Check RPC_URL, too"
        ) from None


async def identify(rpc: Rpc, contract: Address, start_block: int | None) -> Identity:
    """Which chain and contract this is; `start_block` None: the deployment is found by bisection.

    Raises Misconfigured when there is no code at `contract`, or when the deployment can't be found.
    """
    chain_id = int(await rpc.call("eth_chainId"), 16)
    genesis, head = await asyncio.gather(rpc.header(0), rpc.header("latest"))
    if genesis is None or head is None:
        raise Misconfigured(f"RPC_URL: {rpc.shown} knows no first or no newest block. Use a node that is in sync")
    if not await _has_code(rpc, contract, "latest"):
        raise Misconfigured(
            f"CONTRACT_ADDRESS: no code at {contract} on {chain_name(chain_id)}. Deployed elsewhere? Check RPC_URL."
        )
    head_number = int(head.number, 16)
    if start_block is None:
        number, block_hash = await find_deployment(rpc, contract, head_number)
    else:
        number, block_hash = start_block, await _hash_of(rpc, start_block)
    return Identity(chain_id, genesis.hash, contract, number, block_hash)


async def find_deployment(rpc: Rpc, contract: Address, head: int) -> tuple[int, str]:
    """Number and hash of the first block at whose end the contract has code, by bisection up to `head`."""
    low, high = 0, head
    try:
        while low < high:
            middle = (low + high) // 2
            if await _has_code(rpc, contract, hex(middle)):
                high = middle
            else:
                low = middle + 1
    except RpcError as error:
        raise Misconfigured(
            f"START_BLOCK is not set, and {rpc.shown} doesn't keep the old state to find it ({error.message[:80]}). "
            "Set START_BLOCK to the block of the contract's deployment"
        ) from None
    return low, await _hash_of(rpc, low)


async def _has_code(rpc: Rpc, contract: Address, at: str) -> bool:
    return len(str(await rpc.call("eth_getCode", (contract, at)))) > 2


async def _hash_of(rpc: Rpc, number: int) -> str:
    header = await rpc.header(number)
    if header is None:
        raise Misconfigured(f"START_BLOCK: the chain has no block {number} yet. Check START_BLOCK and RPC_URL")
    return header.hash
