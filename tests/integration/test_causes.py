"""Alerts and reasons that a daemon gives, each by its real cause: a paused token, a signer gone, a dead node."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bot.ops.readiness import HEAD_OLD_MS, LAG_BLOCKS, Readiness
from tests.integration.test_cli_daemon import OWNER_KEY, until
from tests.integration.test_keys import ANVIL_CHAIN, OWNER, beside
from tests.integration.test_operator_site import TOKEN, Site, reasons, site
from tests.support.anvil import langdao
from tests.support.index import index
from tests.support.proxy import Proxy
from tests.support.record import inside
from tests.support.web3signer import Web3Signer


def log(home: Path) -> str:
    return (home / "log").read_text()


def settle(one: Site, number: int) -> None:
    said = one.ask("/act/settle", {"session_id": number}, Authorization=f"Bearer {TOKEN}")
    assert said.code == 200, said.text


@pytest.mark.provokes("alert.set-aside")
def test_set_aside__token_is_paused__is_told_and_ended_when_it_isnt_any_more(tmp_path: Path) -> None:
    with site(tmp_path, OPERATOR_TOKEN=TOKEN, MAX_ATTEMPTS=1, PROBE_EVERY_S=1) as one:
        one.world.start(0, 0)
        until(lambda: 'href="/session/1"' in one.ask("/").text)
        one.world.do(one.world.owner, "pause()", to=one.world.token)
        settle(one, 1)
        until(lambda: "alert.set-aside" in log(tmp_path))
        assert one.world.is_active(0)
        one.world.do(one.world.owner, "unpause()", to=one.world.token)
        until(lambda: not one.world.is_active(0))


@pytest.mark.provokes("alert.key", "ready.key")
def test_key__remote_signer_gone__isnt_ready_alerts_and_signs_when_it_is_back(tmp_path: Path) -> None:
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    with beside(signer) as url:
        given = {"REMOTE_SIGNER_URL": url, "REMOTE_SIGNER_ADDRESS": OWNER, "BACKEND_PRIVATE_KEY": ""}
        with site(tmp_path, OPERATOR_TOKEN=TOKEN, ALERT_PATIENCE_S=1, **given) as one:
            one.world.start(0, 0)
            until(lambda: 'href="/session/1"' in one.ask("/").text)
            sign, signer.sign = signer.sign, _refuse  # type: ignore[method-assign]
            settle(one, 1)
            until(lambda: "key" in reasons(one))
            until(lambda: "alert.key" in log(tmp_path))
            signer.sign = sign  # type: ignore[method-assign]
            until(lambda: not one.world.is_active(0))
            until(lambda: reasons(one) == set())


def _refuse(asked: dict[str, Any]) -> str:
    raise RuntimeError("the HSM is locked")


@pytest.mark.provokes("alert.head")
def test_head__node_gone__alerts_once_it_lasted(tmp_path: Path) -> None:
    with site(tmp_path, ALERT_PATIENCE_S=1) as one:
        until(lambda: reasons(one) == set())
        one.world.node.process.kill()
        until(lambda: "alert.head" in log(tmp_path))


@pytest.mark.provokes("alert.uncorroborated")
def test_uncorroborated__only_the_backend_says_that_it_is_over__is_told_and_nothing_is_ended(tmp_path: Path) -> None:
    quick = {"DISCONNECT_GRACE_S": 1, "NUDGE_WINDOW_S": 1, "BACKEND_HEAD_START_S": 0}
    with site(tmp_path, TRUST_BACKEND_HINTS="corroborated", **quick) as one:
        one.world.start(0, 0)
        until(lambda: 'href="/session/1"' in one.ask("/").text)
        secret = next(tmp_path.glob("*.webhook")).read_text().strip()
        said = {"type": "session-ended", "sessionId": "1", "endedBy": "student", "timestamp": time.time_ns() // 10**6}
        request = urllib.request.Request(
            f"http://{one.address}/hook/{secret}", json.dumps(said).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        until(lambda: "alert.uncorroborated" in log(tmp_path))
        assert one.world.is_active(0)


@pytest.mark.provokes("alert.stopped", "alert.test")
@pytest.mark.parametrize("kind", ["stopped", "test"])
def test_alert__called_for_by_the_service_manager_or_a_person__arrives(tmp_path: Path, kind: str) -> None:
    heard: list[str] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = inside(tmp_path, "alert", f"--{kind}", APPRISE_URLS=f"json://127.0.0.1:{server.server_port}/")
    finally:
        server.shutdown()
    assert done.code == 0, done.text
    assert f"alert.{kind}" in heard[0]


def ready(one: Any, clock_ms: Callable[[], int]) -> Readiness:
    return Readiness(
        one.follower,
        _NoFeeds(),  # type: ignore[arg-type]
        min_balance_wei=0,
        written_ms=clock_ms,
        trouble=lambda: None,
        clock_ms=clock_ms,
    )


def named(readiness: Readiness) -> set[str]:
    return {reason.name for reason in readiness.reasons()}


@pytest.mark.provokes("ready.log-lag", "ready.head-old")
async def test_readiness__no_block_for_minutes_then_many_at_once__says_each_until_it_is_over(
    tmp_path: Path,
) -> None:
    now_ms = [time.time_ns() // 10**6]
    with langdao(students=1, tutors=1) as world:
        async with index(world, tmp_path / "a.db") as one:
            readiness = ready(one, lambda: now_ms[0])
            world.node.mine(100)
            await one.follower.catch_up()
            assert named(readiness) == set()
            now_ms[0] = time.time_ns() // 10**6 + HEAD_OLD_MS + 1_000  # and no block came
            assert named(readiness) == {"head-old"}
            now_ms[0] = time.time_ns() // 10**6
            world.node.mine(LAG_BLOCKS + 1)
            one.follower._node_head = world.node.number()  # as the first request of a pass finds it
            assert named(readiness) == {"log-lag"}
            await one.follower.catch_up()
            assert named(readiness) == set()


@pytest.mark.provokes("ready.finality")
async def test_readiness__final_blocks_taken_back__says_finality(tmp_path: Path) -> None:
    with langdao(students=1, tutors=1) as world, langdao(students=1, tutors=1) as other:
        world.node.mine(100)
        other.node.rpc("anvil_setCoinbase", "0x" + "c1" * 20)  # made in the same second, the two would be one chain
        other.node.mine(200)
        async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
            readiness = ready(one, lambda: time.time_ns() // 10**6)
            await one.follower.catch_up()
            assert named(readiness) == set()
            proxy.node_url = other.node.url
            for _ in range(3):
                await one.follower.catch_up()
            assert "finality" in named(readiness)


class _NoFeeds:
    class feeds:
        @staticmethod
        def up(name: str, now_ms: int) -> bool:
            return True
