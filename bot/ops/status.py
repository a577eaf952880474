"""The keeper on one screen, as data: for `langdao-keeper status` and for the page at `/`.

Promises: reads only; the keys are those of `--json`. Amounts are decimal text in base units, `_ms` epoch ms, `_at`
epoch s.
Doesn't promise the present second: the daemon writes its state every two seconds, `updated_ms` says when.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bot.ops import overview
from bot.store import queries, txs
from bot.store.db import Database
from bot.store.lock import Closed, holder

SHOWN = 30  # of each list
MOST_SESSIONS = 1_000
DAY_MS = 24 * 3_600_000
ALERTS_FOR_MS = DAY_MS
STALE_MS = 15_000  # of a state that is written every two seconds


def daemon_pid(database: Database, now_ms: int) -> int | None:
    """The pid of the `run` on this database, 0 if it runs and its pid can't be told, None when none runs."""
    try:
        return holder(database)
    except Closed:
        # The lock is another user's, and so is the daemon if there is one: its own word has to do.
        with database.read() as session:
            said = _state(queries.meta(session, "status").get("status"))
        fresh = now_ms - int(said.get("updated_ms") or 0) < STALE_MS
        return int(said.get("pid") or 0) if fresh else None


def gather(database: Database, pid: int | None, now_ms: int, *, settled: int = 10) -> dict[str, Any]:
    """Everything on the screen. `pid`: of the daemon on this database, None when none runs."""
    with database.read() as session:
        meta = queries.meta(session, "status", "paused", "chain_id", "contract", "deploy_block")
        newest = queries.newest_block(session)
        active = queries.count_active(session)
        lines = overview.lines(session, queries.sessions(session, state="active", limit=MOST_SESSIONS), now_ms)
        transactions = queries.txs(session, states=queries.TX_OPEN, limit=SHOWN)
        alerts = queries.open_alerts(session, now_ms - ALERTS_FOR_MS, SHOWN)
        settlements = queries.settlements(session, limit=settled)
        rooms = queries.waiting_rooms(session)
        burnt_wei = txs.spent_since(session, now_ms - DAY_MS)
    state = _state(meta.get("status"))
    return {
        "now_ms": now_ms,
        "database": str(database.path) if database.path else database.engine.url.get_backend_name(),
        "chain_id": int(meta["chain_id"]) if "chain_id" in meta else None,
        "contract": meta.get("contract"),
        "daemon": {
            "running": pid is not None,
            "pid": pid or state.get("pid") if pid is not None else None,
            "mode": state.get("mode") if pid is not None else None,
            "signing": state.get("signing") if pid is not None else None,
            "paused": meta.get("paused") == "1",
            "updated_ms": state.get("updated_ms"),
            "stale": pid is not None and now_ms - int(state.get("updated_ms") or 0) > STALE_MS,
        },
        "head": {
            "number": state.get("head", newest["number"] if newest else None),
            "head_ms": state.get("head_ms"),
            "indexed": newest["number"] if newest else None,
            "indexed_at": newest["timestamp_s"] if newest else None,
            "lag_blocks": state.get("lag_blocks"),
            "at_head": state.get("at_head"),
        },
        "feeds": (state.get("feeds") or {}) | ({"canary": state["canary"]} if state.get("canary") else {}),
        "breaker": state.get("breaker"),
        "skew_ms": state.get("skew_ms"),
        "balance_wei": str(state["balance_wei"]) if state.get("balance_wei") is not None else None,
        "gas": {"day_wei": str(burnt_wei), "budget_wei": state.get("gas_budget_wei")},
        "active": active,
        "sessions": lines,
        "by_reason": _counted(lines),
        "waiting": overview.waiting_cost(lines, now_ms),
        "rooms_waiting": [room["room"] for room in rooms],
        "transactions": transactions,
        "alerts": alerts,
        "settlements": settlements,
    }


def urgent_first(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is due first comes first; what only runs comes last."""
    return sorted(lines, key=lambda line: (not line["over"], line["due_ms"] or 2**62, line["session_id"]))


def by_reason(data: Mapping[str, Any]) -> str:
    """`5 (3 running, 2 silence)`: how many sessions are active, and by which rule the keeper waits for each."""
    counted = sorted(data["by_reason"].items(), key=lambda item: (-item[1], item[0]))
    said = ", ".join(f"{number} {name}" for name, number in counted)
    return f"{data['active']} ({said})" if said else str(data["active"])


def _state(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _counted(lines: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in lines:
        name = line["reason"] or "not looked at"
        found[name] = found.get(name, 0) + 1
    return found
