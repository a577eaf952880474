"""The status page, the probes and what may be done over HTTP, on a real daemon."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot import values
from bot.web.operator import Hosts
from tests.integration.test_cli_daemon import running, settings, until
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.servers import free_port, taking_all

TOKEN = "correct-horse-battery"


@dataclass
class Answer:
    code: int
    text: str
    headers: Any

    def json(self) -> Any:
        return json.loads(self.text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass
class Site:
    """A running keeper's HTTP side."""

    address: str
    world: World
    home: Path

    def ask(self, path: str, form: dict[str, Any] | None = None, **headers: str) -> Answer:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.address}{path}", data, named)
        try:
            with OPENER.open(request, timeout=20) as reply:
                return Answer(reply.status, reply.read().decode(), reply.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(), error.headers)

    def up(self) -> bool:
        try:
            return self.ask("/health").code == 200
        except OSError:
            return False


@contextmanager
def site(home: Path, students: int = 2, tutors: int = 2, **more: Any) -> Iterator[Site]:
    with langdao(students=students, tutors=tutors) as world:
        world.node.rpc("evm_setIntervalMining", 1)
        given = settings(world, home, **({"BACKEND_PRIVATE_KEY": OWNER_KEY} | more))
        with running(home, "run", **given):
            one = Site(given["HTTP_BIND"], world, home)
            until(one.up)
            yield one


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("open"), OPERATOR_TOKEN=TOKEN) as one:
        yield one


# Reading -------------------------------------------------------------------------------------------------------------


