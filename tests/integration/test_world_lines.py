"""What stands between a keeper and its chain or backend in the devnet: it passes all on, cuts, or kills at a call."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from scripts.world.processes import Child, Crew
from scripts.world.rpc_proxy import RpcProxy, When
from scripts.world.tcp_proxy import TcpProxy
from tests.support.world import STUDENT, TUTOR, crew, post, serving

__all__ = ["crew"]

# The way to the chain


class FakeNode:
    """Takes JSON-RPC and remembers it."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.json_response({"jsonrpc": "2.0", "id": 1, "result": "0xabc"})


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    fake = FakeNode()
    async with serving(fake.answer) as fake.url:
        yield fake


@pytest.fixture
async def victim(crew: Crew) -> Child:
    return await crew.start("victim", ["sleep", "300"])


@pytest.fixture
async def proxy(node: FakeNode, victim: Child) -> AsyncIterator[RpcProxy]:
    made = RpcProxy(node.url, kill=lambda: victim.signal(signal.SIGKILL))
    await made.start()
    yield made
    await made.stop()


def raw_transaction(tutor: str) -> dict[str, Any]:
    raw = "0x02f8aa7ce02794" + "00" * 12 + tutor[2:].lower() + "c0ffee"
    return {"jsonrpc": "2.0", "id": 7, "method": "eth_sendRawTransaction", "params": [raw]}


async def test_rpc_proxy__anything_else__passes_unchanged(proxy: RpcProxy, node: FakeNode, victim: Child) -> None:
    proxy.kill_on_settlement(TUTOR, When.BEFORE)
    batch = [{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}, raw_transaction(STUDENT)]

    status, text = await post(proxy.url, batch)

    assert (status, node.bodies) == (200, [batch])
    assert "0xabc" in text
    assert victim.running


async def test_rpc_proxy__kill_before_forwarding__keeper_dead_and_node_untouched(
    proxy: RpcProxy, node: FakeNode, victim: Child
) -> None:
    done = proxy.kill_on_settlement(TUTOR, When.BEFORE)
    message = raw_transaction(TUTOR)

    status, _ = await post(proxy.url, message)

    assert await victim.wait() == -signal.SIGKILL
    assert node.bodies == []
    assert done.result() == message["params"][0]
    assert proxy.held_back == message["params"]
    assert status == 503


async def test_rpc_proxy__kill_after_forwarding__keeper_dead_and_node_has_it(
    proxy: RpcProxy, node: FakeNode, victim: Child
) -> None:
    done = proxy.kill_on_settlement(TUTOR, When.AFTER)
    message = raw_transaction(TUTOR)

    status, text = await post(proxy.url, message)

    assert await victim.wait() == -signal.SIGKILL
    assert node.bodies == [message]
    assert done.done()
    # Whoever sent it never learns that it arrived.
    assert status == 503
    assert "0xabc" not in text


async def test_rpc_proxy__in_a_batch__is_found(proxy: RpcProxy, node: FakeNode, victim: Child) -> None:
    proxy.kill_on_settlement(TUTOR, When.BEFORE)

    await post(proxy.url, [{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}, raw_transaction(TUTOR)])

    assert await victim.wait() == -signal.SIGKILL
    assert node.bodies == []


async def test_rpc_proxy__sent_again__an_order_works_once(proxy: RpcProxy, node: FakeNode) -> None:
    proxy.kill_on_settlement(TUTOR, When.BEFORE)
    await post(proxy.url, raw_transaction(TUTOR))

    status, _ = await post(proxy.url, raw_transaction(TUTOR))

    assert status == 200
    assert len(node.bodies) == 1


# The line that can be cut


@pytest.fixture
async def line() -> AsyncIterator[TcpProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = TcpProxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    yield proxy
    await proxy.stop()
    server.close()


async def said_back(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    answer = await reader.readexactly(len(text))
    writer.close()
    return answer


async def test_tcp_proxy__whole__passes_both_ways(line: TcpProxy) -> None:
    assert await said_back(line.port, b"hello") == b"hello"


async def test_tcp_proxy__cut__ends_connections_and_refuses_new_ones(line: TcpProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"

    await line.cut()

    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    with pytest.raises(OSError):  # noqa: PT011 which one depends on the moment
        await said_back(line.port, b"x")
    assert await said_back(line.target_port, b"undisturbed") == b"undisturbed"


async def test_tcp_proxy__restored__accepts_on_the_same_port(line: TcpProxy) -> None:
    port = line.port
    await line.cut()

    await line.restore()

    assert line.port == port
    assert await said_back(port, b"again") == b"again"


async def test_tcp_proxy__restored__until_used_waits_for_the_first_who_connects(line: TcpProxy) -> None:
    await said_back(line.port, b"before")
    await line.cut()
    await line.restore()
    waiting = asyncio.ensure_future(line.until_used())
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await said_back(line.port, b"again")

    await asyncio.wait_for(waiting, 5)
