"""One JSON-RPC endpoint: bytes out, bytes in, and how long it has to be left alone.

Promises: an exchange ends within the time-out, with the reply's bytes or with `EndpointFailed`; a connection is
kept open between exchanges, and one that the node closed meanwhile is opened again once; replies are bounded in
size; of the URL only scheme and host show. A failing endpoint rests: longer each time, with jitter, and at least
as long as its Retry-After asks.
Doesn't promise that the bytes are a JSON-RPC answer: `bot.chain.rpc` looks.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

from bot.chain.wire import RawHeader
from bot.values import shown

MAX_REPLY_BYTES = 64 * 1024 * 1024
FIRST_REST_S = 0.25
LONGEST_REST_S = 8.0
LONGEST_RETRY_AFTER_S = 120.0
_JSON = {"Content-Type": "application/json"}
_PING_EVERY_S = 20.0  # finds a half-open websocket


class EndpointFailed(Exception):
    """This endpoint didn't answer. `heavy`: it was reached, but the answer is too slow or too large."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None, heavy: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.heavy = heavy


class Endpoint(ABC):
    """What HTTP and websocket endpoints have in common: a name that may be shown, and rest after failures."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self.name = shown(url)
        self.timeout_s = timeout_s
        self._failures = 0
        self._rests_until = 0.0
        self.strays_until_s = 0.0  # by time.monotonic(): it lags, or is on a branch of its own

    def strays(self) -> bool:
        """True while this endpoint's word is worth less than another's."""
        return time.monotonic() < self.strays_until_s

    def rest_s(self) -> float:
        """Seconds for which this endpoint should be left alone, 0 when it is ready."""
        return max(0.0, self._rests_until - time.monotonic())

    def failed(self, failure: EndpointFailed) -> None:
        """Takes a failure into account."""
        self._failures += 1
        rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2 ** min(self._failures - 1, 10)) * random.uniform(0.6, 1.4)
        asked_s = min(failure.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
        self._rests_until = time.monotonic() + max(rest_s, asked_s * random.uniform(1.0, 1.1))

    def worked(self) -> None:
        """Forgets the failures."""
        self._failures = 0
        self._rests_until = 0.0

    @abstractmethod
    async def exchange(self, session: aiohttp.ClientSession, body: bytes, ids: Sequence[int]) -> bytes:
        """Sends a request with these ids and returns the reply. Raises EndpointFailed."""

    async def close(self) -> None:  # noqa: B027 (HTTP has nothing of its own to close)
        """Closes what is open. Safe to call twice."""


class HttpEndpoint(Endpoint):
    """JSON-RPC by POST."""

    async def exchange(self, session: aiohttp.ClientSession, body: bytes, ids: Sequence[int]) -> bytes:
        try:
            return await self._post_again_if_closed(session, body)
        except TimeoutError:
            raise EndpointFailed(f"no answer within {self.timeout_s:g} s", heavy=True) from None
        except aiohttp.ClientConnectorError as error:
            raise EndpointFailed(_words(error.os_error)) from None
        except aiohttp.ClientError as error:
            raise EndpointFailed(_words(error)) from None

    async def _post_again_if_closed(self, session: aiohttp.ClientSession, body: bytes) -> bytes:
        try:
            return await self._post(session, body)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # A kept connection that the node had closed. Every call of ours may be said twice.
            return await self._post(session, body)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        async with session.post(self.url, data=body, headers=_JSON, timeout=timeout) as reply:
            if reply.status in (429, 503):
                raise EndpointFailed(f"HTTP {reply.status}", retry_after_s=_retry_after_s(reply))
            content = await _read(reply)
            # Some nodes say their JSON-RPC errors with a status of 400 or 500; anything else isn't an answer.
            if reply.status >= 300 and content.lstrip()[:1] not in (b"{", b"["):
                raise EndpointFailed(f"HTTP {reply.status}", heavy=reply.status in (413, 504))
            return content


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in reply.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            raise EndpointFailed(f"an answer of more than {MAX_REPLY_BYTES >> 20} MiB", heavy=True)
    return b"".join(chunks)


def _retry_after_s(reply: aiohttp.ClientResponse) -> float | None:
    text = reply.headers.get("Retry-After", "").strip()
    if not text:
        return None
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _words(error: BaseException) -> str:
    """An error in a few words, without the URL that aiohttp likes to put into them."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower() if error.errno > 0 else "name not resolved"
    return {"ServerDisconnectedError": "connection closed", "ClientPayloadError": "answer cut off"}.get(
        type(error).__name__, type(error).__name__
    )


