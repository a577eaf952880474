"""`langdao-keeper index` as a person runs it: on a terminal, interrupted, with a node that goes away, with slips."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.ops import indexing
from tests.support.anvil import World, langdao
from tests.support.index import assert_equals_a_fresh_index, index
from tests.support.proxy import DROP, Proxy, relay
from tests.support.record import environment, inside
from tests.support.servers import free_port


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Lessons on a chain of several pages, final but for its end."""
    with langdao() as one:
        one.start(0, 0)
        one.end(0)
        one.node.mine(700)
        one.start(1, 1)
        one.end(1)
        one.node.mine(700)
        yield one


@pytest.fixture
def slow(world: World) -> Iterator[Proxy]:
    """A node that takes its time for logs."""
    with relay(world.node.url) as proxy:
        proxy.before = lambda body: asyncio.sleep(0.4) if is_page(body) else None
        yield proxy


def is_page(body: Any) -> bool:
    return isinstance(body, dict) and body["method"] == "eth_getLogs" and "fromBlock" in body["params"][0]


def settings(world: World, home: Path, url: str, **more: Any) -> dict[str, Any]:
    given = {"RPC_URL": url, "CONTRACT_ADDRESS": world.contract, "DATABASE_URL": f"sqlite:///{home}/a.db"}
    return given | {"START_BLOCK": world.deploy_block} | more


def command(home: Path, *args: str, **given: Any) -> list[Any]:
    return [[sys.executable, "-m", "bot.cli", *args], {"env": environment(home, **given), "cwd": home}]


def on_a_terminal(home: Path, act: Callable[[str, subprocess.Popen[bytes]], None], **given: Any) -> tuple[int, str]:
    """Runs `index` with its messages on a terminal; `act` is called with what is there each time something comes."""
    ours, theirs = pty.openpty()
    arguments, options = command(home, "index", **given)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=theirs, **options)
    os.close(theirs)
    seen = ""
    try:
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            seen += more.decode()
            act(seen, process)
        return process.wait(30), seen
    finally:
        os.close(ours)
        process.kill()


PROGRESS = re.compile(
    r"\r\x1b\[Kblock (\d+) of (\d+), \d+ logs, \d+ a second, \d+ s left, waits for the (node|disk)(?=\r|$)"
)


def test_index__on_a_terminal__draws_one_line_anew_with_rate_time_left_and_what_it_waits_for(
    world: World, slow: Proxy, tmp_path: Path
) -> None:
    """progress with rate and time left on a terminal and whether it waits for the node or the disk"""
    code, seen = on_a_terminal(tmp_path, lambda *_: None, **settings(world, tmp_path, slow.url))
    assert code == 0
    drawn = PROGRESS.findall(seen)
    assert len(drawn) >= 3
    assert [int(block) for block, _, _ in drawn] == sorted({int(block) for block, _, _ in drawn})
    assert {what for _, _, what in drawn} == {"node"}, "the node is what is slow"
    assert "\n" not in seen.rstrip(), "each state on a line of its own"
    assert seen.endswith("\r\x1b[K"), "the last line is left standing beside the result"


async def test_index__interrupted_by_ctrl_c__exits_130_and_resumes(world: World, slow: Proxy, tmp_path: Path) -> None:
    """resumable at any moment"""

    interrupted: list[str] = []

    def interrupt(seen: str, process: subprocess.Popen[bytes]) -> None:
        if len(PROGRESS.findall(seen)) >= 2 and not interrupted:
            slow.before = lambda body: asyncio.sleep(30) if is_page(body) else None  # no end before the interrupt
            interrupted.append(seen)
            process.send_signal(signal.SIGINT)

    given = settings(world, tmp_path, slow.url)
    code, seen = await asyncio.to_thread(on_a_terminal, tmp_path, interrupt, **given)
    slow.before = lambda body: None
    assert code == 130
    assert "Traceback" not in seen
    async with index(world, tmp_path / "a.db") as one:
        held = one.rows("blocks", "1")
        assert held, "nothing was committed before the interrupt"
        assert held[-1]["number"] < world.node.number() - 100, "it was over before the interrupt"
    done = await asyncio.to_thread(inside, tmp_path, "index", "--json", **given)
    assert done.code == 0
    async with index(world, tmp_path / "a.db") as again:
        await again.follower.catch_up()
        await assert_equals_a_fresh_index(again, world, tmp_path / "fresh.db")


