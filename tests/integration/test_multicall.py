"""Many sessions in one call, on a real node: the override's code against the contract, one call at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.chain import codec, multicall
from bot.chain.errors import RpcError
from bot.chain.langdao import LangDAO
from tests.support.anvil import World, langdao
from tests.support.index import index
from tests.support.proxy import Proxy, each_call


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with langdao() as one:
        for tutor in range(3):
            one.start(tutor, tutor)
        one.end(1)
        yield one


async def test_sessions__in_one_call__equal_what_each_says_alone(world: World, tmp_path: Path) -> None:
    """Quotes: "answers all of them at once"."""
    async with index(world, tmp_path / "a.db") as one:
        contract, at = LangDAO(one.rpc, world.contract), world.node.header()["hash"]
        ids = [3, 1, 2, 99, *range(1, 400)]
        before = one.rpc.requests
        together = await contract.sessions(ids, at)
        assert one.rpc.requests == before + 1
        alone = {number: await contract.session(number, at) for number in {1, 2, 3, 99, 200}}
        assert together[:4] == [alone[3], alone[1], alone[2], None]
        assert together[4:7] == [alone[1], alone[2], alone[3]]
        assert together[203] is alone[200] is None


async def test_sessions__the_contract_refuses__says_so_one_by_one(world: World, tmp_path: Path) -> None:
    """Quotes: "or reverts when one of them fails or answers in another size"."""
    with langdao() as other:
        other.start()
        async with index(other, tmp_path / "a.db") as one:
            contract = LangDAO(one.rpc, other.contract)
            # Reverts for session 2 alone, else answers with 320 zero bytes.
            other.node.rpc("anvil_setCode", other.contract, "0x600435600214600d576101406000f35b600080fd")
            answers = await contract.sessions([1, 2, 3], "latest")
            assert answers[0] is None
            assert isinstance(answers[1], RpcError)
            assert answers[2] is None
            other.node.rpc("anvil_setCode", other.contract, "0x60206000f3")  # one word for every question
            asked = multicall.pack(other.contract, codec.GET_SESSION, [1, 2], codec.SESSION_BYTES, "latest")
            with pytest.raises(RpcError):
                await one.rpc.call("eth_call", asked)


@pytest.mark.parametrize("answer", ["refuses", "ignores"])
async def test_sessions__node_without_overrides__are_read_in_a_batch(world: World, tmp_path: Path, answer: str) -> None:
    async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        contract = LangDAO(one.rpc, world.contract)
        expected = await contract.sessions([1, 2, 3], "latest")

        def without(call: dict, reply: dict) -> dict:  # type: ignore[type-arg]
            if len(call["params"]) < 3:
                return reply
            said = {"error": {"code": -32602, "message": "too many arguments, want at most 2"}}
            return {"jsonrpc": "2.0", "id": call["id"]} | (said if answer == "refuses" else {"result": "0x"})

        proxy.after = each_call("eth_call", without)
        assert await contract.sessions([1, 2, 3], "latest") == expected
        assert None not in expected
