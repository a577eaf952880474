"""`langdao-keeper run` nudges by several channels, one of them dead, ends the session, and tells the bill."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from tests.integration.test_cli_daemon import running, settings, until
from tests.integration.test_run import hook_line, post
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.gateway import proof
from tests.support.record import inside, keeper
from tests.support.servers import free_port
from tests.support.servers import until as until_async

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes, or more").decode()


class Inbox:
    """An HTTP server that keeps what it is sent, by path. `delivered` is what it says of the webhook's requests."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                answer = b'{"delivered": true}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.host = f"127.0.0.1:{self.server.server_port}"

    def at(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(body) for where, _, body in list(self.got) if where == path]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    one = Inbox()
    yield one
    one.server.shutdown()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield int(listener.getsockname()[1])


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=1, tutors=1) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def signed(headers: dict[str, str], body: bytes) -> bool:
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"a secret of 24 bytes, or more", text, hashlib.sha256).digest()
    return headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.provokes("alert.contacts")
def test_run__one_channel_hangs__both_are_nudged_by_the_others_then_ended_and_billed(
    world: World, inbox: Inbox, silent: int, tmp_path: Path
) -> None:
    """a dead channel delays nothing; afterwards the bill (`12 min 4 s, 0.724 PYUSD, tx …`)"""
    student, tutor = world.students[0], world.tutors[0]
    contacts = tmp_path / "contacts"
    contacts.write_text(f"{student} de json://{inbox.host}/mail\n{tutor} json://127.0.0.1:{silent}/a-secret-token-1\n")
    contacts.chmod(0o600)
    given = settings(
        world,
        tmp_path,
        BACKEND_PRIVATE_KEY=OWNER_KEY,
        NUDGE_WEBHOOK_URL=f"http://{inbox.host}/hook-with-a-secret-path",
        NUDGE_WEBHOOK_SECRET=SECRET,
        CONTACTS_FILE=contacts,
        PUBLIC_URL="https://keeper.example",
        DISCONNECT_GRACE_S=1,
        NUDGE_WINDOW_S=6,
        BACKEND_HEAD_START_S=1,
        POLL_INTERVAL_S=0.2,
    )
    with running(tmp_path, "run", **given):
        url = hook_line(tmp_path, given).replace("https://keeper.example", f"http://{given['HTTP_BIND']}")
        world.start(0, 0)
        until(lambda: world.is_active(0))
        until(lambda: inside(tmp_path, "sessions", "--json", **given).json())
        assert post(url, {"type": "session-ended", "sessionId": 1, "endedBy": "student"}) == 200
        until(lambda: len(inbox.at("/hook-with-a-secret-path")) >= 2)
        assert world.is_active(0), "nudged before it was ended"
        until(lambda: not world.is_active(0))
        until(lambda: len(inbox.at("/hook-with-a-secret-path")) >= 4)
        until(lambda: len(inbox.at("/mail")) >= 2)
        explained = until(
            lambda: (found := inside(tmp_path, "explain", "1", **given).out).count("the bill by") >= 1 and found
        )
        row = inside(tmp_path, "settlements", "--json", **given).json()[0]
    hooked = inbox.at("/hook-with-a-secret-path")
    assert [(one["kind"], sorted(one["to"])) for one in sorted(hooked, key=lambda one: (one["kind"], one["role"]))] == [
        ("bill", [student]),
        ("bill", [tutor]),
        ("pay", [student]),
        ("pay", [tutor]),
    ]
    assert all(signed(headers, body) for path, headers, body in inbox.got if path != "/mail")
    nudge, bill = (one["message"] for one in inbox.at("/mail"))
    assert nudge.startswith("Die Unterrichtsstunde wurde als beendet gemeldet. Sitzung 1 läuft seit ")
    assert "https://keeper.example/s/1" in nudge
    assert f"Transaktion {row['tx_hash']}" in bill
    [page_bill] = [one for one in hooked if (one["kind"], one["role"]) == ("bill", "tutor")]
    amount = f"{int(row['paid']) / 10**6:.6f}".rstrip("0")
    assert f"{row['billed_s']} s, {amount}" in page_bill["text"]
    assert page_bill["transactionHash"] == row["tx_hash"]
    assert "the nudge by webhook reached" in explained
    assert row["reason"] == "ended"
    log = (tmp_path / "log").read_text()
    for secret in ("hook-with-a-secret-path", "a-secret-token-1", "secret of 24", SECRET[6:]):
        assert secret not in log


