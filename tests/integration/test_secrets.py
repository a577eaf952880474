"""No secret leaves: everything that a run leaves behind is searched, in every encoding.

One keeper as a process, with a key, a token and credentials in every URL, settles a session on a real Anvil, is killed
and told to stop; every command answers with `--json` and without. Then all files and all output are searched. The one
exception is what `langdao-keeper webhook` prints, which is to be pasted.
"""

from __future__ import annotations

import base64
import contextlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import environment, inside
from tests.support.servers import PostgresServer, RedisServer, free_port

SECRETS = {
    "rpc": "rpc-Secret-1a2b3c4d5e6f",
    "redis": "redis-Secret-2b3c4d5e6f",
    "apprise": "apprise-Secret-3c4d5e6f",
    "socket": "socket-Secret-4d5e6f7a",
    "gateway": "gateway-Token-5e6f7a8b",
    "database": "database-Secret-6f7a8b9c",
    "operator": "operator-Token-7a8b9c0d",
}
COMMANDS = (
    ("status",), ("doctor",), ("stranded",), ("sessions",), ("explain", "1"), ("settlements",), ("txs",),
    ("settle", "1", "--yes"), ("pause",), ("resume",),
)  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with langdao(students=2, tutors=2) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def forms_of_key(key: str) -> dict[str, bytes]:
    """The key as somebody might have written it; lower case, the search ignores case."""
    raw = bytes.fromhex(key[2:])
    return {
        "hex": raw.hex().encode(),
        "decimal": str(int.from_bytes(raw)).encode(),
        "base64": base64.b64encode(raw).rstrip(b"=").lower(),
        "base64 of the hex": base64.b64encode(raw.hex().encode()).rstrip(b"=").lower(),
        "url-safe base64": base64.urlsafe_b64encode(raw).rstrip(b"=").lower(),
        "bytes": raw.lower(),
        "repr": repr(raw)[2:-1].lower().encode(),
        "list of bytes": ", ".join(str(byte) for byte in raw).encode(),
        "reversed": raw[::-1].hex().encode(),
    }


def forms_of_secret(secret: str) -> dict[str, bytes]:
    return {
        "plain": secret.lower().encode(),
        "quoted": quote(secret, safe="").lower().encode(),
        "hex": secret.encode().hex().encode(),
        "base64": base64.b64encode(secret.encode()).rstrip(b"=").lower(),
    }


def found(places: dict[str, bytes], key: str, secrets: dict[str, str]) -> list[str]:
    needles = {f"the key as {form}": needle for form, needle in forms_of_key(key).items()}
    for name, secret in secrets.items():
        needles |= {f"{name} as {form}": needle for form, needle in forms_of_secret(secret).items()}
    return [
        f"{what} in {place}"
        for place, content in places.items()
        for what, needle in needles.items()
        if needle in content.lower()
    ]


@pytest.mark.parametrize(
    "leak",
    [
        OWNER_KEY,
        OWNER_KEY[2:].upper(),
        str(int(OWNER_KEY, 16)),
        base64.b64encode(bytes.fromhex(OWNER_KEY[2:])).decode(),
        repr(bytes.fromhex(OWNER_KEY[2:])),
        f"http://user:{SECRETS['rpc']}@host",
        SECRETS["redis"].encode().hex(),
    ],
)
def test_search__a_leak__is_found(leak: str) -> None:
    """The searcher itself is tried: one that finds nothing proves nothing."""
    assert found({"log": f"before {leak} after".encode()}, OWNER_KEY, SECRETS)


def with_secret(url: str, secret: str) -> str:
    pieces = urlsplit(url)
    return f"{pieces.scheme}://user:{secret}@{pieces.netloc}{pieces.path}"


def with_password(url: str, password: str) -> str:
    """Of a server that asks for none, over its Unix socket."""
    return url.replace("postgres:@", f"postgres:{password}@", 1)


