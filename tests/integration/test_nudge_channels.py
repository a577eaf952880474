"""Each channel against a real server of its kind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import socketio
from fastapi import FastAPI, Request
from fastapi.responses import Response

from bot.domain.facts import Role, SessionKey
from bot.errors import TryAgain
from bot.feeds.socket import SocketFeed
from bot.nudges.channel import How, Receipt
from bot.nudges.contacts import Contact
from bot.nudges.message import Message, Note, Purpose
from bot.nudges.messengers import Messengers
from bot.nudges.sockets import Chat, Event, Gateway
from bot.nudges.webhook import Webhook
from tests.support.servers import free_port, serving, until

ANN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BOB = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
KEY = SessionKey(7, ANN, BOB)
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()
NOW = 1_800_000_000_000


def note(purpose: Purpose = Purpose.ASK, link: str | None = "https://k.example/v/token") -> Note:
    message = Message(3, KEY, purpose, "contradiction", "req_1", 60, 1_000, 60_000, page="https://k.example/s/7")
    return Note("nudge-7-3-student", message, ANN, Role.STUDENT, None, link, NOW)


# The webhook ---------------------------------------------------------------------------------------------------------


class Receiver:
    """The operator's program: keeps what it got, answers what it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[], Response] = Response
        self.app = FastAPI()

        @self.app.post("/nudges/{rest}")
        async def take(request: Request, rest: str) -> Response:
            self.got.append((dict(request.headers), await request.body()))
            return self.answer()


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, Webhook]]:
    one = Receiver()
    async with serving(one.app) as url:
        yield one, Webhook(f"{url}/nudges/secret-path", SECRET, timeout_s=2)