def test_probes__keeper_at_work__lives_is_ready_and_counts(open_site: Site) -> None:
    assert open_site.ask("/health").json() == {"ok": True}
    assert until(lambda: open_site.ask("/ready").code == 200)
    assert open_site.ask("/ready").json() == {"ready": True, "reasons": []}
    metrics = open_site.ask("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert re.search(r"^langdao_keeper_head_block [1-9]", metrics.text, re.MULTILINE)
    assert re.search(r'rpc_requests_total\{endpoint="[^"]+",method="\w+",result="ok"\} [1-9]', metrics.text)


def test_status_page__session_active__shows_it_with_its_cost_and_loads_nothing_from_elsewhere(open_site: Site) -> None:
    """reading needs no token and changes nothing. The pages work without JavaScript, load nothing from elsewhere and
    refresh themselves."""
    open_site.world.start(0, 0)
    page = until(lambda: found if 'href="/session/1"' in (found := open_site.ask("/")).text else None)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert not re.search(r'(?:src|href|action)="(?!/)', page.text)
    assert "PYUSD" in page.text
    told = open_site.ask("/session/1")
    assert "the session started" in told.text
    assert open_site.ask("/session/none-such").code == 404
    assert open_site.ask("/settlements").code == 200


def test_status_page__hostile_room_name__is_text(open_site: Site) -> None:
    answer = open_site.ask("/session/" + urllib.parse.quote("<script>alert(1)</script>", safe=""))
    assert answer.code == 404
    assert "<script>" not in answer.text


# Acting --------------------------------------------------------------------------------------------------------------


def test_act__without_the_token__is_refused_and_changes_nothing(open_site: Site) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong-1"}, {"Cookie": "keeper_operator=9999999999.00"}):
        assert open_site.ask("/act/pause", {}, **headers).code == 401
    assert "Paused" not in open_site.ask("/").text


def test_act__form_of_another_site__is_refused(open_site: Site) -> None:
    """A request that another site caused is refused. The token is … never stored in a browser: what the cookie holds
    is a time until which it is good, sealed with the token."""
    entered = open_site.ask("/operator", {"token": TOKEN})
    cookie = entered.headers["Set-Cookie"]
    assert entered.code == 303
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    mine = {"Cookie": cookie.partition(";")[0]}
    assert open_site.ask("/act/pause", {}, **mine, Sec_Fetch_Site="cross-site").code == 403
    assert open_site.ask("/act/pause", {}, **mine, Origin="http://elsewhere.example").code == 403


def test_act__pause_and_resume_with_the_cookie__take_effect_and_show(open_site: Site) -> None:
    cookie = open_site.ask("/operator", {"token": TOKEN}).headers["Set-Cookie"].partition(";")[0]
    page = {"Cookie": cookie, "Accept": "text/html"}
    assert open_site.ask("/act/pause", {}, **page).code == 303
    assert "Paused" in open_site.ask("/").text
    assert open_site.ask("/act/settle", {"session_id": "1"}, **page).code == 409  # it says why on a page
    assert open_site.ask("/act/resume", {}, **page).code == 303
    assert "Paused" not in open_site.ask("/").text


def test_act__settle_with_a_bearer_token__ends_the_session_on_chain(open_site: Site) -> None:
    """comes from a page of ours or with a bearer token, and goes the way of the command line: through the daemon's
    inbox, so that it is recorded."""
    open_site.world.start(1, 1)
    number = open_site.world.counter()
    until(lambda: f'href="/session/{number}"' in open_site.ask("/").text)
    said = open_site.ask("/act/settle", {"session_id": number}, Authorization=f"Bearer {TOKEN}")
    assert (said.code, said.json()["ok"]) == (200, True)
    until(lambda: not open_site.world.is_active(1))

    steps = r"langdao_keeper_due_to_broadcast_seconds_count (\S+)"
    until(lambda: float(re.findall(steps, open_site.ask("/metrics").text)[0]) >= 1)


@pytest.mark.parametrize("number", ["0x1", "-1", "1" * 40, "٣"])
def test_act__session_id_that_is_none__is_a_problem(open_site: Site, number: str) -> None:
    said = open_site.ask("/act/settle", {"session_id": number}, Authorization=f"Bearer {TOKEN}")
    assert (said.code, said.json()["reason"]) == (400, "malformed")


def test_act__unknown_kind__is_a_problem(open_site: Site) -> None:
    said = open_site.ask("/act/withdraw", {}, Authorization=f"Bearer {TOKEN}")
    assert (said.code, said.headers["Content-Type"]) == (404, "application/problem+json")


def test_operator__too_many_tries__has_to_wait(tmp_path: Path) -> None:
    with site(tmp_path, OPERATOR_TOKEN=TOKEN) as one:
        codes = [one.ask("/operator", {"token": "x"}).code for _ in range(11)]
        assert codes == [403] * 10 + [429]


def test_act__too_many_wrong_bearer_tokens__has_to_wait_with_the_right_one_too_and_a_cookie_still_acts(
    tmp_path: Path,
) -> None:
    """An address that was wrong TRIES_PER_MINUTE times in a minute waits, whatever it says then, and however it says
    it."""
    with site(tmp_path, OPERATOR_TOKEN=TOKEN) as one:
        cookie = one.ask("/operator", {"token": TOKEN}).headers["Set-Cookie"].partition(";")[0]
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert [one.ask("/act/pause", {}, **right).code for _ in range(12)] == [200] * 12  # who is right isn't counted
        codes = [one.ask("/act/pause", {}, Authorization=f"Bearer wrong-{n}").code for n in range(11)]
        assert codes == [401] * 10 + [429]
        said = one.ask("/act/resume", {}, **right)
        assert (said.code, said.json()["reason"]) == (429, "rate-limited")
        assert 1 <= int(said.headers["Retry-After"]) <= 60
        assert one.ask("/operator", {"token": TOKEN}).code == 429
        assert one.ask("/act/resume", {}, Cookie=cookie).code == 200


def test_pages__bearer_token__tell_nobody_whether_it_is_right(open_site: Site) -> None:
    """There is no way around the limit: reading doesn't look at the token."""
    texts = {open_site.ask("/operator", Authorization=f"Bearer {given}").text for given in (TOKEN, "wrong")}
    assert len(texts) == 1


# Whose address --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "codes"),
    [({}, [403] * 10 + [429]), ({"TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1"}, [403] * 11)],
    ids=["of-nobody", "of-the-proxy"],
)
def test_forwarded_for__is_believed_of_the_proxies_named_alone(
    tmp_path: Path, proxies: dict[str, str], codes: list[int]
) -> None:
    """whom X-Forwarded-For names is believed of the given proxies alone, and of loopback only if it is one of them"""
    with site(tmp_path, OPERATOR_TOKEN=TOKEN, BACKEND_PRIVATE_KEY="", **proxies) as one:
        others = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(11)]
        assert [one.ask("/operator", {"token": "x"}, **named).code for named in others] == codes
        # What a client says itself stands before what the proxy adds.
        lied = [{"X-Forwarded-For": f"203.0.113.{number}, 198.51.100.77"} for number in range(11)]
        assert one.ask("/operator", {"token": "x"}, **lied[0]).code == codes[-1]
        assert [one.ask("/operator", {"token": "x"}, **named).code for named in lied[1:]][-1] == 429


def test_trusted_proxies__several__are_kept_as_given() -> None:
    assert values.networks(" 10.0.0.0/8, ::1 ") == "10.0.0.0/8,::1"


@pytest.mark.parametrize("given", ["*", "proxy.lan", "10.0.0.1/8", "0.0.0.0/0", "127.0.0.1,::/0"])
def test_trusted_proxies__no_networks_or_all__is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"networks|everybody"):
        values.networks(given)