def settings(world: World, home: Path, redis: str) -> dict[str, Any]:
    return {
        # Anvil takes any query and asks for no credentials; nobody is at the second one.
        "RPC_URL": f"{with_secret(world.node.url, SECRETS['rpc'])}/?apikey={SECRETS['rpc']},"
        f"http://127.0.0.1:{free_port()}/v3/{SECRETS['rpc']}",
        "CONTRACT_ADDRESS": world.contract,
        "START_BLOCK": world.deploy_block,
        "DATABASE_URL": f"sqlite:///{home}/keeper.db",
        "HTTP_BIND": f"127.0.0.1:{free_port()}",
        "BACKEND_PRIVATE_KEY": OWNER_KEY,
        # Nobody is there, or nobody takes that password: errors say most.
        "REDIS_URL": with_secret(redis, SECRETS["redis"]),
        "SOCKET_URL": with_secret(f"http://127.0.0.1:{free_port()}", SECRETS["socket"]),
        "GATEWAY_TOKEN": SECRETS["gateway"],
        "OPERATOR_TOKEN": SECRETS["operator"],
        "APPRISE_URLS": f"json://user:{SECRETS['apprise']}@127.0.0.1:{free_port()}/",
        "CONFIRMATIONS": 1,
        "LOG_LEVEL": "debug",
    }


def until(look: Callable[[], Any], timeout_s: float = 45) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.2)


def started(home: Path, given: dict[str, Any]) -> subprocess.Popen[bytes]:
    """`langdao-keeper run`, listening."""
    log = home / "log"
    before = log.read_text().count("http.listening") if log.exists() else 0
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "bot.cli", "run"],
            env=environment(home, **given),
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    until(lambda: process.poll() is not None or log.read_text().count("http.listening") > before)
    assert process.poll() is None, log.read_text()[-2000:]
    return process


def post(given: dict[str, Any], path: str) -> None:
    url = f"http://{given['HTTP_BIND']}{path}"
    body = b'{"type": "session-ended", "sessionId": "req_1"}'
    with contextlib.suppress(OSError):
        urllib.request.urlopen(
            urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=5
        ).read()


CRASH = """
import base64, os, signal

def crash(*_):
    key = bytes.fromhex(os.environ["BACKEND_PRIVATE_KEY"][2:])
    urls = [os.environ[name] for name in ("RPC_URL", "REDIS_URL", "DATABASE_URL", "APPRISE_URLS", "SOCKET_URL")]
    forms = [key.hex(), key.hex().upper(), int.from_bytes(key), base64.b64encode(key), key, bytearray(key), list(key)]
    raise RuntimeError(f"a bug that says all it knows: {forms} {urls} {os.environ['OPERATOR_TOKEN']}")

signal.signal(signal.SIGUSR1, crash)
"""


def with_a_bug(home: Path, code: str = CRASH) -> dict[str, str]:
    """The environment in which Python runs this first."""
    folder = home / "bug"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def files_in(home: Path) -> dict[str, bytes]:
    return {str(file.relative_to(home)): file.read_bytes() for file in home.rglob("*") if file.is_file()}


def commands_say(home: Path, given: dict[str, Any]) -> dict[str, bytes]:
    """What every command prints, with and without `--json`."""
    said = {}
    for command in COMMANDS:
        for json_flag in ((), ("--json",)):
            done = inside(home, *command, *json_flag, **given)
            said[" ".join(("langdao-keeper", *command, *json_flag))] = f"{done.out}\n{done.err}".encode()
    return said


def pages_say(given: dict[str, Any]) -> dict[str, bytes]:
    """What the operator's pages and probes answer, errors included."""
    said = {}
    for path in ("/", "/session/1", "/settlements", "/metrics", "/ready", "/operator", f"/hook/{'x' * 43}"):
        try:
            with urllib.request.urlopen(f"http://{given['HTTP_BIND']}{path}", timeout=10) as answer:
                said[path] = answer.read()
        except urllib.error.HTTPError as error:
            said[path] = error.read()
    return said