class _Ids(msgspec.Struct):
    id: int | str | None = None


class _Push(msgspec.Struct):
    result: RawHeader


class _PushReply(msgspec.Struct):
    params: _Push


_IDS = msgspec.json.Decoder(_Ids | list[_Ids])
_PUSH = msgspec.json.Decoder(_PushReply)
_SUBSCRIBE = '{"jsonrpc":"2.0","id":0,"method":"eth_subscribe","params":["newHeads"]}'


class WsEndpoint(Endpoint):
    """JSON-RPC over websockets: one for calls, many at a time, and one for a subscription to new heads."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(url, timeout_s)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[int | str, asyncio.Future[bytes]] = {}
        self._subscription: aiohttp.ClientWebSocketResponse | None = None

    async def exchange(self, session: aiohttp.ClientSession, body: bytes, ids: Sequence[int]) -> bytes:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._ask(await self._connected(session), body, ids)
        except TimeoutError:
            raise EndpointFailed(f"no answer within {self.timeout_s:g} s", heavy=True) from None
        except OSError as error:
            raise EndpointFailed(_words(getattr(error, "os_error", error))) from None
        except aiohttp.ClientError as error:
            raise EndpointFailed(_words(error)) from None

    async def heads(self, session: aiohttp.ClientSession) -> AsyncIterator[RawHeader | None]:
        """None once subscribed, then headers as the node pushes them, until the connection ends.

        By a connection of its own: no announcement waits behind megabytes of logs, or for the receipt of an answer.
        Raises EndpointFailed when there is no connection or no subscription.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                socket = self._subscription = await self._connect(session)
                await socket.send_str(_SUBSCRIBE)
                reply = await socket.receive()
        except TimeoutError:
            raise EndpointFailed(f"no answer within {self.timeout_s:g} s") from None
        except OSError as error:
            raise EndpointFailed(_words(getattr(error, "os_error", error))) from None
        except aiohttp.ClientError as error:
            raise EndpointFailed(_words(error)) from None
        try:
            if reply.type is not aiohttp.WSMsgType.TEXT or '"error"' in reply.data:
                raise EndpointFailed("refuses a subscription to new heads")
            yield None
            async for message in socket:
                header = self._pushed(message.data)
                if header is not None:
                    yield header
        finally:
            await socket.close()

    @staticmethod
    def _pushed(content: Any) -> RawHeader | None:
        try:
            return _PUSH.decode(content).params.result
        except msgspec.MsgspecError:
            return None

    async def _connect(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        return await session.ws_connect(self.url, max_msg_size=MAX_REPLY_BYTES, heartbeat=_PING_EVERY_S, autoping=True)

    async def drop(self) -> None:
        """Ends the subscription, if there is one."""
        if self._subscription is not None:
            await self._subscription.close()

    async def _connected(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        async with self._connecting:
            if self._socket is None or self._socket.closed:
                self._socket = await self._connect(session)
                self._reader = asyncio.create_task(self._read(self._socket), name="rpc.websocket")
            return self._socket

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse, body: bytes, ids: Sequence[int]) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.update(dict.fromkeys(ids, answer))
        try:
            await socket.send_str(body.decode())
            return await answer
        finally:
            for one in ids:
                self._waiting.pop(one, None)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            async for message in socket:
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    self._take(message.data.encode() if isinstance(message.data, str) else message.data)
        finally:
            for answer in set(self._waiting.values()):
                if not answer.done():
                    answer.set_exception(EndpointFailed("connection closed"))

    def _take(self, content: bytes) -> None:
        try:
            heard = _IDS.decode(content)
        except msgspec.MsgspecError:
            return  # its call runs into the time-out
        replies = heard if isinstance(heard, list) else [heard]
        for reply in replies:
            answer = self._waiting.get(reply.id) if reply.id is not None else None
            if answer is not None and not answer.done():
                answer.set_result(content)

    async def close(self) -> None:
        await self.drop()
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader


def endpoint(url: str, timeout_s: float) -> Endpoint:
    """An endpoint by the scheme of its URL."""
    kind = WsEndpoint if url.lower().startswith(("ws://", "wss://")) else HttpEndpoint
    return kind(url, timeout_s)
