"""What `run` finds out before anything else, and how it says that something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bot.chain.rpc import Rpc
from bot.chain.start import chain_name, find_deployment, identify, wait_for_rpc
from bot.errors import Misconfigured
from tests.support.anvil import World, anvil, langdao
from tests.support.servers import HANGS_S, free_port


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with langdao() as one:
        one.node.mine(150)
        yield one


async def test_identify__contract_present__tells_chain_contract_and_deployment(world: World) -> None:
    rpc = Rpc([world.node.url])
    identity = await identify(rpc, world.contract, None)
    assert (identity.chain_id, identity.contract) == (31337, world.contract)
    assert identity.genesis_hash == world.node.header(0)["hash"]
    assert identity.deploy_block == world.deploy_block
    assert identity.deploy_hash == world.node.header(world.deploy_block)["hash"]
    await rpc.close()


async def test_identify__start_block_given__asks_for_no_old_state(world: World) -> None:
    rpc = Rpc([world.node.url])
    identity = await identify(rpc, world.contract, 7)
    assert (identity.deploy_block, identity.deploy_hash) == (7, world.node.header(7)["hash"])
    assert rpc.calls["eth_getCode"] == 1
    await rpc.close()


async def test_identify__start_block_in_the_future__is_refused(world: World) -> None:
    rpc = Rpc([world.node.url])
    with pytest.raises(Misconfigured, match="START_BLOCK: the chain has no block 99999 yet"):
        await identify(rpc, world.contract, 99_999)
    await rpc.close()


async def test_find_deployment__by_bisection__takes_few_requests(world: World) -> None:
    rpc = Rpc([world.node.url])
    number, _ = await find_deployment(rpc, world.contract, world.node.number())
    assert number == world.deploy_block
    assert rpc.calls["eth_getCode"] <= 8
    await rpc.close()


async def test_identify__no_code__says_so_in_the_fixed_words() -> None:
    nobody = "0x00000000000000000000000000000000000000Ab"
    with anvil("--chain-id", "11155111") as node:
        rpc = Rpc([node.url])
        with pytest.raises(Misconfigured) as caught:
            await identify(rpc, nobody, None)
        await rpc.close()
    assert str(caught.value) == (
        f"CONTRACT_ADDRESS: no code at {nobody} on chain 11155111 (Sepolia). Deployed elsewhere? Check RPC_URL."
    )


@pytest.mark.parametrize(
    ("number", "text"), [(1, "chain 1 (Mainnet)"), (31337, "chain 31337 (local)"), (424242, "chain 424242")]
)
def test_chain_name__by_number__has_brackets_only_where_known(number: int, text: str) -> None:
    assert chain_name(number) == text


async def test_wait_for_rpc__nothing_listens__refuses_in_time_and_hides_the_path() -> None:
    port = free_port()
    rpc = Rpc([f"http://user:word@127.0.0.1:{port}/v3/secret"])
    with pytest.raises(Misconfigured) as caught:
        async with asyncio.timeout(HANGS_S):
            await wait_for_rpc(rpc, 1)
    assert str(caught.value).startswith(f"RPC_URL: no answer from http://127.0.0.1:{port} within 1 s (")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "word" not in str(caught.value)
    await rpc.close()


async def test_wait_for_rpc__server_never_answers__refuses_in_time() -> None:
    server = await asyncio.start_server(lambda *_: asyncio.sleep(2 * HANGS_S), "127.0.0.1", 0)
    rpc = Rpc([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    with pytest.raises(Misconfigured, match=r"within 0\.5 s"):
        async with asyncio.timeout(HANGS_S):
            await wait_for_rpc(rpc, 0.5)
    await rpc.close()
    server.close()


async def test_wait_for_rpc__node_comes_up_meanwhile__gives_the_chain_id() -> None:
    port = free_port()
    rpc = Rpc([f"http://127.0.0.1:{port}"])
    waiting = asyncio.create_task(wait_for_rpc(rpc, 10))
    await asyncio.sleep(0.5)
    with anvil(port=port):
        assert await waiting == 31337
        await rpc.close()
