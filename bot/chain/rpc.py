"""JSON-RPC over several endpoints.

Promises: a call is answered by the most preferred endpoint that can and doesn't stray, or raises within about the
time-out: `RpcError` when a node answered with an error, `Unreachable` when none gave a usable answer (`TooHeavy` when
one was reached and the answer was too slow or too large). A failing endpoint is left alone for a while; when all of
them are, a call waits for the first to be ready instead of knocking. An answer to another question, half an answer or
garbage is no answer. Every call of ours may be said twice: reads by nature, a raw transaction because it has one hash.
Doesn't promise that two calls see the same chain: pin them to a block where that matters. No web3 here: importing it
takes longer than a day's first hundred requests.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import aiohttp
import msgspec
import structlog
from msgspec import UNSET

from bot.chain.endpoint import Endpoint, EndpointFailed, WsEndpoint, endpoint
from bot.chain.errors import RpcError, TooHeavy, Unreachable, rate_limited
from bot.chain.wire import RawHeader, RawLog, Reply, WireError
from bot.errors import KeeperError

T = TypeVar("T")
Call = tuple[str, Sequence[Any]]
Decoding = Callable[[Callable[[bytes], Any], bytes], Awaitable[Any]]  # runs a decoder on an answer

_TURNS = 2  # of the loop: the call's own task, and the HTTP client's that writes its body
BATCH_MAX = 1_000  # calls in one request; geth's own limit, larger batches are split

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


async def at_once(decode: Callable[[bytes], T], content: bytes) -> T:
    """Decodes here and now."""
    return decode(content)


class Rpc:
    """A node, or several in order of preference. Made outside an event loop, used inside of one."""

    def __init__(self, endpoints: Sequence[str], *, timeout_s: float = 10) -> None:
        self._endpoints = [endpoint(url, timeout_s) for url in endpoints]
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        self.requests = 0
        self.log_requests = 0  # those that asked for logs, a batch counting once
        # endpoint, method, seconds until it is decoded, answered
        self.observe: Callable[[str, str, float, bool], None] = lambda *_: None
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    @property
    def shown(self) -> str:
        """The preferred endpoint, by scheme and host."""
        return self._endpoints[0].name

    @property
    def alone(self) -> bool:
        """True if there is one endpoint: what it said needn't be asked of others."""
        return len(self._endpoints) == 1

    @property
    def names(self) -> list[str]:
        """All endpoints, by scheme and host."""
        return [one.name for one in self._endpoints]

    @property
    def count(self) -> int:
        """How many endpoints there are."""
        return len(self._endpoints)

    def name(self, place: int) -> str:
        """An endpoint by its place in the order of preference, by scheme and host."""
        return self._endpoints[place].name

    def ask_last(self, places: set[int], for_s: float) -> None:
        """For so long these endpoints are asked only when no other one answers; from now on no others are."""
        until_s = time.monotonic() + for_s
        for place, one in enumerate(self._endpoints):
            if place in places and not one.strays():
                log.warning("rpc.strays", endpoint=one.name)
            one.strays_until_s = until_s if place in places else 0.0

    @property
    def pushes(self) -> bool:
        """True if an endpoint can announce new heads (a websocket)."""
        return any(isinstance(one, WsEndpoint) for one in self._endpoints)

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """The result of one call, as plain JSON."""
        return await self.call_as(Any, method, params)

    async def call_as(self, kind: Any, method: str, params: Sequence[Any] = (), *, decoding: Decoding = at_once) -> Any:
        """The result of one call, decoded as `kind`, e.g. `RawHeader | None`, when and where `decoding` does that."""
        number = next(self._ids)
        body = _encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        decode = _decoder(kind)

        async def parse(content: bytes) -> Any:
            reply = await decoding(decode, content)
            if reply.id != number and not (reply.id is None and reply.error):
                raise EndpointFailed("an answer to another question")
            return _result(reply)

        self.calls[method] += 1
        try:
            return await self._ask(method, body, (number,), parse)
        except (RpcError, Unreachable):
            self.errors[method] += 1
            raise

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """The results of many calls in their order, each plain JSON or an RpcError."""
        return await self.batch_as(Any, calls)

    async def batch_as(self, kind: Any, calls: Sequence[Call]) -> list[Any]:
        """The results of many calls in their order, each decoded as `kind`, or an RpcError."""
        results: list[Any] = []
        for part in _parts(calls, BATCH_MAX):
            results += await self._batch(kind, part)
        return results

    async def batch_of(self, calls: Sequence[Call]) -> list[Any]:
        """The results of many calls in their order. Raises RpcError when the node refuses one of them."""
        return _all(await self.batch(calls))

    async def _batch(self, kind: Any, calls: Sequence[Call], place: Endpoint | None = None) -> list[Any]:
        if not calls:
            return []
        ids = [next(self._ids) for _ in calls]
        body = _encode(
            [
                {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                for number, (method, params) in zip(ids, calls, strict=True)
            ]
        )
        decode = _batch_decoder(kind)

        async def parse(content: bytes) -> list[Any]:
            replies = decode(content)
            if not isinstance(replies, list):
                _result(replies)  # an error about the batch as a whole
                raise EndpointFailed("one answer to many questions")
            by_id = {reply.id: reply for reply in replies}
            if len(by_id) != len(ids) or any(number not in by_id for number in ids):
                raise EndpointFailed("half an answer")
            return [_result_or_error(by_id[number]) for number in ids]

        self.calls.update(method for method, _ in calls)
        try:
            results = await self._ask("batch", body, ids, parse, place)
        except RpcError:
            if len(calls) == 1:
                raise
            # The node takes no batch of this size; halves are no more work for it.
            middle = len(calls) // 2
            return await self._batch(kind, calls[:middle], place) + await self._batch(kind, calls[middle:], place)
        except Unreachable:
            self.errors.update(method for method, _ in calls)
            raise
        for (method, _), result in zip(calls, results, strict=True):
            if isinstance(result, RpcError):
                self.errors[method] += 1
        return results

    async def header(self, at: int | str) -> RawHeader | None:
        """The header of a block by number, hash or tag; None where the node has no such block."""
        if isinstance(at, str) and len(at) == 66:
            return await self.call_as(RawHeader | None, "eth_getBlockByHash", (at, False))
        return await self.call_as(RawHeader | None, "eth_getBlockByNumber", (_block(at), False))

    async def headers(self, numbers: Sequence[int]) -> list[RawHeader | None]:
        """The headers of these blocks, in one request. Raises RpcError when the node refuses one of them."""
        calls = [("eth_getBlockByNumber", (hex(number), False)) for number in numbers]
        return _all(await self.batch_as(RawHeader | None, calls))

    async def get_logs(
        self, from_block: int, to_block: int, address: str, *, decoding: Decoding = at_once
    ) -> list[RawLog]:
        """The logs of `address` in these blocks, both included, on the chain that the node holds canonical."""
        where = {"fromBlock": hex(from_block), "toBlock": hex(to_block), "address": address}
        return await self.call_as(list[RawLog], "eth_getLogs", (where,), decoding=decoding)

    async def get_logs_of(self, block_hashes: Sequence[str], address: str) -> list[list[RawLog]]:
        """The logs of `address` in each of these blocks, in one request; exact, whatever the chain does meanwhile."""
        calls = [("eth_getLogs", ({"blockHash": one, "address": address},)) for one in block_hashes]
        return _all(await self.batch_as(list[RawLog], calls))

    async def on_each(self, method: str, params: Sequence[Any] = ()) -> list[tuple[str, Any]]:
        """Says the same to every endpoint at once, the resting ones too: (scheme and host, result or exception)."""

        async def parse(content: bytes) -> Any:
            return _result(_decoder(Any)(content))

        async def one(place: Endpoint) -> tuple[str, Any]:
            number = next(self._ids)
            body = _encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            self.calls[method] += 1
            try:
                return place.name, await self._exchange(place, method, body, (number,), parse)
            except RpcError as error:
                self.errors[method] += 1
                return place.name, error
            except EndpointFailed as failure:
                self.errors[method] += 1
                return place.name, Unreachable(place.name, failure.reason)

        if self.alone:
            return [await one(self._endpoints[0])]
        return list(await asyncio.gather(*(one(place) for place in self._endpoints)))

    async def each_as(
        self, kind: Any, calls: Sequence[Call], *, only: int | None = None
    ) -> list[tuple[int, list[Any] | KeeperError]]:
        """Says the same calls to every endpoint that isn't resting, at once: (its place, results or its failure).

        Results are as `batch_as` gives them. `only`: to the endpoint at this place alone.
        """

        async def one(place: int) -> tuple[int, list[Any] | KeeperError]:
            there = self._endpoints[place]
            if there.rest_s() > 0:
                return place, Unreachable(there.name, "resting")
            try:
                return place, await self._batch(kind, calls, there)
            except (RpcError, Unreachable) as error:
                return place, error

        return list(await asyncio.gather(*(one(at) for at in range(self.count) if only in (None, at))))

    async def subscribe_anew(self) -> None:
        """Gives up a subscription that has gone silent; `subscribe_heads` makes a new one."""
        for place in self._endpoints:
            if isinstance(place, WsEndpoint):
                await place.drop()

    async def subscribe_heads(self) -> AsyncIterator[RawHeader | None]:
        """New heads as they are announced; None after each (re)connect, when something may have been missed.

        Only a reason to look: heads may be missing, late or of another branch. Ends at once when no endpoint pushes.
        """
        sockets = [one for one in self._endpoints if isinstance(one, WsEndpoint)]
        while sockets:
            place = min(sockets, key=Endpoint.rest_s)
            await asyncio.sleep(place.rest_s())
            try:
                async for header in place.heads(self._http()):
                    place.worked()
                    yield header
                raise EndpointFailed("subscription ended")
            except EndpointFailed as failure:
                place.failed(failure)
                log.info("rpc.subscription_lost", endpoint=place.name, reason=failure.reason)

    async def close(self) -> None:
        """Closes all connections. Safe to call twice."""
        for place in self._endpoints:
            await place.close()
        if self._session is not None:
            await self._session.close()

    async def _ask(
        self,
        method: str,
        body: bytes,
        ids: Sequence[int],
        parse: Callable[[bytes], Awaitable[T]],
        only: Endpoint | None = None,
    ) -> T:
        """Asks the endpoints in order of preference until one answers, those that stray last."""
        ready = [one for one in self._endpoints if one.rest_s() == 0] if only is None else [only]
        for place in sorted(ready, key=Endpoint.strays) or [await self._first_ready()]:
            try:
                return await self._exchange(place, method, body, ids, parse)
            except EndpointFailed as failure:
                last, where = failure, place
        raise (TooHeavy if last.heavy else Unreachable)(where.name, last.reason)

    async def _first_ready(self) -> Endpoint:
        place = min(self._endpoints, key=Endpoint.rest_s)
        rest_s = place.rest_s()
        if rest_s > self._timeout_s:
            raise Unreachable(place.name, f"asked to be left alone for {rest_s:.0f} s")
        await asyncio.sleep(rest_s)
        return place

    async def _exchange(
        self, place: Endpoint, method: str, body: bytes, ids: Sequence[int], parse: Callable[[bytes], Awaitable[T]]
    ) -> T:
        began_s, answered = time.perf_counter(), False
        try:
            answer = await self._exchanged(place, body, ids, parse)
            answered = True
            return answer
        finally:
            self.observe(place.name, method, time.perf_counter() - began_s, answered)

    async def _exchanged(
        self, place: Endpoint, body: bytes, ids: Sequence[int], parse: Callable[[bytes], Awaitable[T]]
    ) -> T:
        self.requests += 1
        self.log_requests += b'"eth_getLogs"' in body
        try:
            try:
                answer = await parse(await place.exchange(self._http(), body, ids))
            except msgspec.MsgspecError:
                raise EndpointFailed("not a JSON-RPC answer") from None
            except RpcError as error:
                if rate_limited(error):
                    raise EndpointFailed("rate limit", retry_after_s=1.0) from None
                place.worked()
                raise
        except EndpointFailed as failure:
            place.failed(failure)
            log.info("rpc.failed", endpoint=place.name, reason=failure.reason, rest_s=round(place.rest_s(), 2))
            raise
        place.worked()
        return answer

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # Large reads: a page of logs is megabytes.
            self._session = aiohttp.ClientSession(read_bufsize=1 << 20)
        return self._session


async def leaving() -> None:
    """Lets the loop turn until a call that a task was just made for has left, if there is a connection."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _result(reply: Reply[Any]) -> Any:
    if reply.error is not None:
        raise _error(reply.error)
    if reply.result is UNSET:
        raise EndpointFailed("not a JSON-RPC answer")
    return reply.result


def _result_or_error(reply: Reply[Any]) -> Any:
    if reply.error is None:
        return _result(reply)
    error = _error(reply.error)
    if rate_limited(error):
        raise error
    return error


def _error(error: WireError) -> RpcError:
    return RpcError(error.code, error.message or "no message", error.data)


def _all(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, RpcError):
            raise result
    return results


def _parts(calls: Sequence[Call], size: int) -> list[Sequence[Call]]:
    return [calls[start : start + size] for start in range(0, len(calls), size)]


def _block(at: int | str) -> str:
    return hex(at) if isinstance(at, int) else at


@lru_cache(maxsize=64)
def _decoder(kind: Any) -> Callable[[bytes], Reply[Any]]:
    return msgspec.json.Decoder(Reply[kind]).decode


@lru_cache(maxsize=64)
def _batch_decoder(kind: Any) -> Callable[[bytes], list[Reply[Any]] | Reply[Any]]:
    return msgspec.json.Decoder(list[Reply[kind]] | Reply[kind]).decode
