"""The daemon with a clock at each step of a settlement, for `python -m bench.settle --stages`.

    python -m bench.staged run

Promises: nothing is done otherwise than by `langdao-keeper`; for each settlement that a node accepted, a line in
`stages.jsonl` of the working folder: `steps` ([name, epoch s] …, in order), the loop's `turns`, `handovers` to the
storing thread, and `pages` written to the write-ahead log by each of its transactions.
Doesn't promise to cost nothing: about 2 µs a step.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot.chain.endpoint import HttpEndpoint
from bot.chain.rpc import Rpc
from bot.chain.sender.look import Looks
from bot.chain.sender.outbox import Outbox
from bot.chain.sender.sender import Sender
from bot.cli import main
from bot.reconciler.decisions import Decisions
from bot.store.db import Database, Writer

FRAMES_AT = 16  # in the index of the write-ahead log: how many pages stand in it

# What is called, and what the steps before and after it are called; "" for none.
STEPS: tuple[tuple[Any, str, str, str], ...] = (
    (Decisions, "_decide", "", "decided"),
    (HttpEndpoint, "exchange", "the question leaves", "the answer is here"),
    (Looks, "_look", "", "read"),
    (Writer, "_run", "the thread begins", "the thread ends"),
    (Sender, "settle", "the sender is told", ""),
    (Outbox, "_sign", "checked", "signed"),
)


class Stages:
    def __init__(self) -> None:
        self._steps: list[tuple[str, float]] = []
        self._pages: list[int] = []
        self._turns = 0

    def note(self, name: str) -> None:
        if name:
            self._steps.append((name, time.time()))

    def begin(self) -> None:
        self._steps, self._pages, self._turns = [("due", time.time())], [], 0

    def end(self) -> None:
        self.note("accepted")
        steps = self._steps
        line = {
            "steps": steps,
            "turns": self._turns,
            "handovers": sum(name == "the thread begins" for name, _ in steps),
            "pages": self._pages,
        }
        with Path("stages.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def time_all(self) -> None:
        for owner, name, before, after in STEPS:
            self._time(owner, name, before, after)
        self._from_the_decision()
        self._to_the_acceptance()
        self._commits()
        turn = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]

        def counted(loop: Any) -> None:
            self._turns += 1
            turn(loop)

        asyncio.BaseEventLoop._run_once = counted  # type: ignore[attr-defined]

    def _time(self, owner: Any, name: str, before: str, after: str) -> None:
        was = getattr(owner, name)

        @functools.wraps(was)
        def timed(*args: Any, **named: Any) -> Any:
            self.note(before)
            found = was(*args, **named)
            self.note(after)
            return found

        @functools.wraps(was)
        async def awaited(*args: Any, **named: Any) -> Any:
            self.note(before)
            found = await was(*args, **named)
            self.note(after)
            return found

        setattr(owner, name, awaited if inspect.iscoroutinefunction(was) else timed)

    def _from_the_decision(self) -> None:
        was = Decisions.again

        async def again(decisions: Decisions, keys: Any, now: int, **named: Any) -> None:
            if keys := list(keys):
                self.begin()
            await was(decisions, keys, now, **named)

        Decisions.again = again  # type: ignore[method-assign]

    def _to_the_acceptance(self) -> None:
        was = Rpc.on_each

        async def on_each(rpc: Rpc, method: str, params: Any = ()) -> Any:
            found = await was(rpc, method, params)
            if method == "eth_sendRawTransaction":
                self.end()
            return found

        Rpc.on_each = on_each  # type: ignore[method-assign]

    def _commits(self) -> None:
        for name in ("write", "write_by_driver"):
            self._commit(name, getattr(Database, name))

    def _commit(self, name: str, was: Any) -> None:
        @contextmanager
        def write(database: Database, **named: Any) -> Iterator[Any]:
            kind = "durable commit" if named.get("durable") else "commit"
            before = _frames(database)
            with was(database, **named) as given:
                yield given
                self.note(f"the {kind} begins")
            self.note(f"the {kind} ends")
            self._pages.append(_frames(database) - before)

        setattr(Database, name, write)


def _frames(database: Database) -> int:
    """Less than before where the log was begun anew."""
    index = Path(f"{database.path}-shm")
    return int.from_bytes(os.pread(_opened(index), 4, FRAMES_AT), sys.byteorder) if index.exists() else 0


@functools.cache
def _opened(index: Path) -> int:
    """Never closed: that would take SQLite's locks on this file away, which are the whole process's."""
    return os.open(index, os.O_RDONLY)


if __name__ == "__main__":
    Stages().time_all()
    sys.exit(main())
