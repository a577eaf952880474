"""What is in deploy/ is what its tools take, as far as they are installed here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.servers import taking_all

CHECKOUT = Path(__file__).resolve().parents[2]
UNITS = CHECKOUT / "deploy" / "systemd"


def test_unit__by_systemd_itself__is_well_formed(tmp_path: Path) -> None:
    """systemd-analyze finds nothing, where there is one; the program's path is the installation's own."""
    for unit in sorted(UNITS.glob("*.service")):
        text = unit.read_text().replace("/opt/langdao-keeper/bin/langdao-keeper", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return
    done = subprocess.run(
        [tool, "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.service")))], capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if "langdao" in line]
    assert said == []


def test_unit__watchdog_and_restarts__are_as_the_guide_says() -> None:
    text = (UNITS / "langdao-keeper.service").read_text()
    wanted = "Type=notify WatchdogSec=60 Restart=always RestartPreventExitStatus=2 ProtectSystem=strict"
    for line in wanted.split():
        assert f"\n{line}\n" in text
    stop_s = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert stop_s is not None
    assert int(stop_s[1]) > 5  # what the daemon promises


def test_dockerfile__stages_and_user__slim_from_the_lock_as_nobody() -> None:
    text = (CHECKOUT / "Dockerfile").read_text()
    assert text.count("\nFROM ") == 2
    assert "--require-hashes -r requirements/run.txt" in text
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "/simple" not in text  # no registry is named: pip asks the one it is told
    for path in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE):
        assert all((CHECKOUT / one).exists() for one in path.split())


def test_compose__keeper__reads_only_and_has_a_state() -> None:
    services = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    keeper = services["keeper"]
    assert keeper["read_only"] is True
    assert keeper["cap_drop"] == ["ALL"]
    assert keeper["tmpfs"] == ["/tmp"]  # SQLite sorts there; nothing else but /state can be written
    assert all(port.startswith("127.0.0.1:") for port in keeper["ports"])
    assert keeper["volumes"] == ["state:/state"]
    assert "redis" in services
    # An operator's own Redis stays the one that is asked.
    assert keeper["environment"]["REDIS_URL"] == "${REDIS_URL:-redis://redis:6379/0}"


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_dockerfile__health_check__asks_where_the_keeper_listens_and_no_proxy(status: int, code: int) -> None:
    found = re.search(r"HEALTHCHECK .*\\\n\s+CMD (\[.+\])$", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    program, *args = json.loads(found[1])
    assert program == "python"
    with taking_all(status) as (place, asked):
        env = {"HTTP_BIND": f"0.0.0.0:{place.rpartition(':')[2]}", "http_proxy": "http://127.0.0.1:9"}
        assert subprocess.run([sys.executable, *args], env=env, timeout=60).returncode == code
    assert asked == [("/health", "")]


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
def test_unit__env_file__is_read_by_the_keeper_alone(unit: Path) -> None:
    """No secret stands in the environment of the process, and systemd's own way with quotes doesn't count."""
    text = unit.read_text()
    assert "EnvironmentFile" not in text
    assert "\nWorkingDirectory=/etc/langdao-keeper\n" in text
