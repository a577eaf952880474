"""Time for the reconciler: APScheduler holds one job, its next tick, which is mostly the earliest deadline.

Promises: however late, no deadline is lost (no misfire time): late is when it matters most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from bot.reconciler import Reconciler

JOB = "earliest"
RINGS = 1_000


async def keep_deadlines(reconciler: Reconciler, clock_ms: Callable[[], int]) -> None:
    """Calls `reconciler.tick` when its time has come, until cancelled. Its errors end this."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    due = asyncio.Event()

    async def ring() -> None:  # a plain function would be run in another thread, and an Event isn't safe there
        due.set()

    def reschedule() -> None:
        earliest = reconciler.next_tick_ms()
        job = scheduler.get_job(JOB)
        if earliest is None:
            if job is not None:
                scheduler.remove_job(JOB)
            return
        at = datetime.fromtimestamp(max(earliest, clock_ms()) / 1000, UTC)
        if job is None or job.next_run_time != at:
            scheduler.add_job(
                ring,
                "date",
                run_date=at,
                id=JOB,
                replace_existing=True,
                misfire_grace_time=None,
                max_instances=RINGS,  # while the loop is busy several may wait for it, and none may be left out
            )

    reconciler.when_deadline_moves(reschedule)
    scheduler.start()
    try:
        while True:
            reschedule()
            await due.wait()
            due.clear()
            await reconciler.tick()
    finally:
        reconciler.when_deadline_moves(lambda: None)
        scheduler.shutdown(wait=False)
