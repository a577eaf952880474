"""The configured backend's Socket.IO, heard for ever.

Promises: a passive client of either dialect that connects and reconnects, the first time too, with backoff and
jitter; each event that is a hint goes to `take` in the order of arrival, each known but malformed one is counted
and logged as `socket.refused`, all other chatter is counted. A stalled connection is noticed by the server's own
ping interval. What this side says goes out by `call` and `emit`, within the backend's limit, or raises TryAgain.
Doesn't promise that nothing was missed: there is no replay. Whoever is told by `on_state(True)` has to look
elsewhere (record, Redis, chain) for what was said in the meantime.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import socketio
import structlog

from bot.domain.facts import Hint, Kind
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.limits import Window
from bot.values import shown

log = structlog.get_logger(__name__)

FIRST_DELAY_S = 0.5
EMITS_PER_MINUTE = 9
MAX_DELAY_S = 5.0  # one daemon and one backend: a return should be noticed well within a nudge window
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0


class SocketFeed:
    """One connection at a time. `counters` has received, refused, ignored, connects, lost (connections), held_back.

    `events` says which names are heard, and as what. `auth` and `headers` go into the handshake; `token` is the
    bundled backend's, and becomes part of `auth`; with it, an event counts for what its own `trust` says.
    `emits_per_minute` is how much this side says: without a token 9, because the observed backends answer the tenth
    of a minute, and one more, with an error.

    `take` must not block or raise. `on_state` is called at each change, True for up. `can_return` is what is
    remembered of this backend from earlier runs; `on_can_return` is called when it first reports a return.
    """

    def __init__(
        self,
        url: str,
        take: Callable[[Hint], None],
        *,
        token: str | None = None,
        auth: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        events: Mapping[str, Kind] = wire.EVENTS,
        emits_per_minute: int | None = None,
        on_state: Callable[[bool], None],
        clock_ms: Callable[[], int],
        can_return: bool = False,
        on_can_return: Callable[[], None] | None = None,
        first_delay_s: float = FIRST_DELAY_S,
        max_delay_s: float = MAX_DELAY_S,
    ) -> None:
        self.counters: Counter[str] = Counter(received=0, refused=0, ignored=0, connects=0, lost=0)
        self.up = False
        self.can_return = can_return
        self._url = url
        self._take = take
        self._says_trust = token is not None
        self._auth = {**(auth or {}), **({"token": token} if token else {})} or None
        self._headers = dict(headers or {})
        self._events = events
        # The bundled backend holds nobody to a limit who knows its token.
        limit = (None if token else EMITS_PER_MINUTE) if emits_per_minute is None else emits_per_minute
        self._window = None if limit is None else Window(limit)
        self._on_state = on_state
        self._on_can_return = on_can_return
        self._clock_ms = clock_ms
        self._first_delay_s = first_delay_s
        self._max_delay_s = max_delay_s
        self._client: socketio.AsyncClient | None = None
        self._lost = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Connects, listens and connects again until cancelled or closed."""
        self._running = asyncio.current_task()
        delay_s = self._first_delay_s
        try:
            while True:
                connects = self.counters["connects"]
                await self._one_connection()
                if self.counters["connects"] > connects:
                    delay_s = self._first_delay_s
                # Full jitter on the upper half: a restarted backend isn't met by all its clients at once.
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 2, self._max_delay_s)
        finally:
            self._running = None

    async def close(self) -> None:
        """Ends `run` and the connection. Safe to call more than once."""
        task = self._running
        while task is not None and task is not asyncio.current_task() and not task.done():
            # Again if need be: somewhere below, a library may take a cancellation for its own.
            task.cancel()
            await asyncio.wait([task], timeout=1.0)

    async def call(self, event: str, message: dict[str, Any], timeout_s: float) -> Any:
        """Says `event` and returns what the backend acknowledged, or None: no answer in `timeout_s`, or cut off.

        Raises TryAgain when it wasn't said: no connection, or as much was said as the backend allows.
        """
        client = self._ready()
        call = asyncio.create_task(client.call(event, message, timeout=timeout_s))
        try:
            # The library waits on after a disconnect, for an answer that can't come any more.
            await self._first_of(call, self._lost)
            return call.result() if call.done() else None
        except (socketio.exceptions.SocketIOError, OSError):
            return None
        finally:
            call.cancel()

    async def emit(self, event: str, message: dict[str, Any]) -> None:
        """Says `event`. Raises TryAgain when it wasn't said."""
        client = self._ready()
        try:
            await client.emit(event, message)
        except (socketio.exceptions.SocketIOError, OSError) as error:
            raise TryAgain(f"the backend's socket failed ({type(error).__name__})") from None

    def _ready(self) -> socketio.AsyncClient:
        client = self._client
        if client is None or not self.up:
            raise TryAgain("the backend's socket is down")
        if self._window is not None:
            if self._window.free() <= 0:
                self.counters["held_back"] += 1
                raise TryAgain("as many events as the backend allows were sent in the last minute")
            self._window.use()
        return client

    async def _one_connection(self) -> None:
        # A fresh client each time: the library's own reconnection stops for good after a polite
        # disconnect by the server, and after errors that it doesn't expect.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            client = socketio.AsyncClient(reconnection=False, http_session=http, handle_sigint=False)
            client.on("connect", self._connected)
            client.on("disconnect", self._disconnected)
            client.on("*", self._event)
            self._lost = asyncio.Event()
            self._client = client
            gone: asyncio.Task[Any] | None = None
            try:
                await client.connect(self._url, auth=self._auth, headers=self._headers, wait_timeout=CONNECT_TIMEOUT_S)
                # A connection that drops while it is being made fires no event, but its read loop ends.
                gone = asyncio.create_task(client.wait())
                await self._first_of(gone, self._lost)
            except Exception as error:
                # Whatever a strange server makes the library raise: the promise is to try again.
                self.counters["failed"] += 1
                log.info("socket.unreachable", backend=shown(self._url), error=type(error).__name__)
            finally:
                self._client = None
                self._set_up(False)
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await client.disconnect()
                if gone is not None:
                    gone.cancel()

    @staticmethod
    async def _first_of(task: asyncio.Task[Any], event: asyncio.Event) -> None:
        """Returns when the task is done or the event set. Leaves the task alone."""
        waiter = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()

    async def _connected(self) -> None:
        self._set_up(True)

    async def _disconnected(self, *_: object) -> None:
        self._set_up(False)
        self._lost.set()

    def _set_up(self, up: bool) -> None:
        if self.up == up:
            return
        self.up = up
        self.counters["connects" if up else "lost"] += 1
        log.info("socket.up" if up else "socket.down", backend=shown(self._url), connects=self.counters["connects"])
        self._on_state(up)

    async def _event(self, event: object = None, *args: object) -> None:
        # No await in here: each event is a task of its own, and they must not overtake each other.
        # An event literally named "*" comes without its name, so `event` may be anything.
        if not isinstance(event, str) or event not in self._events:
            self.counters["ignored"] += 1
            log.debug("socket.ignored", said=str(event)[:64])
            return
        payload = args[0] if args else None
        try:
            hint = wire.from_socket(
                event,
                payload,
                self._clock_ms(),
                can_return=self.can_return,
                events=self._events,
                says_trust=self._says_trust,
            )
        except wire.Refused as refused:
            self.counters["refused"] += 1
            log.warning("socket.refused", said=event, reason=refused.reason, detail=refused.detail)
            return
        self.counters["received"] += 1
        if hint.kind is Kind.CONNECTED and not self.can_return:
            self.can_return = True
            if self._on_can_return is not None:
                self._on_can_return()
        self._take(hint)