def test_doctor__channels__says_which_reach_participants(world: World, inbox: Inbox, tmp_path: Path) -> None:
    contacts = tmp_path / "contacts"
    contacts.write_text(f"{world.students[0]} json://{inbox.host}/mail\n")
    contacts.chmod(0o600)

    def nudges(**more: Any) -> dict[str, Any]:
        done = inside(tmp_path, "doctor", "--json", **settings(world, tmp_path, **more))
        [check] = [one for one in done.json()["checks"] if one["name"] == "nudges"]
        return dict(check)

    none = nudges()
    assert (none["result"], "no nudge window" in none["value"]) == ("warning", True)
    some = nudges(NUDGE_WEBHOOK_URL=f"http://{inbox.host}/x", NUDGE_WEBHOOK_SECRET=SECRET, CONTACTS_FILE=contacts)
    assert some["result"] == "ok"
    assert some["value"] == f"the webhook at http://{inbox.host}; Apprise for 1 participants in contacts"
    socket_only = nudges(SOCKET_URL="http://127.0.0.1:9", NUDGE_CHAT=1, NUDGE_EVENT="lesson:nudge")
    assert "the event lesson:nudge at http://127.0.0.1:9; chat:message at" in socket_only["value"]
    contacts.write_text("nobody\n")
    bad = nudges(CONTACTS_FILE=contacts)
    assert bad["result"] == "failed"
    assert f"CONTACTS_FILE {contacts}, line 1: does not begin with an address" in bad["value"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"NUDGE_WEBHOOK_URL": "http://127.0.0.1:9/x"}, "NUDGE_WEBHOOK_SECRET is not: they go together"),
        ({"NUDGE_WEBHOOK_URL": "x", "NUDGE_WEBHOOK_SECRET": SECRET}, "NUDGE_WEBHOOK_URL is not a URL"),
        ({"NUDGE_WEBHOOK_SECRET": "short"}, "NUDGE_WEBHOOK_SECRET is shorter than 24 characters"),
        ({"NUDGE_WEBHOOK_SECRET": "whsec_no base64"}, "NUDGE_WEBHOOK_SECRET is not base64"),
        ({"NUDGE_EVENT": "connect"}, "NUDGE_EVENT is a name of Socket.IO's own"),
        ({"CONTACTS_FILE": "/nowhere/contacts"}, "CONTACTS_FILE /nowhere/contacts: No such file"),
    ],
)
def test_run__setting_that_cannot_be__exits_2_and_names_it(
    world: World, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    done = keeper(tmp_path, "run", **settings(world, tmp_path, **more))
    assert done.code == 2
    [line] = [line for line in done.err.splitlines() if line.startswith("langdao-keeper: ")]
    assert words in line


class Asked:
    """A keeper with its gateway, and one page in it, which acknowledges; session 1 is said to be over, and beats on."""

    def __init__(self, world: World, home: Path, **more: Any) -> None:
        bind = f"127.0.0.1:{free_port()}"
        self.world = world
        self.home = home
        self.url = f"http://{bind}"
        self.given = settings(
            world,
            home,
            BACKEND_PRIVATE_KEY=OWNER_KEY,
            GATEWAY=1,
            GATEWAY_TOKEN="token-of-both-of-them",
            GATEWAY_BIND=bind,
            PUBLIC_URL=self.url,
            DISCONNECT_GRACE_S=5,
            NUDGE_WINDOW_S=5,
            POLL_INTERVAL_S=0.2,
            **more,
        )
        self.nudges: list[dict[str, Any]] = []

    @contextlib.asynccontextmanager
    async def by(self, *pages: dict[str, Any]) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(running(self.home, "run", **self.given))
            hook = await asyncio.to_thread(hook_line, self.home, self.given)
            hook = hook.replace(self.url, f"http://{self.given['HTTP_BIND']}")
            await until_async(lambda: self.said("socket.up"), 30)
            for bound in pages:
                page = socketio.AsyncClient()
                page.on("keeper:nudge", self._nudged)
                await page.connect(self.url, headers={"Accept-Language": "es"})
                stack.push_async_callback(page.disconnect)
                assert (await page.call("user:connect", bound))["verified"] is ("proof" in bound)
            self.world.start(0, 0)
            await asyncio.to_thread(until, lambda: inside(self.home, "sessions", "--json", **self.given).json())
            beating = asyncio.create_task(self._beat(hook))
            stack.callback(beating.cancel)
            await asyncio.to_thread(post, hook, {"type": "session-ended", "sessionId": 1, "endedBy": "tutor"})
            yield

    def said(self, event: str) -> bool:
        return f'"{event}"' in (self.home / "log").read_text()

    async def question(self) -> dict[str, Any]:
        await until_async(lambda: [one for one in self.nudges if one["kind"] == "ask"], 40)
        return next(one for one in self.nudges if one["kind"] == "ask")

    def explained(self, words: str) -> str:
        return str(until(lambda: words in (said := inside(self.home, "explain", "1", **self.given).out) and said))

    async def _nudged(self, said: dict[str, Any]) -> dict[str, bool]:
        self.nudges.append(said)
        return {"ok": True}

    async def _beat(self, hook: str) -> None:
        while True:
            await asyncio.to_thread(post, hook, {"type": "session-heartbeat", "sessionId": 1})
            await asyncio.sleep(0.3)


async def test_run__end_said_but_heartbeats_go_on__the_page_is_asked_and_its_answer_keeps_the_lesson(
    world: World, tmp_path: Path
) -> None:
    """both are asked; an answer withdraws the hint"""
    asked, student = Asked(world, tmp_path), world.students[0]
    async with asked.by({"address": student, "proof": proof(world, student)}):
        question = await asked.question()
        assert "¿Sigue la clase?" in question["text"]
        assert question["link"].startswith(f"{asked.url}/v/")
        assert question["role"] == "student"
        async with aiohttp.ClientSession() as http, http.post(question["link"]) as answer:
            assert answer.status == 200
        explained = await asyncio.to_thread(asked.explained, "says that the lesson goes on")
        assert "the question whether the lesson goes on by gateway reached" in explained
        [lesson] = inside(tmp_path, "sessions", "--json", **asked.given).json()
    assert lesson["session_id"] == 1
    assert world.is_active(0)


@pytest.mark.provokes("alert.contradiction")
async def test_run__stranger_binds_both_addresses_and_acknowledges__gets_no_link_and_the_silence_ends_nothing(
    world: World, tmp_path: Path
) -> None:
    """a question that was delivered and not answered ends a lesson: who merely knows the addresses can't deliver one"""
    asked = Asked(world, tmp_path, CONTRADICTION_CAP_S=8)
    async with asked.by({"address": world.students[0]}, {"address": world.tutors[0]}):
        question = await asked.question()
        await until_async(lambda: asked.said("alert.contradiction"), 40)
        await asyncio.sleep(6)  # the window, and more
        assert world.is_active(0), "a stranger's acknowledgement ended it"
    assert question["link"] == f"{asked.url}/s/1"
    assert "/v/" not in str(asked.nudges)
    assert not asked.said("nudge.delivered")
