"""Requests to the running daemon, and what is done without one.

Promises: a request is stored before anybody waits for its answer, so it isn't lost when the waiting ends; with no
daemon running, nothing is left in the inbox for a daemon that may start days later.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bot.cli.common import now_ms
from bot.errors import Misconfigured

if TYPE_CHECKING:
    from bot.store.db import Database

ACKNOWLEDGED_S = 10.0
_LOOK_EVERY_S = 0.1


def ask(database: Database, kind: str, payload: dict[str, Any]) -> int:
    """Leaves a request; returns its number."""
    from bot.store import inbox_rows

    with database.write(durable=True) as session:
        return inbox_rows.request(session, kind, payload, now_ms())


def answer(database: Database, number: int, timeout_s: float = ACKNOWLEDGED_S) -> dict[str, Any]:
    """The daemon's answer. Raises Misconfigured when none comes in time; the request stays."""
    from bot.ops.status import daemon_pid
    from bot.store import queries

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with database.read() as session:
            row = queries.request(session, number)
        if row is not None and row["answered_ms"] is not None:
            return row["answer"] or {}
        time.sleep(_LOOK_EVERY_S)
    raise Misconfigured(
        f"The running keeper (pid {daemon_pid(database, now_ms()) or 'unknown'}) hasn't answered within "
        f"{timeout_s:g} s. "
        "The request stays in its inbox; look at its log"
    )


def set_paused(database: Database, paused: bool) -> dict[str, Any]:
    """Pauses or resumes, through the daemon or, when none runs, for the next one. Returns what came of it."""
    from bot.domain.facts import Source
    from bot.ops.status import daemon_pid
    from bot.store import breaker, identity
    from bot.store.lock import Lock

    pid = daemon_pid(database, now_ms())
    if pid is not None:
        said = answer(database, ask(database, "pause" if paused else "resume", {"by": "operator"}))
        return {"paused": paused, "daemon": pid, "answer": said}
    lock = Lock(database)  # so that no daemon starts in between
    try:
        with database.write(durable=True) as session:
            identity.put(session, "paused", "1" if paused else "0")
            last = breaker.newest(session)
            if not paused and last is not None and last.tripped:
                breaker.note(session, breaker.RELEASED, Source.OPERATOR, now_ms())
    finally:
        lock.release()
    return {"paused": paused, "daemon": None, "answer": None}
