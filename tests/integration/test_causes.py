"""What keeps a running daemon from its job, each by its real cause: a signer gone, a node that hangs, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cli_daemon import running, settings, until
from tests.integration.test_keys import ANVIL_CHAIN, OWNER
from tests.integration.test_operator_site import TOKEN, Site, reasons, site
from tests.support.anvil import OWNER_KEY, langdao
from tests.support.host import read_only, seen_by, small_disk, small_disks
from tests.support.proxy import Proxy
from tests.support.record import inside, keeper
from tests.support.servers import beside, postgresql, serving, taking_all
from tests.support.web3signer import Web3Signer


def log(home: Path) -> str:
    return (home / "log").read_text()


def times_said(home: Path, alert: str) -> int:
    return sum(json.loads(line).get("event") == alert for line in log(home).splitlines() if line.startswith("{"))


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
    with beside(serving(signer.app)) as url:
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


@pytest.mark.provokes("alert.balance", "ready.balance")
def test_balance__account_empty__isnt_ready_signs_nothing_and_is_told(tmp_path: Path) -> None:
    with site(tmp_path, OPERATOR_TOKEN=TOKEN) as one:
        one.world.start(0, 0)
        until(lambda: 'href="/session/1"' in one.ask("/").text)
        one.world.node.rpc("anvil_setBalance", one.world.owner, hex(10**12))
        until(lambda: "balance" in reasons(one))
        settle(one, 1)
        until(lambda: times_said(tmp_path, "alert.balance"))
        assert one.world.is_active(0)


@pytest.mark.provokes("alert.gas-budget")
def test_budget__fees_rose_and_it_carries_no_other_settlement__waits_and_is_told(tmp_path: Path) -> None:
    with site(tmp_path, OPERATOR_TOKEN=TOKEN, DAILY_GAS_BUDGET_ETH=0.0003) as one:
        for number in range(2):
            one.world.start(number, number)
        until(lambda: 'href="/session/2"' in one.ask("/").text)
        settle(one, 1)
        until(lambda: not one.world.is_active(0))
        one.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(20 * 10**9))
        one.world.node.mine()
        settle(one, 2)
        until(lambda: times_said(tmp_path, "alert.gas-budget"))
        assert one.world.is_active(1)


# The node ------------------------------------------------------------------------------------------------------------


@contextmanager
def through(home: Path, **more: Any) -> Iterator[tuple[Site, Proxy]]:
    """A keeper whose node is reached through something that can be made to misbehave."""
    with langdao(students=2, tutors=2) as world:
        world.node.mine(100)
        world.node.rpc("evm_setIntervalMining", 1)
        with beside(Proxy(world.node.url)) as proxy:
            given = settings(world, home, ALERT_PATIENCE_S=0, **more) | {"RPC_URL": proxy.url}
            with running(home, "run", **given):
                one = Site(given["HTTP_BIND"], world, home)
                until(one.up)
                until(lambda: reasons(one) == set())
                yield one, proxy


def is_over(home: Path, alert: str) -> bool:
    return any("condition.over" in line and alert in line for line in log(home).splitlines())


@pytest.mark.provokes("alert.head", "ready.not-at-head")
def test_head__node_hangs_and_comes_back__isnt_ready_alerts_once_and_says_that_it_is_over(tmp_path: Path) -> None:
    with site(tmp_path, ALERT_PATIENCE_S=0, BACKEND_PRIVATE_KEY="") as one:
        until(lambda: reasons(one) == set())
        one.world.node.process.send_signal(signal.SIGSTOP)
        until(lambda: "not-at-head" in reasons(one))
        until(lambda: "alert.head" in log(tmp_path))
        one.world.node.process.send_signal(signal.SIGCONT)
        until(lambda: reasons(one) == set())
        until(lambda: is_over(tmp_path, "alert.head"))
    assert times_said(tmp_path, "alert.head") == 1


@pytest.mark.provokes("alert.head", "ready.head-old")
def test_head__node_mines_no_more__says_head_old_until_it_does(tmp_path: Path) -> None:
    with site(tmp_path, ALERT_PATIENCE_S=0, HEAD_OLD_S=4, BACKEND_PRIVATE_KEY="") as one:
        until(lambda: reasons(one) == set())
        one.world.node.rpc("evm_setIntervalMining", 0)
        until(lambda: reasons(one) == {"head-old"})
        until(lambda: "alert.head" in log(tmp_path))
        one.world.node.rpc("evm_setIntervalMining", 1)
        until(lambda: reasons(one) == set())


@pytest.mark.provokes("alert.head", "ready.log-lag")
def test_head__node_is_slow_with_logs__says_log_lag_until_they_come(tmp_path: Path) -> None:
    with through(tmp_path) as (one, proxy):

        async def withheld() -> None:
            await asyncio.sleep(8)  # eight blocks go by

        def before(body: Any) -> Any:
            asked = body if isinstance(body, list) else [body]
            return withheld() if any(call["method"] == "eth_getLogs" for call in asked) else None

        proxy.before = before
        lesson = threading.Event()

        def teach() -> None:
            while not lesson.wait(1):
                one.world.start(0, 0)
                one.world.end(0)

        taught = threading.Thread(target=teach)
        taught.start()
        try:
            until(lambda: "log-lag" in reasons(one))
            until(lambda: "alert.head" in log(tmp_path))
        finally:
            lesson.set()
            taught.join()
        proxy.before = lambda body: None
        until(lambda: reasons(one) == set())


@pytest.mark.provokes("alert.finality", "ready.finality")
def test_finality__node_takes_back_final_blocks__isnt_ready_alerts_and_goes_on_when_it_is_another(
    tmp_path: Path,
) -> None:
    with langdao(students=2, tutors=2) as other:
        other.node.mine(300)
        with through(tmp_path) as (one, proxy):
            right, proxy.node_url = proxy.node_url, other.node.url
            until(lambda: "finality" in reasons(one))
            until(lambda: "alert.finality" in log(tmp_path))
            proxy.node_url = right
            until(lambda: reasons(one) == set())


# The database --------------------------------------------------------------------------------------------------------


def write_goes_wrong(one: Site, home: Path) -> None:
    """What has to be so while nothing can be written, with an end asked for: no signature, a reason, an alert."""
    until(lambda: "database" in reasons(one))
    until(lambda: "alert.database" in log(home))
    refused = one.ask("/act/settle", {"session_id": 1}, Authorization=f"Bearer {TOKEN}")
    assert refused.code == 409
    assert "nothing can be written" in refused.json()["error"]
    assert one.world.is_active(0)


def and_is_over(one: Site, home: Path) -> None:
    """Nothing was lost: it is ready, told that it is over, and ends what it is asked to."""
    until(lambda: reasons(one) == set())
    until(lambda: is_over(home, "alert.database"))
    settle(one, 1)
    until(lambda: not one.world.is_active(0))


@contextmanager
def on_a_small_disk(home: Path) -> Iterator[tuple[Site, int, Path]]:
    """A keeper with a lesson, whose database is on a disk of its own: site, process id, folder."""
    folder = home / "disk"
    if not small_disks(folder):
        pytest.skip("no disk can be mounted here")
    with langdao(students=2, tutors=2) as world:
        world.node.rpc("evm_setIntervalMining", 1)
        more = {"ALERT_PATIENCE_S": 0, "OPERATOR_TOKEN": TOKEN, "BACKEND_PRIVATE_KEY": OWNER_KEY, "BACKUP_EVERY_H": 0}
        given = settings(world, home, **more) | {"DATABASE_URL": f"sqlite:///{folder}/keeper.db"}
        with running(home, "run", before=small_disk(folder, "16m"), **given) as process:
            one = Site(given["HTTP_BIND"], world, home)
            until(one.up)
            until(lambda: reasons(one) == set())
            world.start(0, 0)
            until(lambda: 'href="/session/1"' in one.ask("/").text)
            yield one, process.pid, folder


@pytest.mark.provokes("alert.database", "ready.database")
def test_database__disk_full__signs_nothing_alerts_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path) as (one, pid, folder):
        ballast = seen_by(pid, folder / "ballast")
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 65_536):
                pass
        write_goes_wrong(one, tmp_path)
        ballast.unlink()
        and_is_over(one, tmp_path)


def test_database__disk_is_read_only__refuses_to_start_in_one_line_and_doctor_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    if not small_disks(folder):
        pytest.skip("no disk can be mounted here")
    with langdao(students=1, tutors=1) as world:
        given = settings(world, tmp_path) | {"DATABASE_URL": f"sqlite:///{folder}/keeper.db"}
        with running(tmp_path, "run", **given):
            until(lambda: "http.listening" in log(tmp_path))
        done = keeper(tmp_path, "run", before=read_only(folder), **given)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert "can't be written" in done.err
        found = keeper(tmp_path, "doctor", before=read_only(folder), **given)
        assert re.search(r"^FAILED +database +\S+ can't be written$", found.out, re.MULTILINE)


@pytest.mark.provokes("alert.database", "ready.database")
def test_database__postgresql_stopped__signs_nothing_alerts_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with postgresql() as server:
        more = {"ALERT_PATIENCE_S": 0, "OPERATOR_TOKEN": TOKEN, "DATABASE_URL": server.url}
        with site(tmp_path, **more) as one:
            until(lambda: reasons(one) == set())
            one.world.start(0, 0)
            until(lambda: 'href="/session/1"' in one.ask("/").text)
            server.stop()
            write_goes_wrong(one, tmp_path)
            server.start()
            and_is_over(one, tmp_path)


# Whoever calls for it ------------------------------------------------------------------------------------------------


@pytest.mark.provokes("alert.stopped", "alert.test")
@pytest.mark.parametrize("kind", ["stopped", "test"])
def test_alert__called_for_by_the_service_manager_or_a_person__arrives(tmp_path: Path, kind: str) -> None:
    with taking_all() as (place, heard):
        done = inside(tmp_path, "alert", f"--{kind}", APPRISE_URLS=f"json://{place}/")
    assert done.code == 0, done.text
    assert f"alert.{kind}" in heard[0][1]
