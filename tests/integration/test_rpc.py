"""`Rpc` against servers that misbehave, and against a real node over http and websocket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiohttp import web

from bot.chain.errors import RpcError, TooHeavy, Unreachable
from bot.chain.rpc import Rpc, leaving
from tests.support.anvil import anvil
from tests.support.servers import HANGS_S, free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Double:
    """A JSON-RPC server that answers as its `replies` say, one after the other; the last one for ever."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.heard: list[Any] = []
        self.times: list[float] = []
        self.callers: list[Any] = []  # address and port of each one's connection
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.heard.append(body)
        self.times.append(time.monotonic())
        assert request.transport is not None
        self.callers.append(request.transport.get_extra_info("peername"))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if callable(reply):
            reply = reply(body)
        if asyncio.iscoroutine(reply):
            reply = await reply
        return reply if isinstance(reply, web.StreamResponse) else web.json_response(reply)


@asynccontextmanager
async def served(*doubles: Double) -> AsyncIterator[list[str]]:
    runners = []
    for double in doubles:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{tail:.*}", double.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        double.url = f"http://127.0.0.1:{port}/v3/secret-key"
        runners.append(runner)
    try:
        yield [double.url for double in doubles]
    finally:
        for runner in runners:
            await runner.cleanup()


@asynccontextmanager
async def asking(*doubles: Double, timeout_s: float = 3.0) -> AsyncIterator[Rpc]:
    async with served(*doubles) as urls:
        rpc = Rpc(urls, timeout_s=timeout_s)
        try:
            yield rpc
        finally:
            await rpc.close()


def good(result: Any = "0x1") -> Callable[[Any], Any]:
    def reply(body: Any) -> Any:
        if isinstance(body, list):
            return [{"jsonrpc": "2.0", "id": one["id"], "result": result} for one in body]
        return {"jsonrpc": "2.0", "id": body["id"], "result": result}

    return reply


def refused(code: int, message: str, data: Any = None) -> Callable[[Any], Any]:
    def reply(body: Any) -> Any:
        number = body[0]["id"] if isinstance(body, list) else body["id"]
        return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message, "data": data}}

    return reply


def status(code: int, **headers: str) -> Callable[[Any], web.Response]:
    return lambda _: web.Response(status=code, text="<html>no</html>", headers=headers)


async def slow(_: Any = None) -> web.Response:
    await asyncio.sleep(2 * HANGS_S)
    return web.Response()


def cut(_: Any) -> web.Response:
    return web.Response(body=b'{"jsonrpc":"2.0","id":', content_type="application/json")


async def test_call__node_answers__gives_the_result_and_counts() -> None:
    async with asking(Double(good("0x2a"))) as rpc:
        assert await rpc.call("eth_blockNumber") == "0x2a"
        assert rpc.calls["eth_blockNumber"] == 1
        assert not rpc.errors


async def test_call__node_answers_null__gives_none() -> None:
    async with asking(Double(good(None))) as rpc:
        assert await rpc.call("eth_getBlockByNumber", ["0x5", False]) is None


async def test_call__node_answers_with_an_error__raises_it_without_asking_another() -> None:
    """`RpcError` when a node answered with an error"""
    first, second = Double(refused(3, "execution reverted: Session not active", "0x08")), Double(good())
    async with asking(first, second) as rpc:
        with pytest.raises(RpcError) as caught:
            await rpc.call("eth_call", [])
        assert (caught.value.code, caught.value.data) == (3, "0x08")
        assert "Session not active" in caught.value.message
        assert second.heard == []
        assert rpc.errors["eth_call"] == 1


@pytest.mark.parametrize(
    "bad",
    [
        status(429),
        status(500),
        status(502),
        status(404),
        cut,
        lambda _: web.Response(text="hello"),
        lambda _: {"jsonrpc": "2.0", "id": 999_999, "result": "0x1"},
        lambda body: {"jsonrpc": "2.0", "id": body["id"]},
        lambda _: [],
        lambda _: {"message": "Bad gateway"},
        refused(-32005, "daily request count exceeded, request rate limited"),
    ],
    ids=["429", "500", "502", "404", "cut", "text", "other-id", "empty", "list", "other-json", "rate-limit"],
)
async def test_call__first_endpoint_is_no_use__the_second_answers(bad: Any) -> None:
    """Quotes: "a call is answered by the most preferred endpoint that can". An answer to another question, half an
    answer or garbage is no answer."""
    first, second = Double(bad), Double(good("0x2"))
    async with asking(first, second) as rpc:
        assert await rpc.call("eth_chainId") == "0x2"
        assert len(first.heard) == 1


