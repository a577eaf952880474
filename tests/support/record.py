"""A keeper's database with a known record in it, and the command line as a process of its own.

Promises: the database is real and migrated; each helper stores rows as the daemon would. The process gets a clean
environment: no variable and no `.env` of this checkout leaks in.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot.domain.facts import SessionKey
from bot.store import schema
from bot.store.db import Database
from bot.store.tables import (
    ActionRow,
    AlertRow,
    Block,
    ChainSession,
    DecisionRow,
    FactRow,
    Log,
    Meta,
    Room,
    Settlement,
    TxItemRow,
    TxRow,
)

NOW_MS = 1_800_000_000_000  # 2027-01-15 08:00:00 UTC
NOW_S = NOW_MS // 1000
RATE = 1_000
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def address(number: int) -> str:
    """A checksummed address; the same number gives the same one."""
    from bot.domain.address import checksum

    found = checksum(f"0x{number:040x}")
    assert found is not None
    return found


@dataclass
class Record:
    """A database being filled."""

    database: Database
    facts: int = 0

    @property
    def url(self) -> str:
        return str(self.database.engine.url.render_as_string(hide_password=False))

    def add(self, *rows: Any) -> None:
        with self.database.write() as session:
            for row in rows:
                session.merge(row)

    def meta(self, **values: Any) -> None:
        self.add(*(Meta(name=name, value=str(value)) for name, value in values.items()))

    def identity(self, chain_id: int = 31337, contract: str = CONTRACT) -> None:
        self.meta(
            chain_id=chain_id,
            genesis_hash="0x" + "11" * 32,
            contract=contract,
            deploy_block=1,
            deploy_hash="0x" + "22" * 32,
        )

    def status(self, **more: Any) -> None:
        said = {
            "pid": 4242,
            "mode": "signing",
            "head": 120,
            "head_ms": NOW_MS - 1_000,
            "lag_blocks": 0,
            "at_head": True,
            "feeds": {
                "socket": {"up": True, "since_ms": NOW_MS - 60_000},
                "webhook": {"up": False, "since_ms": NOW_MS},
            },
            "skew_ms": 0,
            "balance_wei": 2 * 10**18,
            "updated_ms": NOW_MS - 500,
        }
        self.meta(status=json.dumps(said | more))

    def block(self, number: int, at_s: int) -> None:
        self.add(Block(number=number, hash=f"0x{number:064x}", parent_hash=f"0x{number - 1:064x}", timestamp_s=at_s))

    def session(
        self, number: int, *, student: int = 0xA1, tutor: int = 0xB1, age_s: int = 600, rate: int | None = RATE
    ) -> SessionKey:
        """An active session that began `age_s` before NOW."""
        key = SessionKey(number, address(student), address(tutor))
        started = NOW_S - age_s
        self.add(
            ChainSession(
                session_id=number,
                student=key.student,
                tutor=key.tutor,
                language=1,
                start_block=100 + number,
                started_at=started,
                rate=str(rate) if rate is not None else None,
                token=address(0xC0),
            ),
            Log(
                log_index=0,
                block_number=100 + number,
                timestamp_s=started,
                tx_hash=f"0x{number:064x}",
                tx_index=0,
                name="SessionStarted",
                session_id=number,
                address=key.student,
                topics="",
                data="0x",
            ),
        )
        return key

    def end(self, key: SessionKey, *, ago_s: int = 10, paid: int = 62_000, **more: Any) -> None:
        """Ends it on chain."""
        block, tx = 200 + key.session_id, f"0x{0xE000 + key.session_id:064x}"
        with self.database.write() as session:
            row = session.get(ChainSession, key.session_id)
            assert row is not None
            row.end_block = block
            started = row.started_at
            session.add(row)
        values = {
            "session_id": key.session_id,
            "student": key.student,
            "tutor": key.tutor,
            "token": address(0xC0),
            "language": 1,
            "started_at": started,
            "ended_at": NOW_S - ago_s,
            "billed_s": "62",
            "rate": str(RATE),
            "paid": str(paid),
            "tx_hash": tx,
            "block_number": block,
            "finality": "confirmed",
            "sender": address(0xDD),
            "ended_by": f"unknown:{address(0xDD)}",
            "by_keeper": False,
        }
        self.add(
            Settlement(**(values | more)),
            Log(
                log_index=1,
                block_number=block,
                timestamp_s=NOW_S - ago_s,
                tx_hash=tx,
                tx_index=0,
                name="SessionEnded",
                session_id=key.session_id,
                address=key.tutor,
                topics="",
                data="0x",
            ),
        )

    def room(self, name: str, key: SessionKey | None = None, *, beats: int = 0, **more: Any) -> None:
        values: dict[str, Any] = {
            "room": name,
            "session_key": str(key) if key else None,
            "rule": "addresses" if key else None,
            "trust": 2,
            "first_ms": NOW_MS - 610_000,
            "heard_ms": NOW_MS - 30_000,
            "beats": beats,
            "beat_first_ms": NOW_MS - 600_000 if beats else 0,
            "beat_last_ms": NOW_MS - 40_000 if beats else 0,
            "state": "linked" if key else "waiting",
        }
        self.add(Room(**(values | more)))

    def fact(
        self, kind: str, key: SessionKey | None = None, *, ago_s: float = 30, source: str = "socket", **more: Any
    ) -> None:
        self.facts += 1
        values: dict[str, Any] = {
            "key": f"fact-{self.facts}",
            "kind": kind,
            "source": source,
            "trust": 2,
            "received_ms": NOW_MS - round(ago_s * 1000),
            "session_key": str(key) if key else None,
            "payload": {},
        }
        self.add(FactRow(**(values | more)))

    def decision(self, key: SessionKey, action: str, reason: str, *, ago_s: float = 20, **more: Any) -> None:
        look = more.pop("look_again_ms", None)
        inputs = {"started_ms": NOW_MS - 600_000, "since_ms": NOW_MS - 30_000, "waits_for": None} | more
        self.add(
            DecisionRow(
                session_key=str(key),
                at_ms=NOW_MS - round(ago_s * 1000),
                action=action,
                reason=reason,
                look_again_ms=look,
                inputs=inputs,
            )
        )

    def action(self, key: SessionKey, kind: str, state: str = "open", **more: Any) -> None:
        values: dict[str, Any] = {
            "key": f"{kind}:{key}:{more.get('created_ms', 0)}",
            "kind": kind,
            "session_key": str(key),
            "state": state,
            "created_ms": NOW_MS - 15_000,
        }
        self.add(ActionRow(**(values | more)))

    def tx(self, key: SessionKey, state: str = "sent", **more: Any) -> None:
        values: dict[str, Any] = {
            "hash": f"0x{0xF000 + key.session_id:064x}",
            "nonce": key.session_id,
            "sender": address(0xDD),
            "kind": "settle",
            "raw": "0x02f8-the-signed-bytes",
            "gas": 300_000,
            "max_fee": "2000000000",
            "tip": "1000000000",
            "state": state,
            "stored_ms": NOW_MS - 14_000,
            "stored_block": 118,
            "sent_ms": NOW_MS - 13_900,
        }
        values |= more
        self.add(TxRow(**values))
        self.add(TxItemRow(tx_hash=values["hash"], position=0, session_key=str(key), action_id=1))

    def alert(self, name: str, key: SessionKey | None = None, text: str = "look at it", *, ago_s: int = 60) -> None:
        self.add(AlertRow(at_ms=NOW_MS - ago_s * 1000, name=name, text=text, session_key=str(key) if key else None))


def record(where: Path | str, *, identity: bool = True) -> Record:
    """A new database: an SQLite file, or the empty one at a URL."""
    database = Database(f"sqlite:///{where}" if isinstance(where, Path) else where)
    schema.upgrade(database)
    made = Record(database)
    if identity:
        made.identity()
    return made


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def json(self) -> Any:
        return json.loads(self.out)


def environment(home: Path, **settings: object) -> dict[str, str]:
    """What a service manager would give, and these settings."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        **{name: str(value) for name, value in settings.items()},
    }