# Whose name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/settlements", "/session/1", "/ready", "/metrics", "/operator"])
def test_read__by_a_name_of_somebody_elses__gets_nothing(open_site: Site, path: str) -> None:
    """a name of somebody else's that leads here (DNS rebinding) gets nothing to read"""
    for host in (
        "evil.example",
        "evil.example:4100",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "a b",
        "[x",
        "",
    ):
        answer = open_site.ask(path, Host=host)
        assert answer.code == 421, host
        assert "HTTP_HOSTS" in answer.text


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost:1", "LOCALHOST.", "[::1]:4100", "10.0.0.7:4100", "keeper.example", "proxy.lan:8443"],
)
def test_read__by_a_name_of_ours__is_answered(host: str) -> None:
    """Allowed are addresses (a page that came from one can't be led elsewhere), localhost, the host in HTTP_BIND and in
    PUBLIC_URL, and the names in HTTP_HOSTS."""
    hosts = Hosts("127.0.0.1:4100", "https://keeper.example/base", "other.lan, Proxy.lan")
    assert hosts.allows(host)


@pytest.mark.parametrize("given", ["https://keeper.example", "keeper.example:443", "keeper.example/x", "*"])
def test_http_hosts__no_names__is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="names of hosts"):
        values.host_names(given)


def test_act__by_a_name_of_somebody_elses__does_nothing_even_with_the_token(open_site: Site) -> None:
    said = open_site.ask("/act/pause", {}, Host="evil.example", Authorization=f"Bearer {TOKEN}")
    assert said.code == 421
    assert "Paused" not in open_site.ask("/").text


# Not ready, by the real causes ----------------------------------------------------------------------------------------


def reasons(one: Site) -> set[str]:
    answer = one.ask("/ready")
    assert answer.code == (503 if answer.json()["reasons"] else 200)
    return {reason["name"] for reason in answer.json()["reasons"]}


@pytest.mark.provokes("ready.not-at-head")
def test_ready__read_only_without_a_token_and_node_gone__says_not_at_head(tmp_path: Path) -> None:
    """without a token nobody may."""
    with site(tmp_path) as one:
        until(lambda: reasons(one) == set())
        assert one.ask("/act/pause", {}).json()["reason"] == "read-only"
        assert one.ask("/operator", {"token": ""}).json()["reason"] == "read-only"
        one.world.node.process.kill()
        until(lambda: "not-at-head" in reasons(one))


@pytest.mark.provokes("ready.balance")
def test_ready__balance_below_the_floor__says_balance(tmp_path: Path) -> None:
    with site(tmp_path, MIN_BALANCE_ETH=1) as one:
        until(lambda: reasons(one) == set())
        one.world.node.rpc("anvil_setBalance", one.world.owner, hex(10**17))
        until(lambda: reasons(one) == {"balance"})


@pytest.mark.provokes("alert.feeds", "ready.feeds")
def test_ready__backend_out_of_reach__says_feeds_and_alerts_once(tmp_path: Path) -> None:
    with site(tmp_path, SOCKET_URL=f"http://127.0.0.1:{free_port()}", ALERT_PATIENCE_S=1) as one:
        until(lambda: reasons(one) == {"feeds"})
        until(lambda: "alert.feeds" in (tmp_path / "log").read_text())


@pytest.mark.provokes("ready.database")
def test_ready__database_that_takes_nothing__says_database(tmp_path: Path) -> None:
    import sqlite3

    with site(tmp_path) as one:
        until(lambda: reasons(one) == set())
        held = sqlite3.connect(tmp_path / "keeper.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        try:
            until(lambda: "database" in reasons(one), timeout_s=60)
        finally:
            held.execute("ROLLBACK")
            held.close()
        until(lambda: "database" not in reasons(one))


def test_ping__keeper_healthy_then_blind__comes_then_stays_away(tmp_path: Path) -> None:
    """The dead man's switch is pinged only while nothing is wrong with head, database and feeds."""
    with taking_all() as (place, pings):
        url = f"http://{place}/ping/secret-uuid-of-the-check"
        with site(tmp_path, HEARTBEAT_PING_URL=url):
            until(lambda: pings == [("/ping/secret-uuid-of-the-check", "")])
        assert "secret-uuid" not in (tmp_path / "log").read_text()
        pings.clear()
        blind = tmp_path / "blind"
        blind.mkdir()
        with site(blind, HEARTBEAT_PING_URL=url, SOCKET_URL=f"http://127.0.0.1:{free_port()}"):
            until(lambda: "ping.withheld" in (blind / "log").read_text())
        assert pings == []


def test_service_manager__notify_socket_given__hears_ready_alive_and_stopping(tmp_path: Path) -> None:
    import signal
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear, langdao(students=1, tutors=1) as world:
        address = str(tmp_path / "notify")
        ear.bind(address)
        ear.settimeout(30)
        world.node.rpc("evm_setIntervalMining", 1)
        given = settings(world, tmp_path, NOTIFY_SOCKET=address)
        with running(tmp_path, "run", **given) as daemon:
            assert ear.recv(4_096).startswith(b"READY=1")
            assert ear.recv(4_096).startswith(b"WATCHDOG=1")
            os.kill(daemon.pid, signal.SIGTERM)
            heard = b""
            while not heard.startswith(b"STOPPING=1"):
                heard = ear.recv(4_096)
            assert daemon.wait(15) == 0