async def test_call__endpoint_failed__is_left_alone_for_a_while_then_preferred_again() -> None:
    """A failing endpoint is left alone for a while"""
    first, second = Double(status(500), good("0x1")), Double(good("0x2"))
    async with asking(first, second) as rpc:
        assert [await rpc.call("eth_chainId") for _ in range(3)] == ["0x2"] * 3
        assert len(first.heard) == 1
        await asyncio.sleep(0.5)
        assert await rpc.call("eth_chainId") == "0x1"


async def test_call__all_fail__raises_unreachable_naming_the_host_alone() -> None:
    """`Unreachable` when none gave a usable answer"""
    async with asking(Double(status(500))) as rpc:
        with pytest.raises(Unreachable, match=r"^http://127\.0\.0\.1:\d+: HTTP 500$") as caught:
            await rpc.call("eth_chainId")
        assert "secret" not in str(caught.value)
        assert rpc.errors["eth_chainId"] == 1


async def test_call__nothing_listens__raises_unreachable() -> None:
    rpc = Rpc([f"http://127.0.0.1:{free_port()}"])
    with pytest.raises(Unreachable, match="connection refused"):
        await rpc.call("eth_chainId")
    await rpc.close()


async def test_call__asked_again_and_again_while_failing__never_knocks_without_a_pause() -> None:
    """when all of them are, a call waits for the first to be ready instead of knocking."""
    double = Double(status(500))
    async with asking(double) as rpc:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with pytest.raises(Unreachable):
                await rpc.call("eth_chainId")
        assert len(double.heard) <= 6


async def test_call__retry_after_longer_than_the_timeout__raises_at_once() -> None:
    double = Double(status(429, **{"Retry-After": "60"}))
    async with asking(double) as rpc:
        for _ in range(3):
            with pytest.raises(Unreachable):
                await rpc.call("eth_chainId")
        assert len(double.heard) == 1


async def test_call__retry_after_of_a_second__is_respected() -> None:
    double = Double(status(429, **{"Retry-After": "1"}), good())
    async with asking(double) as rpc:
        with pytest.raises(Unreachable):
            await rpc.call("eth_chainId")
        assert await rpc.call("eth_chainId") == "0x1"
        assert double.times[1] - double.times[0] >= 1.0


async def test_call__no_answer__ends_within_the_timeout_as_too_heavy() -> None:
    """or raises within about the time-out … `TooHeavy` when one was reached and the answer was too slow or too large"""
    async with asking(Double(slow), timeout_s=0.3) as rpc:
        with pytest.raises(TooHeavy, match=r"no answer within 0\.3 s"):
            async with asyncio.timeout(HANGS_S):
                await rpc.call("eth_getLogs", [{}])


async def test_call__error_with_status_400__is_the_nodes_answer() -> None:
    def reply(body: Any) -> web.Response:
        return web.json_response(refused(-32602, "invalid params")(body), status=400)

    async with asking(Double(reply)) as rpc:
        with pytest.raises(RpcError, match="invalid params"):
            await rpc.call("eth_call", [])


async def test_batch__answers_out_of_order__come_back_in_order() -> None:
    def backwards(body: Any) -> Any:
        return [{"jsonrpc": "2.0", "id": one["id"], "result": one["params"][0]} for one in reversed(body)]

    async with asking(Double(backwards)) as rpc:
        assert await rpc.batch([("echo", [number]) for number in range(50)]) == list(range(50))


async def test_batch__one_call_fails__only_its_place_has_the_error() -> None:
    def partly(body: Any) -> Any:
        replies = good()(body)
        replies[1] = {"jsonrpc": "2.0", "id": body[1]["id"], "error": {"code": 3, "message": "reverted"}}
        return replies

    async with asking(Double(partly)) as rpc:
        one, two, three = await rpc.batch([("eth_call", [])] * 3)
        assert (one, three) == ("0x1", "0x1")
        assert isinstance(two, RpcError)
        assert rpc.errors["eth_call"] == 1


async def test_batch__half_an_answer__is_no_answer() -> None:
    first, second = Double(lambda body: good()(body)[:1]), Double(good("0x2"))
    async with asking(first, second) as rpc:
        assert await rpc.batch([("eth_call", [])] * 3) == ["0x2"] * 3


async def test_batch__too_large_for_the_node__is_split() -> None:
    def at_most_ten(body: Any) -> Any:
        if len(body) > 10:
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch too large"}}
        return good()(body)

    double = Double(at_most_ten)
    async with asking(double) as rpc:
        assert await rpc.batch([("eth_call", [])] * 40) == ["0x1"] * 40
        assert [len(body) for body in double.heard] == [40, 20, 10, 10, 20, 10, 10]