def keeper(
    home: Path,
    *args: str,
    before: Sequence[str] = (),
    timeout_s: float = 60,
    stdin: str | None = None,
    **settings: object,
) -> Done:
    """Runs `langdao-keeper` in `home` and waits for its end. `before`: words to put before the command."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "bot.cli", *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(home, **settings),
        cwd=home if home.exists() else os.fspath(Path.home()),
        input=stdin if stdin is not None else "",
    )
    return Done(done.returncode, done.stdout, done.stderr)


def inside(home: Path, *args: str, **settings: object) -> Done:
    """The same inside this process, which spares the imports: for commands that neither stay nor ask."""
    import structlog

    from bot import cli
    from bot.ops import logging as keeper_logging

    root = logging.getLogger()
    out, err, before = io.StringIO(), io.StringIO(), (dict(os.environ), Path.cwd(), list(root.handlers), root.level)
    os.environ.clear()
    os.environ.update(environment(home, **settings))
    os.chdir(home)
    redactor, keeper_logging.redactor = keeper_logging.redactor, keeper_logging.Redactor()
    stdin, sys.stdin = sys.stdin, io.StringIO()  # no terminal
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            cli.main(list(args))
    finally:
        os.environ.clear()
        os.environ.update(before[0])
        os.chdir(before[1])
        root.handlers[:] = before[2]
        root.setLevel(before[3])
        keeper_logging.redactor, sys.stdin = redactor, stdin
        structlog.reset_defaults()
    return Done(int(left.value.code or 0), out.getvalue(), err.getvalue())
