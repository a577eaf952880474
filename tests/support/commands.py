"""Commands on a database with a known record, whose node is out of reach."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot.store import inbox_rows
from bot.store.lock import Lock
from tests.support.anvil import OWNER_KEY
from tests.support.record import CONTRACT, Record, environment, inside, record

NOWHERE = "http://127.0.0.1:9"
KEY = OWNER_KEY.removeprefix("0x")


def known(tmp_path: Path) -> Record:
    """A database with two sessions, made by nobody's daemon."""
    made = record(tmp_path / "keeper.db")
    key = made.session(5)
    made.room("req_qn8g", key, beats=56)
    made.fact("ended", key, room="req_qn8g", payload={"endedBy": "student"})
    made.decision(key, "wait", "ended")
    ended = made.session(4, student=0xA4, tutor=0xB4)
    made.end(ended, ended_by="keeper", by_keeper=True)
    made.tx(ended, "confirmed")
    return made


def on(one: Record, home: Path, *args: str, **settings: Any) -> Any:
    """A command on this database; the node is out of reach."""
    defaults = {"DATABASE_URL": one.url, "RPC_URL": NOWHERE, "CONTRACT_ADDRESS": CONTRACT}
    return inside(home, *args, **(defaults | settings))


def people(one: Record) -> tuple[str, str]:
    from bot.store import queries

    with one.database.read() as session:
        row = queries.session(session, 5)
    assert row is not None
    return row["student"], row["tutor"]


@contextmanager
def daemon_of(one: Record, answer: Any = None) -> Iterator[list[dict[str, Any]]]:
    """Holds the lock as a daemon does, and answers the inbox with `answer(row)`; yields what was asked."""
    lock = Lock(one.database)
    asked: list[dict[str, Any]] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.05):
            with one.database.read() as session:
                rows = inbox_rows.unanswered(session)
            for row in rows:
                asked.append({"kind": row.kind, **row.payload})
                said = answer(row)
                with one.database.write() as session:
                    inbox_rows.answer(session, row.id or 0, said, 1)

    thread = threading.Thread(target=serve)
    if answer is not None:
        thread.start()
    try:
        yield asked
    finally:
        stop.set()
        if answer is not None:
            thread.join()
        lock.release()


def on_terminal(home: Path, *args: str, columns: int, **settings: Any) -> list[str]:
    """What a command that ends well prints on a terminal of that width, line by line, without colours."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bot.cli", *args],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env=environment(home, COLUMNS=columns, TERM="xterm", **settings),
        cwd=home,
    )
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # Linux: the other side is closed
        while chunk := os.read(ours, 65_536):
            told += chunk
    os.close(ours)
    assert process.wait(30) == 0
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", told.decode()).splitlines()]
