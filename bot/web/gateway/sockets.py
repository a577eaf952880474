"""The gateway's Socket.IO side: participants' pages, and the keeper.

Promises: a connection is the keeper's only with the shared token, and a wrong token is refused; an ordinary one
is held to its events a minute; whatever is malformed is counted, logged as `gateway.refused` and acknowledged as
refused, and changes nothing. A nudge counts as delivered to an address once a page that proved to be this address's
acknowledged; the word of one that is merely bound is told apart (`unverified`), and it never gets what is the
participant's own (`own`). An event under any other name is counted and goes nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import socketio
import structlog

from bot.errors import TryAgain, Untrue
from bot.feeds import wire
from bot.feeds.posts import same_secret
from bot.web.gateway.bindings import Bindings
from bot.web.gateway.config import GatewayConfig
from bot.web.gateway.events import Hub
from bot.web.gateway.languages import spoken
from bot.web.gateway.lessons import Lessons
from bot.web.gateway.mappings import Mapping
from bot.web.gateway.plans import Plans
from bot.web.gateway.tape import Tape

log = structlog.get_logger(__name__)

MAX_RECIPIENTS = 16
MAX_FRAME_BYTES = 4 * wire.MAX_PAYLOAD_BYTES
MAX_URL_CHARS = 500
LIMITED = "Rate limit exceeded"
UNVERIFIED = "unverified"


def socket_server(config: GatewayConfig) -> socketio.AsyncServer:
    return socketio.AsyncServer(
        async_mode="asgi",
        cors_allowed_origins="*",
        ping_interval=config.ping_interval_s,
        ping_timeout=config.ping_timeout_s,
        max_http_buffer_size=MAX_FRAME_BYTES,
    )


class Sockets:
    """Who is connected, as whom, and what each may do. `counters` has limited, refused, ignored, nudges, …"""

    def __init__(
        self,
        config: GatewayConfig,
        server: socketio.AsyncServer,
        hub: Hub,
        lessons: Lessons,
        plans: Plans,
        tape: Tape,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._config = config
        self._server = server
        self._hub = hub
        self._plans = plans
        self._tape = tape
        self._bindings = Bindings(hub, lessons)
        self._keepers: set[str] = set()
        self._events: dict[str, Window] = {}
        self._peers: dict[str, str] = {}  # network addresses
        self._languages: dict[str, str | None] = {}  # as the browser says at its handshake
        server.on("connect", self._connect)
        server.on("disconnect", self._disconnect)
        server.on("*", self._event)

    def __len__(self) -> int:
        return len(self._events)

    async def _connect(self, sid: str, environ: object = None, auth: object = None) -> None:
        if self._is_connected(sid):
            return  # an event of a client that merely bears this name
        token = auth.get("token") if isinstance(auth, dict) else auth
        if token is not None:
            known = self._config.token
            if known is None or not isinstance(token, str) or not same_secret(token, known):
                self.counters["unauthorised"] += 1
                log.warning("gateway.refused", said="connect", reason="wrong-token")
                raise socketio.exceptions.ConnectionRefusedError("wrong token")
            self._keepers.add(sid)
            self._plans.keeper_came()
        self._events[sid] = Window(self._config.socket_events_per_minute)
        self._peers[sid] = _peer_of(environ)
        self._languages[sid] = environ.get("HTTP_ACCEPT_LANGUAGE") if isinstance(environ, dict) else None
        self.counters["connects"] += 1

    async def _disconnect(self, sid: str, *_: object) -> None:
        if self._is_connected(sid):
            return
        self._events.pop(sid, None)
        self._languages.pop(sid, None)
        self._peers.pop(sid, None)
        if sid in self._keepers:
            self._keepers.remove(sid)
            self._plans.keeper_left()
        self._bindings.unbind(sid)

    def _is_connected(self, sid: str) -> bool:
        # While the library runs a real connect or disconnect, this is false.
        return bool(self._server.manager.is_connected(sid, "/"))

    async def _event(self, event: str, sid: Any = None, *args: object) -> object:
        if event in self._events:
            # An event literally named "*" comes without its name, and the sender in its place.
            event, sid = "*", event
        window = self._events.get(sid)
        if sid not in self._keepers and (window is None or not window.passes()):
            self.counters["limited"] += 1
            await self._server.emit(wire.ERROR, {"message": LIMITED}, to=sid)
            return {"ok": False, "error": LIMITED}
        handler = {
            wire.BIND: self._bind,
            wire.CREATE: self._create,
            wire.NUDGE: self._nudge,
            wire.PLAN: self._plan,
        }.get(event)
        if handler is None:
            self.counters["ignored"] += 1
            log.debug("gateway.ignored", said=str(event)[:64])
            return None
        try:
            return await handler(sid, wire.measured(args[0] if args else None))
        except wire.Refused as refused:
            self.counters["refused"] += 1
            log.warning("gateway.refused", said=event, reason=refused.reason, detail=refused.detail)
            return {"ok": False, "error": refused.detail, "reason": refused.reason}

    async def _bind(self, sid: str, said: dict[str, Any]) -> dict[str, Any]:
        address = wire.as_address(said.get("address"))
        if address is None:
            raise wire.Refused("bad-address", "address is not an address")
        proof, why = said.get("proof"), None
        if proof is not None:
            try:
                await self._bindings.verify(address, proof, self._peers.get(sid, ""))
            except Untrue as untrue:
                raise wire.Refused(untrue.reason, untrue.detail) from None
            except TryAgain as error:
                why = str(error)  # then it is bound as one that gave no proof
            if sid not in self._events:
                return {"ok": False, "error": "disconnected", "reason": "disconnected"}
        self._bindings.bind(sid, address, verified=proof is not None and why is None)
        verified = self._bindings.is_verified(sid)
        self.counters["verified" if verified else "bound"] += 1
        return {"ok": True, "verified": verified} | ({} if why is None else {"why": why})

    async def _create(self, sid: str, said: dict[str, Any]) -> dict[str, Any]:
        room, _ = wire.room_of(said.get("requestId"))
        student, tutor = wire.as_address(said.get("studentAddress")), wire.as_address(said.get("tutorAddress"))
        if student is None or tutor is None:
            raise wire.Refused("bad-address", "studentAddress or tutorAddress is not an address")
        if self._bindings.address_of(sid) not in (student, tutor):
            raise wire.Refused("not-a-participant", "only a participant, bound by user:connect, may create a session")
        await self._hub.create(
            Mapping(
                room=room,
                student=student,
                tutor=tutor,
                language_id=_language(said.get("languageId")),
                start_ms=self._hub.now_ms(),
                student_url=_url(said.get("studentUrl")),
                tutor_url=_url(said.get("tutorUrl")),
            )
        )
        return {"ok": True, "sessionId": room}

    async def _nudge(self, sid: str, said: dict[str, Any]) -> dict[str, Any]:
        if sid not in self._keepers:
            raise wire.Refused("not-the-keeper", "only the keeper may nudge")
        to = said.get("to")
        if not isinstance(to, list) or not 0 < len(to) <= MAX_RECIPIENTS or not all(isinstance(x, str) for x in to):
            raise wire.Refused("bad-recipients", f"`to` is not a list of 1 to {MAX_RECIPIENTS} addresses")
        names = list(dict.fromkeys(wire.as_address(name) or name for name in to))
        own = said.get("own", {})
        if not isinstance(own, dict) or (own and len(names) > 1):
            raise wire.Refused("bad-own", "`own` is an object, and one participant's")
        message = {name: value for name, value in said.items() if name not in ("to", "own")}
        became = dict(
            zip(names, await asyncio.gather(*(self._relay(name, message, own) for name in names)), strict=True)
        )
        self.counters["nudges"] += 1
        answer = {
            "delivered": [name for name, why in became.items() if why is None],
            "unverified": [name for name, why in became.items() if why == UNVERIFIED],
            "undelivered": {name: why for name, why in became.items() if why not in (None, UNVERIFIED)},
        }
        log.info("gateway.nudged", id=said.get("id"), room=said.get("room"), **answer)
        about = {"sessionId": said.get("sessionId"), "reason": said.get("reason"), **answer}
        self._tape.note(self._hub.now_ms(), "nudge", wire.NUDGE, about)
        return answer

    async def _plan(self, sid: str, said: dict[str, Any]) -> dict[str, Any]:
        if sid not in self._keepers:
            raise wire.Refused("not-the-keeper", "only the keeper may tell plans")
        plan = self._plans.take(said, self._hub.now_ms())
        self._tape.note(self._hub.now_ms(), "plan", wire.PLAN, plan.model_dump())
        self.counters["plans"] += 1
        return {"ok": True}

    async def _relay(self, name: str, message: dict[str, Any], own: dict[str, Any]) -> str | None:
        """None once a verified page of the address has acknowledged, else why none did."""
        address = wire.as_address(name)
        if address is None:
            return "not-an-address"
        pages = self._bindings.pages_of(address)
        verified = [sid for sid in pages if self._bindings.is_verified(sid)]
        theirs = [asyncio.ensure_future(self._ask(sid, message | own)) for sid in verified]
        others = [asyncio.ensure_future(self._ask(sid, message)) for sid in pages if sid not in verified]
        try:
            # The others' word counts only where no verified page has one, however soon it comes.
            if await _any(theirs):
                return None
            if await _any(others):
                return UNVERIFIED
        finally:
            for call in (*theirs, *others):
                call.cancel()
        return "no-ack" if pages else "not-connected"

    async def _ask(self, sid: str, message: dict[str, Any]) -> bool:
        with contextlib.suppress(socketio.exceptions.SocketIOError, KeyError):
            await self._server.call(
                wire.NUDGE, spoken(message, self._languages.get(sid)), to=sid, timeout=self._config.ack_timeout_s
            )
            return True
        return False


async def _any(calls: Sequence[asyncio.Future[bool]]) -> bool:
    """Whether one says yes, as soon as one does."""
    for answered in asyncio.as_completed(calls):
        if await answered:
            return True
    return False


class Window:
    """At most `limit` events in any 60 s."""

    def __init__(self, limit: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._passed: deque[float] = deque(maxlen=max(1, limit))
        self._clock_s = clock_s

    def passes(self) -> bool:
        now = self._clock_s()
        if len(self._passed) == self._passed.maxlen and now - self._passed[0] < 60:
            return False
        self._passed.append(now)
        return True


def _language(value: object) -> int | None:
    """A language's id on chain, or None. Raises Refused for one that can't be."""
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 3:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 255:
        raise wire.Refused("bad-language", "languageId is not a number from 0 to 254")
    return value


def _peer_of(environ: object) -> str:
    """The network address at the other end; all that have none share one name."""
    scope = environ.get("asgi.scope") if isinstance(environ, dict) else None
    client = scope.get("client") if isinstance(scope, dict) else None
    return str(client[0]) if client else "unknown"


def _url(value: object) -> str | None:
    if isinstance(value, str) and len(value) <= MAX_URL_CHARS and value.startswith(("http://", "https://")):
        return value
    return None
