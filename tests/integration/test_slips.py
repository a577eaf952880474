"""The slips of somebody tired: each is one line that names the setting and the way out, with `--json` a document."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot import cli
from bot.errors import Misconfigured
from bot.places import state_dir
from bot.web.serving import listening
from tests.integration.test_cli_daemon import running, until
from tests.integration.test_cli_daemon import settings as of_daemon
from tests.support.anvil import World, anvil, langdao
from tests.support.doctor import examined, settings
from tests.support.record import environment, inside
from tests.support.servers import free_port, taking_all


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A chain that is only looked at."""
    with langdao(students=1, tutors=1) as one:
        one.node.mine(5)
        yield one


def refused(home: Path, *args: str, **given: Any) -> str:
    """What a command that can't be done says, in text and as JSON."""
    done = inside(home, *args, **given)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    said = inside(home, *args, "--json", **given)
    assert said.code == 2
    told = str(said.json()["error"])
    assert done.err.strip() == f"langdao-keeper: {told}"
    return told


# The wrong place -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "stranded", "sessions"])
def test_command__in_another_folder__says_that_there_is_no_env(tmp_path: Path, command: str) -> None:
    assert "There is no .env here: go to the keeper's folder" in refused(tmp_path, command)


def test_command__env_without_the_node__says_nothing_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL=info\n")
    assert "There is no .env" not in refused(tmp_path, "status")


# The wrong chain, the wrong contract ---------------------------------------------------------------------------------


def test_run__the_token_for_the_contract__says_so_and_claims_no_database(shared: World, tmp_path: Path) -> None:
    given = of_daemon(shared, tmp_path)
    done = inside(tmp_path, "run", **given | {"CONTRACT_ADDRESS": shared.token})
    assert done.code == 2
    assert f"CONTRACT_ADDRESS: what is at {shared.token}" in done.err
    assert "isn't a LangDAO contract" in done.err
    with running(tmp_path, "run", **given):  # with the right one the same database is as good as new
        until(lambda: "http.listening" in (tmp_path / "log").read_text())


def test_stranded__the_token_for_the_contract__says_so(shared: World, tmp_path: Path) -> None:
    told = refused(tmp_path, "stranded", RPC_URL=shared.node.url, CONTRACT_ADDRESS=shared.token)
    assert told.startswith(f"CONTRACT_ADDRESS: what is at {shared.token}")


def test_run__endpoints_of_two_chains__doesnt_start(shared: World, tmp_path: Path) -> None:
    with anvil("--chain-id", "4242") as other:
        given = of_daemon(shared, tmp_path) | {"RPC_URL": f"{shared.node.url},{other.url}"}
        done = inside(tmp_path, "run", **given)
    assert done.code == 2
    assert f"{shared.node.url} is chain 31337, {other.url} is chain 4242. All endpoints have to be" in done.err


def test_run__second_endpoint_down__starts(shared: World, tmp_path: Path) -> None:
    given = of_daemon(shared, tmp_path) | {"RPC_URL": f"{shared.node.url},http://127.0.0.1:9"}
    with running(tmp_path, "run", **given):
        until(lambda: "http.listening" in (tmp_path / "log").read_text())


@pytest.mark.provokes("doctor.contract.warning")
def test_doctor__start_block_after_the_deployment__warns(shared: World, tmp_path: Path) -> None:
    late = shared.deploy_block + 3
    said = examined(tmp_path, **settings(shared, START_BLOCK=late))["contract"]
    assert (said["result"], f"before START_BLOCK {late} already" in said["value"]) == ("warning", True)
    assert examined(tmp_path, **settings(shared, START_BLOCK=shared.deploy_block))["contract"]["result"] == "ok"


# Slips in .env -------------------------------------------------------------------------------------------------------

SLIPS = "APRISE_URLS=json://127.0.0.1:9\nNUDGE_WINDOW_S=30\nthis is no line\nNUDGE_WINDOW_S=60\n"


