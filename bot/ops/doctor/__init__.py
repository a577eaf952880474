"""Is everything as it has to be? One list of checks, all of them at once.

Promises: every check is always in the list, in the same order: `ok`, `warning`, `failed`, or `skipped` with the reason
in `value`; what isn't ok has a remedy that names the setting. A setting that can't be read keeps only those checks from
running that need it. Nothing is changed, nothing is sent but reads. All is
over within `ALL_S`. Of a URL, only scheme and host show.
Doesn't promise that what works now works tonight: alerts are for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from bot.errors import KeeperError
from bot.ops.doctor import around, chain, money, names, record
from bot.ops.doctor.patient import READS, REMEDIES, Check, Checker, Patient, Skip
from bot.settings import Settings

__all__ = ["Check", "examine"]

ALL_S = 25.0
EACH_S = 8.0

# A later stage may use what the earlier ones found out; within a stage, all run at once.
STAGES: tuple[dict[str, Checker], ...] = (
    {"settings": names.settings, "names": names.names, "rpc": chain.rpc},
    {
        "sync": chain.sync,
        "websocket": chain.websocket,
        "contract": chain.contract,
        "clock": chain.clock,
        "finality": chain.finality,
    },
    {"owner": chain.owner, "ranges": chain.ranges},
    {"guard": chain.guard},
    {"key": money.key},
    {"balance": money.balance, "nonce": money.pending},
    {
        "backend": around.backend,
        "signalling": around.signalling,
        "redis": around.redis,
        "nudges": around.nudges,
        "public-url": around.public_url,
        "hints": around.hints,
        "silence": around.silence,
        "alerts": around.alerts,
    },
    {"database": record.database},
    {"disk": record.disk},
    {"schema": record.schema},
    {"identity": record.identity, "keeper": record.lock},
    {"webhook": record.webhook, "ends": record.ends},
)


async def examine(settings: Settings, wrong: Mapping[str, str] | None = None) -> list[Check]:
    """All checks. `wrong`: the settings that can't be and were left out, by name."""
    patient = Patient(settings, wrong or {})
    found: dict[str, Check] = {}
    deadline = time.monotonic() + ALL_S
    try:
        for stage in STAGES:
            checks = await asyncio.gather(*(_one(name, check, patient, deadline) for name, check in stage.items()))
            found |= {check.name: check for check in checks}
    finally:
        if patient.rpc is not None:
            await patient.rpc.close()
        if patient.database is not None:
            patient.database.dispose()
    return [found[name] for stage in STAGES for name in stage]


def unusable(checks: list[Check]) -> Check | None:
    """The check without which no command works at all: of settings that all need, or a node that can't be reached."""
    found = {check.name: check for check in checks}
    if found["rpc"].result == "failed":
        return found["rpc"]
    return found["settings"] if "skipped" in (found["rpc"].result, found["contract"].result) else None


async def _one(name: str, check: Checker, patient: Patient, deadline: float) -> Check:
    unread = [setting for setting in READS.get(name, ()) if setting in patient.wrong]
    if unread:
        return Check(name, "skipped", f"{unread[0]} can't be read")
    try:
        async with asyncio.timeout(max(0.1, min(EACH_S, deadline - time.monotonic()))):
            return await check(patient)
    except Skip as reason:
        return Check(name, "skipped", str(reason))
    except TimeoutError:
        return Check(name, "failed", "no answer in time", REMEDIES.get(name, "Try again; look at the network"))
    except KeeperError as error:
        return Check(name, "failed", str(error), REMEDIES.get(name, str(error)))
    except Exception as error:
        # A doctor that falls ill over one patient is no help with the others.
        return Check(name, "failed", f"{type(error).__name__}: {error}"[:200], REMEDIES.get(name))
