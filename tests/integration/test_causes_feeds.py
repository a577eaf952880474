"""What a running daemon tells of what it hears, by its real cause: a mute signalling server, a mistaken backend."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cli_daemon import running, until
from tests.integration.test_operator_site import Site, site
from tests.support.servers import beside, free_port
from tests.support.signalling import SignallingServer

QUICK = {"DISCONNECT_GRACE_S": 1, "NUDGE_WINDOW_S": 1, "BACKEND_HEAD_START_S": 0}


def log(home: Path) -> str:
    return (home / "log").read_text()


def hook(one: Site) -> str:
    [secret] = until(lambda: list(one.home.glob("*.webhook")))
    return f"http://{one.address}/hook/{secret.read_text().strip()}"


def post(one: Site, kind: str, room: str, **more: Any) -> None:
    said = {"type": kind, "sessionId": room, "timestamp": time.time_ns() // 10**6} | more
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(hook(one), json.dumps(said).encode(), headers), timeout=20
    ) as answer:
        assert answer.status == 200


def knows(one: Site, number: int) -> bool:
    return f'href="/session/{number}"' in one.ask("/").text


@pytest.mark.provokes("alert.uncorroborated")
def test_uncorroborated__only_the_backend_says_that_it_is_over__is_told_and_nothing_is_ended(tmp_path: Path) -> None:
    with site(tmp_path, TRUST_BACKEND_HINTS="corroborated", **QUICK) as one:
        one.world.start(0, 0)
        until(lambda: knows(one, 1))
        post(one, "session-ended", "1", endedBy="student")
        until(lambda: "alert.uncorroborated" in log(tmp_path))
        assert one.world.is_active(0)


@pytest.mark.provokes("alert.canary")
def test_canary__signalling_server_posts_elsewhere__alerts_once_it_was_silent(tmp_path: Path) -> None:
    server = SignallingServer("")
    with beside(server.serving()) as url, site(tmp_path, SIGNALLING_URL=url, FEED_SILENCE_S=3) as one:
        server.backend_url = hook(one)
        until(lambda: "canary.heard" in log(tmp_path) or server.rooms)
        time.sleep(4)  # what it posted until then was heard
        assert "alert.canary" not in log(tmp_path)
        server.backend_url = f"http://127.0.0.1:{free_port()}/elsewhere"
        until(lambda: "alert.canary" in log(tmp_path))


@pytest.mark.provokes("alert.mass-end")
def test_mass_end__backend_says_that_all_lessons_are_over__most_are_held_and_one_alert_comes(tmp_path: Path) -> None:
    """up to MASS_END_COUNT ends that fall due before the rest may"""
    with site(tmp_path, students=1, tutors=6, MASS_END_COUNT=2, **QUICK) as one:
        for number in range(6):
            one.world.start(0, number)
        until(lambda: knows(one, 6))
        for number in range(1, 7):
            post(one, "session-ended", str(number), endedBy="student")
        until(lambda: "alert.mass-end" in log(tmp_path))
        time.sleep(4)  # long after each would have been due
        assert sum(one.world.is_active(number) for number in range(6)) >= 4
        assert log(tmp_path).count('"event": "alert.mass-end"') == 1


@pytest.mark.provokes("alert.backend-limit")
def test_backend_limit__more_rooms_than_it_takes_posts_for__alerts(tmp_path: Path) -> None:
    backend = f"127.0.0.1:{free_port()}"
    with running(tmp_path, "gateway", GATEWAY_TOKEN="a-token-to-share", GATEWAY_BIND=backend):
        more = {"BACKEND_EVENTS_URL": f"http://{backend}", "BACKEND_POSTS_PER_MINUTE": 4}  # good for six rooms
        with site(tmp_path, students=1, tutors=7, **more) as one:
            for number in range(7):
                one.world.start(0, number)
            until(lambda: knows(one, 7))
            for number in range(1, 8):
                post(one, "session-heartbeat", str(number))
            until(lambda: "alert.backend-limit" in log(tmp_path))