def test_doctor__lines_of_env_that_nobody_reads__names_each(shared: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(SLIPS)
    said = examined(tmp_path, **settings(shared))["names"]
    assert said["result"] == "warning"
    assert "APRISE_URLS (did you mean APPRISE_URLS?)" in said["value"]
    assert "NUDGE_WINDOW_S but for its last line" in said["value"]
    assert "line 3 of .env, which isn't NAME=value" in said["value"]


def test_run__names_that_nobody_reads__says_so_at_its_start(shared: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(SLIPS)
    log = tmp_path / "log"
    with running(tmp_path, "run", **of_daemon(shared, tmp_path)):
        until(lambda: "settings.unread" in log.read_text())
    assert "APRISE_URLS (did you mean APPRISE_URLS?)" in log.read_text()


@pytest.mark.parametrize("where", ["in .env", "in the environment"])
def test_command__slip_in_the_name_of_what_it_needs__says_which_name_is_there(tmp_path: Path, where: str) -> None:
    slip = {"CONTRACT_ADRESS": "0x" + "ab" * 20}
    if where == "in .env":
        (tmp_path / ".env").write_text(f"CONTRACT_ADRESS={slip.pop('CONTRACT_ADRESS')}\n")
    told = refused(tmp_path, "stranded", RPC_URL="http://127.0.0.1:9", **slip)
    assert told.startswith("CONTRACT_ADDRESS is not set")
    assert told.endswith("CONTRACT_ADRESS is set, and nobody reads that")


@pytest.mark.parametrize("value", ["{a:1}", "[1]", "off"])
def test_socket_events__no_json_object__is_one_line(tmp_path: Path, value: str) -> None:
    assert "SOCKET_EVENTS is not a JSON object" in refused(tmp_path, "status", SOCKET_EVENTS=value)


@pytest.mark.parametrize("url", ["sqlite:///~/keeper.db", "sqlite:////~/keeper.db"])
def test_database_url__with_a_tilde__is_refused_and_no_such_folder_made(tmp_path: Path, url: str) -> None:
    given = {"RPC_URL": "http://127.0.0.1:9", "DATABASE_URL": url}
    assert "DATABASE_URL has a ~, which stands for no home here" in refused(tmp_path, "status", **given)
    assert not (tmp_path / "~").exists()


def test_files__with_a_tilde__are_in_the_home(tmp_path: Path) -> None:
    (tmp_path / "keeper.secret").write_text("a-secret-of-the-keeper")
    (tmp_path / "keeper.secret").chmod(0o600)
    said = inside(tmp_path, "webhook", "--json", WEBHOOK_SECRET_FILE="~/keeper.secret").json()
    assert said["secret_file"] == str(tmp_path / "keeper.secret")
    assert "KEYSTORE_FILE begins with ~, and there is no such home" in refused(
        tmp_path, "status", KEYSTORE_FILE="~nobody-of-this-name/key"
    )


def test_state__user_without_a_home__names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", no_entry)  # as for a container's user that is in no passwd
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Misconfigured, match="XDG_STATE_HOME is not set, and this user has no home"):
        state_dir()


# Alerts --------------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.alerts.failed")
def test_apprise_urls__slip_in_a_scheme__doctor_and_alert_name_the_place_and_not_the_secret(
    shared: World, tmp_path: Path
) -> None:
    urls = "json://127.0.0.1:9/a,tgrm://s3cret/42"
    said = examined(tmp_path, **settings(shared, APPRISE_URLS=urls))["alerts"]
    assert (said["result"], "number 2 (tgrm://…)" in said["value"]) == ("failed", True)
    told = refused(tmp_path, "alert", "--test", APPRISE_URLS=urls)
    assert "APPRISE_URLS: number 2 (tgrm://…) is nothing that Apprise knows" in told
    assert "s3cret" not in told + str(said)


def test_alert__one_of_two_channels_is_dead__is_named(tmp_path: Path) -> None:
    with taking_all() as (place, heard):
        done = inside(tmp_path, "alert", "--test", APPRISE_URLS=f"json://127.0.0.1:9/a,json://{place}/")
    assert done.code == 1
    assert "APPRISE_URLS: number 1 (json://…) didn't take the alert" in done.err
    assert len(heard) == 1


# Addresses, answers --------------------------------------------------------------------------------------------------


def test_listening__address_of_another_machine__has_another_remedy_than_a_port_in_use() -> None:
    with pytest.raises(Misconfigured, match="Choose an address of this machine"):
        listening(f"192.0.2.1:{free_port()}", "HTTP_BIND")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(Misconfigured, match=r"in use\. Stop what listens there"):
            listening(f"127.0.0.1:{taken.getsockname()[1]}", "HTTP_BIND")


def test_init__input_ends_before_an_answer__says_that_nothing_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bot.cli", "init"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("langdao-keeper: Stopped. Nothing was changed\n")
    assert not (tmp_path / ".env").exists()


def test_init__ctrl_c_at_a_question__exits_130_and_writes_nothing(tmp_path: Path) -> None:
    asking = subprocess.Popen(
        [sys.executable, "-m", "bot.cli", "init"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    try:
        assert asking.stdout is not None
        assert asking.stdout.read(7) == b"RPC_URL"
        asking.send_signal(signal.SIGINT)
        assert asking.wait(60) == 130
    finally:
        asking.kill()
        asking.wait()
    assert not (tmp_path / ".env").exists()


def test_json__error_that_nobody_thought_of__is_a_document_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("bot.cli.status.load_settings", broken)
    with pytest.raises(RuntimeError):
        cli.main(["status", "--json"])
    assert json.loads(capsys.readouterr().out) == {"error": "RuntimeError: a mistake of ours"}
