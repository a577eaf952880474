"""The commands beside a real daemon on a real chain, and the bundled backend as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import environment, inside
from tests.support.servers import free_port


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=2, tutors=2) as one:
        one.node.rpc("evm_setIntervalMining", 1)  # beside mining at once: blocks come while nothing happens
        yield one


def settings(world: World, home: Path, **more: Any) -> dict[str, Any]:
    return {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "DATABASE_URL": f"sqlite:///{home}/keeper.db",
        "HTTP_BIND": f"127.0.0.1:{free_port()}",
        "CONFIRMATIONS": 1,
    } | more


@contextmanager
def running(home: Path, *args: str, before: Sequence[str] = (), **given: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that stays, killed at the end if it hasn't ended. `before`: words to put before it."""
    with (home / "log").open("a") as log:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "bot.cli", *args],
            env=environment(home, **given),
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(look: Callable[[], Any], timeout_s: float = 45) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s} s")


def test_settle__beside_a_daemon__is_ended_by_it_and_explained(world: World, tmp_path: Path) -> None:
    world.start(0, 0)
    until(lambda: world.is_active(0))
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY)
    with running(tmp_path, "run", **given) as daemon:

        def followed() -> bool:
            return inside(tmp_path, "sessions", "--json", **given).out.startswith("[\n")

        until(followed)
        said = until(lambda: inside(tmp_path, "status", "--json", **given).json().get("daemon"))
        assert said["pid"] == daemon.pid
        done = inside(tmp_path, "settle", "1", "--yes", "--wait", "--json", **given)
        assert done.code == 0, done.text
        assert not world.is_active(0)
        told = inside(tmp_path, "explain", "1", "--json", **given).json()
        assert {"request", "fact", "decision", "action", "tx", "chain"} <= {one["what"] for one in told["timeline"]}
        [row] = inside(tmp_path, "settlements", "--json", **given).json()
        assert (row["session_id"], row["tx_hash"]) == (1, done.json()["settlement"]["tx_hash"])
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
    assert OWNER_KEY[2:] not in (tmp_path / "log").read_text()


def test_run__second_one_on_the_database__exits_2_and_names_the_pid(world: World, tmp_path: Path) -> None:
    given = settings(world, tmp_path)
    with running(tmp_path, "run", **given) as daemon:
        until(lambda: inside(tmp_path, "status", "--json", **given).code == 0)
        with running(tmp_path, "run", **given) as second:
            assert second.wait(30) == 2
    assert f"pid {daemon.pid}" in (tmp_path / "log").read_text()


def test_run__dry_run__says_in_its_first_line_that_it_only_watches(world: World, tmp_path: Path) -> None:
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY)
    with running(tmp_path, "run", "--dry-run", **given):
        first = until(lambda: (tmp_path / "log").read_text().splitlines())[0]
    assert "--dry-run" in first
    assert "nothing will be signed" in first


def test_settle__no_daemon__is_ended_by_the_command_itself(world: World, tmp_path: Path) -> None:
    world.start(0, 0)
    until(lambda: world.is_active(0))
    done = inside(
        tmp_path, "settle", "1", "--yes", "--json", **settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY)
    )
    assert done.code == 0, done.text
    assert done.json()["outcome"] == "settled"
    assert not world.is_active(0)


def test_settle__unknown_session__exits_1(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "settle", "99", "--yes", **settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY))
    assert done.code == 1
    assert "no session 99" in done.err


def test_gateway__token_given__serves_until_told_to_stop(tmp_path: Path) -> None:
    port = free_port()
    given = {"GATEWAY_TOKEN": "a-token-to-share", "GATEWAY_BIND": f"127.0.0.1:{port}"}

    def answers() -> bool:
        try:
            url = f"http://127.0.0.1:{port}/socket.io/?EIO=4&transport=polling"
            return urllib.request.urlopen(url, timeout=2).read().startswith(b"0{")
        except OSError:
            return False

    with running(tmp_path, "gateway", **given) as process:
        until(answers)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    [secret] = tmp_path.rglob("gateway-webhook.secret")
    assert secret.stat().st_mode & 0o077 == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "a-token-to-share" not in log
    assert secret.read_text().strip() not in log


@pytest.mark.parametrize(("proxies", "sixth"), [({}, 429), ({"TRUSTED_PROXIES": "127.0.0.1"}, 404)])
def test_gateway__requests_forwarded_for_others__count_for_these_if_the_proxy_is_named(
    tmp_path: Path, proxies: dict[str, str], sixth: int
) -> None:
    """whom X-Forwarded-For names is believed of the given proxies alone, and of loopback only if it is one of them"""
    bind = f"127.0.0.1:{free_port()}"
    given = {"GATEWAY_TOKEN": "a-token-to-share", "GATEWAY_BIND": bind, "GATEWAY_REQUESTS_PER_MINUTE": 5}

    def status(number: int) -> int | None:
        named = {"X-Forwarded-For": f"198.51.100.{number}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://{bind}/nothing/here", headers=named)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    with running(tmp_path, "gateway", **given, **proxies):
        assert until(lambda: status(0)) == 404
        assert [status(number) for number in range(1, 6)] == [404] * 4 + [sixth]