async def test_index__node_goes_away_in_the_middle__says_that_it_waits_and_finishes(
    world: World, slow: Proxy, tmp_path: Path
) -> None:
    """a node in trouble is waited for"""
    gone_since: list[float] = []

    def cut(seen: str, _: Any) -> None:
        if PROGRESS.search(seen) and not gone_since:
            gone_since.append(time.monotonic())
            slow.before = lambda body: DROP
        elif "waits for the node, " in seen:
            slow.before = lambda body: None

    given = settings(world, tmp_path, slow.url)
    code, seen = await asyncio.to_thread(on_a_terminal, tmp_path, cut, **given)
    assert gone_since
    assert re.search(r"waits for the node, \d\.\d s: http://127\.0\.0\.1:\d+: connection closed", seen)
    assert code == 0
    async with index(world, tmp_path / "a.db") as one:
        await one.follower.catch_up()
        await assert_equals_a_fresh_index(one, world, tmp_path / "fresh.db")


def test_index__node_stays_away__exits_2_names_the_setting_and_keeps_what_there_is(
    world: World, slow: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "GIVE_UP_S", 1.0)
    asked = 0

    def gone_after_two(body: Any) -> Any:
        nonlocal asked
        asked += is_page(body)
        return DROP if asked > 2 else None

    slow.before = gone_after_two
    done = inside(tmp_path, "index", "--json", **settings(world, tmp_path, slow.url))
    assert done.code == 2
    assert "RPC_URL: no usable answer from http://127.0.0.1" in done.json()["error"]
    slow.before = lambda body: None
    again = inside(tmp_path, "index", "--json", **settings(world, tmp_path, slow.url))
    assert again.code == 0
    assert again.json()["new_logs"] < again.json()["logs"], "what was committed before was read anew"


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        ({"CONTRACT_ADDRESS": "0x1234"}, "CONTRACT_ADDRESS"),
        ({"CONTRACT_ADDRESS": "0x" + "ab" * 20}, "CONTRACT_ADDRESS: no code at"),
        ({"CONTRACT_ADDRESS": ""}, "CONTRACT_ADDRESS"),
        ({"RPC_URL": ""}, "RPC_URL"),
        ({"RPC_URL": "ftp://127.0.0.1"}, "RPC_URL"),
        ({"RPC_URL": f"http://127.0.0.1:{free_port()}", "START_TIMEOUT_S": 1}, "RPC_URL"),
        ({"START_BLOCK": 10_000_000}, "START_BLOCK"),
    ],
)
def test_index__a_slip_in_a_setting__exits_2_and_names_it_in_one_line(
    world: World, tmp_path: Path, slip: dict[str, Any], words: str
) -> None:
    given = settings(world, tmp_path, world.node.url) | slip
    done = inside(tmp_path, "index", **given)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""
    said = inside(tmp_path, "index", "--json", **given)
    assert (said.code, words in said.json()["error"]) == (2, True)


def test_index__database_of_another_contract__is_refused_and_left_alone(world: World, tmp_path: Path) -> None:
    given = settings(world, tmp_path, world.node.url)
    assert inside(tmp_path, "index", **given).code == 0
    another, block = world.deploy("LangDAO.vy", ["address"], [world.token])
    other = given | {"CONTRACT_ADDRESS": another, "START_BLOCK": block}
    done = inside(tmp_path, "index", **other)
    assert done.code == 2
    assert world.contract in done.err
    assert inside(tmp_path, "index", "--json", **given).json()["new_logs"] == 0