async def test_webhook__request__is_signed_as_the_documentation_says(receiver: tuple[Receiver, Webhook]) -> None:
    """HMAC-SHA256, under the shared secret, over `<webhook-id>.<webhook-timestamp>.<body>`"""
    server, webhook = receiver
    assert await webhook.send(note()) == Receipt(How.SENT)
    [(headers, body)] = server.got
    assert verified(SECRET, headers, body)
    assert not verified(SECRET, headers, body + b" ")
    assert not verified(SECRET, headers | {"webhook-timestamp": str(NOW // 1000 + 1)}, body)
    assert not verified("whsec_" + base64.b64encode(b"n" * 24).decode(), headers, body)
    assert headers["webhook-timestamp"] == str(NOW // 1000)
    assert headers["webhook-id"] == headers["idempotency-key"] == "nudge-7-3-student"
    said = json.loads(body)
    assert (said["to"], said["kind"], said["link"]) == ([ANN], "ask", "https://k.example/v/token")


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """The example of docs/nudges.md, word for word but for the age of the request."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(expected, headers["webhook-signature"])


async def test_webhook__secret_that_is_plain_text__signs_with_its_bytes() -> None:
    server = Receiver()
    async with serving(server.app) as url:
        await Webhook(f"{url}/nudges/x", "a plain text of 24 or more").send(note())
    [(headers, body)] = server.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"a plain text of 24 or more", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("body", "receipt"),
    [
        ('{"delivered": true}', Receipt(How.DELIVERED)),
        ('{"delivered": false, "reason": "asleep"}', Receipt(How.MISSED, "asleep")),
        ('{"delivered": false}', Receipt(How.MISSED, "not delivered, says the webhook")),
        ('{"delivered": 1}', Receipt(How.SENT)),
        ('{"ok": true}', Receipt(How.SENT)),
        ("<html>", Receipt(How.SENT)),
        ("[" * 60_000, Receipt(How.SENT)),
        ("", Receipt(How.SENT)),
    ],
)
async def test_webhook__answer__delivered_only_when_it_says_so(
    receiver: tuple[Receiver, Webhook], body: str, receipt: Receipt
) -> None:
    """It counts as delivered when the answer is `{"delivered": true}`."""
    server, webhook = receiver
    server.answer = lambda: Response(body)
    assert await webhook.send(note()) == receipt


@pytest.mark.parametrize(("status", "retry_after", "after_s"), [(429, "7", 7.0), (503, None, 0.0), (500, "soon", 0.0)])
async def test_webhook__not_now__later_and_as_long_as_it_asks(
    receiver: tuple[Receiver, Webhook], status: int, retry_after: str | None, after_s: float
) -> None:
    """429, 5xx and a lost connection are tried again, `Retry-After` respected"""
    server, webhook = receiver
    server.answer = lambda: Response(status_code=status, headers={"Retry-After": retry_after} if retry_after else {})
    with pytest.raises(TryAgain) as later:
        await webhook.send(note())
    assert later.value.after_s == after_s


@pytest.mark.parametrize("status", [301, 400, 404, 410])
async def test_webhook__refused__is_not_tried_again(receiver: tuple[Receiver, Webhook], status: int) -> None:
    server, webhook = receiver
    server.answer = lambda: Response(status_code=status, headers={"Location": "/nudges/elsewhere"})
    assert await webhook.send(note()) == Receipt(How.MISSED, f"the webhook answered {status}")
    assert len(server.got) == 1


async def test_webhook__nobody_there_or_never_answers__later_without_its_address() -> None:
    with pytest.raises(TryAgain) as later:
        await Webhook(f"http://127.0.0.1:{free_port()}/secret-path", SECRET).send(note())
    assert "secret" not in str(later.value)
    silent = await asyncio.start_server(lambda _r, _w: asyncio.sleep(60), "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(TryAgain):
            await Webhook(f"http://127.0.0.1:{port}/", SECRET, timeout_s=0.2).send(note())


# Over the backend's socket -------------------------------------------------------------------------------------------


class Backend:
    """A plain Socket.IO server with one page in it. `acks` is what it answers."""

    def __init__(self) -> None:
        self.server = socketio.AsyncServer(async_mode="asgi")
        self.app = socketio.ASGIApp(self.server)
        self.heard: list[tuple[str, Any]] = []
        self.acks: Any = None
        self.server.on("*", self._event)

    async def _event(self, event: str, sid: str, said: Any = None) -> Any:
        self.heard.append((event, said))
        if self.acks == "never":
            await asyncio.sleep(60)
        return self.acks


@pytest.fixture
async def backend() -> AsyncIterator[tuple[Backend, SocketFeed]]:
    one = Backend()
    async with serving(one.app) as url:
        feed = SocketFeed(url, lambda _: None, on_state=lambda _: None, clock_ms=lambda: NOW)
        task = asyncio.create_task(feed.run())
        await until(lambda: feed.up)
        yield one, feed
        await feed.close()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("acks", "receipt"),
    [
        ({"delivered": [ANN.lower()]}, Receipt(How.DELIVERED)),
        ({"delivered": [BOB], "unverified": [ANN]}, Receipt(How.SENT)),
        ({"delivered": [], "undelivered": {ANN: "not-connected"}}, Receipt(How.MISSED, "not-connected")),
    ],
)
async def test_gateway__acknowledges__its_word_counts(
    backend: tuple[Backend, SocketFeed], acks: Any, receipt: Receipt
) -> None:
    server, feed = backend
    server.acks = acks
    assert await Gateway(feed).send(note()) == receipt
    [(event, said)] = server.heard
    assert (event, said["to"], said["own"]["link"]) == ("keeper:nudge", [ANN], "https://k.example/v/token")


async def test_gateway__participants_own_link__stands_in_own_alone(backend: tuple[Backend, SocketFeed]) -> None:
    """A participant's own link stands apart from the rest (`own`)."""
    server, feed = backend
    server.acks = {"delivered": [ANN]}
    await Gateway(feed).send(note())
    await Gateway(feed).send(note(link=None))
    own = server.heard[0][1].pop("own")
    assert "/v/token" in own["link"]
    assert "/v/token" in own["text"]
    assert server.heard[0] == server.heard[1], "the rest is what one without a link gets"
    assert "/v/" not in str(server.heard)


@pytest.mark.parametrize("acks", [None, "never", "ok", 5, ["delivered"], {"delivered": "all"}, {"delivered": [BOB]}])
async def test_gateway__says_nothing_of_this_participant__later(backend: tuple[Backend, SocketFeed], acks: Any) -> None:
    server, feed = backend
    server.acks = acks
    with pytest.raises(TryAgain):
        await Gateway(feed, timeout_s=0.3).send(note())


@pytest.mark.parametrize(
    ("acks", "receipt"),
    [
        (None, Receipt(How.SENT)),
        ("never", Receipt(How.SENT)),
        ({"delivered": [ANN]}, Receipt(How.DELIVERED)),
        ({"undelivered": {ANN: "gone"}}, Receipt(How.MISSED, "gone")),
    ],
)
async def test_event__backend_that_relays_it__sent_unless_it_says_more(
    backend: tuple[Backend, SocketFeed], acks: Any, receipt: Receipt
) -> None:
    """One that answers as the gateway does is believed; of one that doesn't answer, nothing is known."""
    server, feed = backend
    server.acks = acks
    assert await Event(feed, "lesson:nudge", timeout_s=0.3).send(note(link=None)) == receipt
    assert server.heard[0][0] == "lesson:nudge"


async def test_chat__message__targeted_as_observed_and_nothing_in_it_is_secret(
    backend: tuple[Backend, SocketFeed],
) -> None:
    """it carries nothing that isn't everybody's: no own link"""
    server, feed = backend
    chat = Chat(feed, CONTRACT)
    assert chat.private is False
    assert await chat.send(note(link=None)) == Receipt(How.SENT)
    await until(lambda: server.heard)
    [(event, said)] = server.heard
    assert event == "chat:message"
    assert set(said) == {"sessionId", "senderAddress", "message", "timestamp", "targetAddress"}
    assert (said["sessionId"], said["senderAddress"], said["targetAddress"]) == ("req_1", CONTRACT, ANN)
    assert said["message"] == note(link=None).text


async def test_chat__more_than_nine_a_minute__held_back_for_later(backend: tuple[Backend, SocketFeed]) -> None:
    """Own limiter below the server's limits (10 events a minute per socket)"""
    server, feed = backend
    for _ in range(9):
        await Chat(feed, CONTRACT).send(note(link=None))
    with pytest.raises(TryAgain):
        await Chat(feed, CONTRACT).send(note(link=None))
    await until(lambda: len(server.heard) == 9)
    assert feed.counters["held_back"] == 1


@pytest.mark.parametrize("channel", [Gateway, lambda feed: Event(feed, "e"), lambda feed: Chat(feed, CONTRACT)])
async def test_socket_channels__backend_is_down__later(channel: Any) -> None:
    feed = SocketFeed("http://127.0.0.1:9", lambda _: None, on_state=lambda _: None, clock_ms=lambda: NOW)
    with pytest.raises(TryAgain):
        await channel(feed).send(note())


# Apprise -------------------------------------------------------------------------------------------------------------


class People:
    def __init__(self, **urls: tuple[str, ...]) -> None:
        self.urls = {"ann": ANN, "bob": BOB}
        self.known = {self.urls[name]: Contact(None, given) for name, given in urls.items()}

    def of(self, address: str) -> Contact:
        return self.known.get(address, Contact())


async def test_apprise__json_endpoint__gets_subject_and_text() -> None:
    got: list[dict[str, Any]] = []
    app = FastAPI()

    @app.post("/token")
    async def take(request: Request) -> dict[str, bool]:
        got.append(await request.json())
        return {"ok": True}

    async with serving(app) as url:
        channel = Messengers(People(ann=(url.replace("http", "json") + "/token",)))  # type: ignore[arg-type]
        assert (channel.reaches(ANN), channel.reaches(BOB)) == (True, False)
        assert await channel.send(note()) == Receipt(How.SENT)
    assert got[0]["title"] == "LangDAO lesson 7"
    assert got[0]["message"] == note().text


async def test_apprise__service_is_down__later() -> None:
    channel = Messengers(People(ann=(f"json://127.0.0.1:{free_port()}/token",)))  # type: ignore[arg-type]
    with pytest.raises(TryAgain):
        await channel.send(note())


async def test_apprise__one_service_hangs__holds_up_nobody_but_its_own_participant() -> None:
    """a service that hangs holds up nobody but its own participant"""
    free = threading.Event()

    def send(urls: tuple[str, ...], subject: str, text: str) -> bool:
        return free.wait(30) if urls == ("json://slow",) else True

    people = People(ann=("json://slow",), bob=("json://fast",))
    channel = Messengers(people, send)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await channel.send(note())
    with pytest.raises(TryAgain, match="still under way"):
        await channel.send(note())
    other = note()
    to_bob = Note(other.id, other.message, BOB, Role.TUTOR, None, None, NOW)
    assert await channel.send(to_bob) == Receipt(How.SENT)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "apprise")
    free.set()
    await until(lambda: not any(thread.name == "apprise" for thread in threading.enumerate()))
    await until(lambda: not channel._busy)
    assert await channel.send(note()) == Receipt(How.SENT)


async def test_apprise__plug_in_raises__later() -> None:
    def send(*_: object) -> bool:
        raise RuntimeError("a plug-in's bug")

    with pytest.raises(TryAgain):
        await Messengers(People(ann=("json://x",)), send).send(note())  # type: ignore[arg-type]
