"""`doctor`, as a test asks it: in this process, or as the command that an operator types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bot.ops import doctor
from bot.settings import Settings
from tests.support.anvil import World
from tests.support.record import inside, keeper

OTHER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"

Found = dict[str, dict[str, Any]]


def settings(world: World, **more: Any) -> dict[str, Any]:
    return {"RPC_URL": world.node.url, "CONTRACT_ADDRESS": world.contract} | more


async def found(world: World, **more: Any) -> dict[str, doctor.Check]:
    """Every check, by name, with these settings beside node and contract. What isn't right has a remedy."""
    named = {"rpc_url": world.node.url, "contract_address": world.contract} | more
    checks = await doctor.examine(Settings(_env_file=None, **named))  # type: ignore[arg-type]
    assert all(check.remedy for check in checks if check.result in ("warning", "failed"))
    return {check.name: check for check in checks}


def examined(home: Path, *, process: bool = False, before: tuple[str, ...] = (), **given: Any) -> Found:
    """What the command says, which is held against what is promised of it: every check, in order, exit code 1 if any
    failed.
    """
    if process or before:
        done = keeper(home, "doctor", "--json", before=before, **given)
    else:
        done = inside(home, "doctor", "--json", **given)
    said = done.json()
    assert set(said) == {"ok", "checks"}
    assert [check["name"] for check in said["checks"]] == [name for stage in doctor.STAGES for name in stage]
    assert {frozenset(check) for check in said["checks"]} == {frozenset(("name", "result", "value", "remedy"))}
    assert {check["result"] for check in said["checks"]} <= {"ok", "warning", "failed", "skipped"}
    assert said["ok"] == all(check["result"] != "failed" for check in said["checks"])
    assert done.code == (0 if said["ok"] else 1), done.err
    assert all(check["remedy"] for check in said["checks"] if check["result"] in ("warning", "failed"))
    return {check["name"]: check for check in said["checks"]}


def results(found: Found, *names: str) -> list[str]:
    return [found[name]["result"] for name in names]