async def test_get_logs__wrongly_typed__is_no_answer() -> None:
    async with asking(Double(good([{"address": 5}]))) as rpc:
        with pytest.raises(Unreachable, match="not a JSON-RPC answer"):
            await rpc.get_logs(0, 1, "0x" + "00" * 20)


async def test_on_each__one_accepts_one_refuses_one_is_down__tells_of_each() -> None:
    accepts, refuses, down = Double(good("0xhash")), Double(refused(-32000, "already known")), Double(status(500))
    async with asking(accepts, refuses, down) as rpc:
        (_, one), (_, two), (place, three) = await rpc.on_each("eth_sendRawTransaction", ["0x02"])
        assert one == "0xhash"
        assert isinstance(two, RpcError)
        assert isinstance(three, Unreachable)
        assert "secret" not in place


async def test_connection__several_exchanges__are_by_the_same_one() -> None:
    """Quotes: "a connection is kept open between exchanges"."""
    double = Double(good())
    async with asking(double) as rpc:
        for _ in range(4):
            await rpc.call("eth_chainId")
    assert len(double.callers) == 4
    assert len(set(double.callers)) == 1


async def test_connection__kept_and_closed_by_the_node__is_opened_again() -> None:
    """Every call of ours may be said twice. The endpoint: "one that the node closed meanwhile is opened again once"."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.dumps(good()(json.loads(await reader.readexactly(length)))).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()  # without having said `Connection: close`

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    rpc = Rpc([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    assert [await rpc.call("eth_chainId") for _ in range(5)] == ["0x1"] * 5
    await rpc.close()
    server.close()


async def test_websocket__real_node__calls_and_batches_and_heads() -> None:
    with anvil() as node:
        rpc = Rpc([node.url.replace("http", "ws")])
        assert rpc.pushes
        assert await rpc.call("eth_chainId") == "0x7a69"
        assert await rpc.batch([("eth_chainId", []), ("eth_blockNumber", [])]) == ["0x7a69", "0x0"]
        heads = rpc.subscribe_heads()
        assert await anext(heads) is None
        node.mine()
        header = await asyncio.wait_for(anext(heads), 5)
        assert header is not None
        assert header.hash == node.header()["hash"]
        await heads.aclose()
        await rpc.close()


async def test_websocket__node_restarts__is_connected_again_and_says_so() -> None:
    """Quotes: "None after each (re)connect, when something may have been missed"."""
    port = free_port()
    with anvil(port=port) as node:
        rpc = Rpc([node.url.replace("http", "ws")])
        heads = rpc.subscribe_heads()
        assert await anext(heads) is None
    again = asyncio.ensure_future(anext(heads))
    await asyncio.sleep(0.3)
    with pytest.raises(Unreachable):
        await rpc.call("eth_chainId")
    with anvil(port=port):
        assert await asyncio.wait_for(again, 10) is None
        assert await rpc.call("eth_chainId") == "0x7a69"
    await heads.aclose()
    await rpc.close()


async def test_subscribe_heads__http_alone__ends_at_once() -> None:
    rpc = Rpc(["http://127.0.0.1:1"])
    assert [head async for head in rpc.subscribe_heads()] == []
    assert not rpc.pushes


# Leaving -------------------------------------------------------------------------------------------------------------


@contextmanager
def hearing_by_itself() -> Iterator[tuple[str, threading.Event]]:
    """A node in a thread of its own: it hears also while our loop stands still."""
    heard = threading.Event()

    class Node(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.set()
            reply = json.dumps(good()(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Node)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    "ask",
    [
        lambda rpc: rpc.batch([("eth_call", ()), ("eth_call", ())]),
        lambda rpc: rpc.on_each("eth_sendRawTransaction", ("0x",)),
    ],
)
async def test_leaving__a_task_was_made_for_a_call__the_node_has_it_though_the_loop_stands_still(
    ask: Callable[[Rpc], Awaitable[Any]],
) -> None:
    """Lets the loop turn until a call that a task was just made for has left, if there is a connection."""
    with hearing_by_itself() as (url, heard):
        rpc = Rpc([url])
        await rpc.call("eth_chainId")
        heard.clear()
        asked = asyncio.ensure_future(ask(rpc))
        await leaving()
        assert heard.wait(10)  # on purpose without letting the loop go on
        await asked
        await rpc.close()