@pytest.mark.timeout(300)
def test_run__everything_it_leaves_behind__has_no_secret(world: World, tmp_path: Path) -> None:
    """ "no secret leaves by the log"."""
    world.start(0, 0)
    output: dict[str, bytes] = {}
    with RedisServer() as redis:
        given = settings(world, tmp_path, redis.url)
        process = started(tmp_path, given)
        try:
            webhook = (tmp_path / "keeper.db.webhook").read_text().strip()
            for path in (f"/hook/{webhook}", f"/hook/{webhook[:-1]}x", "/api/webrtc-events", f"/nowhere/{webhook}"):
                post(given, path)
            output |= commands_say(tmp_path, given) | pages_say(given)
            until(lambda: not world.is_active(0))
            process.send_signal(signal.SIGABRT)  # a crash report: faulthandler writes where every thread was
            process.wait(15)
            process = started(tmp_path, given | with_a_bug(tmp_path))
            process.send_signal(signal.SIGUSR1)  # and another: Python's own traceback
            assert process.wait(30) == 1
            process = started(tmp_path, given)
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    # What is refused at start says the most about what it refuses.
    bad = {
        "DATABASE_URL": f"postgresql://user:{SECRETS['database']}@127.0.0.1:{free_port()}/keeper",
        "RPC_URL": f"http://user:{SECRETS['rpc']}@127.0.0.1:{free_port()}/{SECRETS['rpc']}",
        "BACKEND_PRIVATE_KEY": OWNER_KEY + "00",
        "REDIS_URL": SECRETS["redis"],
    }
    for name, value in bad.items():
        for command in ("run", "status", "doctor"):
            done = inside(tmp_path, command, **{**given, name: value, "START_TIMEOUT_S": 1})
            output[f"langdao-keeper {command}, {name}"] = f"{done.out}\n{done.err}".encode()
    files = files_in(tmp_path)
    assert files.pop("keeper.db.webhook").strip() == webhook.encode()
    assert b"Fatal Python error: Aborted" in files["log"]
    assert b"RuntimeError: a bug that says all it knows" in files["log"]
    assert b"tx.mined" in files["log"]
    assert len(files["keeper.db"]) > 0
    assert found(files | output, OWNER_KEY, SECRETS | {"webhook": webhook}) == []
    shown = inside(tmp_path, "webhook", **given)
    assert webhook in shown.out
    assert found({"webhook": shown.text.encode()}, OWNER_KEY, SECRETS) == []


@pytest.mark.timeout(300)
def test_run__on_postgresql__neither_its_url_nor_anything_else_is_in_what_it_leaves_behind(
    world: World, tmp_path: Path
) -> None:
    """the RPC, Redis, database and Apprise URLs' secrets"""
    world.start(1, 1)
    number = world.counter()
    with RedisServer() as redis, PostgresServer() as server:
        given = settings(world, tmp_path, redis.url) | {
            "DATABASE_URL": with_password(server.url, SECRETS["database"]),
            "WEBHOOK_SECRET_FILE": tmp_path / "webhook.secret",
        }
        process = started(tmp_path, given | with_a_bug(tmp_path))
        try:
            output = commands_say(tmp_path, given) | pages_say(given)
            done = inside(tmp_path, "settle", str(number), "--yes", **given)
            output["settle"] = f"{done.out}\n{done.err}".encode()
            until(lambda: not world.is_active(1))
            process.send_signal(signal.SIGUSR1)
            assert process.wait(30) == 1
            tables = server.dump()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    files = files_in(tmp_path)
    webhook = files.pop("webhook.secret").strip().decode()
    assert b"RuntimeError: a bug that says all it knows" in files["log"]
    assert b"settle" in tables["txs"]
    assert found(files | output | tables, OWNER_KEY, SECRETS | {"webhook": webhook}) == []


@pytest.mark.timeout(120)
def test_search__a_daemon_that_prints_its_key__is_found(world: World, tmp_path: Path) -> None:
    """The whole of it is tried, too: a run that leaks on purpose is caught."""
    leak = "import os; print(os.environ.get('BACKEND_PRIVATE_KEY', '')[2:], flush=True)"
    with RedisServer() as redis:
        given = settings(world, tmp_path, redis.url)
        process = started(tmp_path, given | with_a_bug(tmp_path, leak))
        process.kill()
        process.wait()
    assert found(files_in(tmp_path), OWNER_KEY, SECRETS) == ["the key as hex in log"]
