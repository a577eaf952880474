"""What the keeper's core does in a second, and what many live sessions cost: one line of JSON.

    make bench-core             the pure core, the stored core, and a restart with 100,000 live sessions

`events_per_s`: hints through link, fold and decide, on one core, by CPU time, nothing stored; nine of ten are
heartbeats, as on a real feed. `stored_events_per_s`: the same mix through the `Reconciler` in batches as it makes
them, committed to SQLite, by wall clock. `rss_mb_100k` and `restart_s_100k`: a fresh process that reads 100,000 live
sessions, each with its room, heartbeats, a fact and a decision, and has decided on all of them; the memory is all of
the process, the library code too, once the feed is up and each session has its deadline. `longest_turn_ms_100k` is the
longest that the loop was held meanwhile, when the feed came back.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from bot.domain import linking
from bot.domain.decide import decide
from bot.domain.facts import TRUST_OF, Beats, Fact, Hint, Kind, Role, SessionKey, Source
from bot.domain.linking import Book, Room
from bot.domain.policy import Policy
from bot.domain.rules import Feed, World
from bot.domain.session import Session, beat, fold

T0 = 1_800_000_000_000
SHARES = ((Kind.HEARTBEAT, 90), (Kind.CONNECTED, 3), (Kind.READY, 2), (Kind.DISCONNECTED, 3), (Kind.ENDED, 2))
KINDS = [kind for kind, share in SHARES for _ in range(share)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--restart", metavar="FILE", help="only read this database, in this process")
    asked = parser.parse_args()
    if asked.restart:
        print(json.dumps(asyncio.run(restarted(asked.restart))))
        return
    rng = random.Random(asked.seed)
    result: dict[str, Any] = {"events_per_s": pure(rng, 2_000, asked.events)}
    with tempfile.TemporaryDirectory() as folder:
        result["stored_events_per_s"] = asyncio.run(stored(Path(folder) / "stored.db", rng, 2_000, 20_000))
        file = Path(folder) / "many.db"
        fill(file, asked.sessions)
        command = [sys.executable, "-m", "bench.core", "--restart", str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result |= json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result | {"sessions": asked.sessions, "events": asked.events}))


def address(number: int) -> str:
    return f"0x{number:040d}"  # digits only: its own checksum


def key_of(number: int) -> SessionKey:
    return SessionKey(number, address(10**9 + number), address(2 * 10**9 + number))


def hints(rng: random.Random, sessions: int, events: int) -> Iterator[Hint]:
    """One hint each 0.1 ms of the keeper's clock, of a room drawn at random."""
    for number in range(events):
        which = rng.randrange(sessions) + 1
        kind, key = rng.choice(KINDS), key_of(which)
        named = kind in (Kind.READY, Kind.ENDED)
        yield Hint(
            kind,
            Source.WEBHOOK,
            TRUST_OF[Source.WEBHOOK],
            T0 + 1_000 + number // 10,
            room=f"req_{which}",
            student=key.student if named else None,
            tutor=key.tutor if named else None,
            role=rng.choice((Role.STUDENT, Role.TUTOR)) if kind is not Kind.READY else None,
            can_return=True,
        )


def pure(rng: random.Random, sessions: int, events: int) -> int:
    """Events a second of CPU, through the domain alone."""
    book, live = Book(), {}
    for number in range(1, sessions + 1):
        key = key_of(number)
        book.add(key, T0)
        live[key] = Session(key, T0)
        room = book.rooms[f"req_{number}"] = Room(f"req_{number}", T0, T0)
        book.name(room, key.student, key.tutor, TRUST_OF[Source.WEBHOOK])
    said = list(hints(rng, sessions, events))
    policy, world = Policy(), World(feed=Feed(T0))
    gc.collect()
    begun = time.process_time()
    for number, hint in enumerate(said):
        room = book.rooms[hint.room or ""]
        found = linking.link(hint, room, book)
        assert found is not None or room.key is None
        if found is None:
            continue
        if room.key != found.key:
            book.join(room, found, hint.trust)
        session = live[found.key]
        if hint.kind is Kind.HEARTBEAT:
            beat(session, hint.received_ms, 1, hint.source)
        else:
            fold(session, Fact(number, hint, found.key))
        decide(session, policy, world, hint.received_ms)
    return round(events / (time.process_time() - begun))


class Nothing:
    """No effects."""

    async def expect(self, keys: Sequence[SessionKey]) -> None: ...
    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None: ...
    def settle(self, action_id: int, key: SessionKey) -> None: ...
    def alert(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None: ...


def opened(file: Path, clock_ms: Any) -> Any:
    from bot.reconciler import Reconciler
    from bot.store import schema
    from bot.store.db import Database, Writer

    database = Database(f"sqlite:///{file}")
    schema.upgrade(database)
    writer = Writer(database)
    return Reconciler(writer, Policy(), Nothing(), webhook_silence_ms=45_000, clock_ms=clock_ms), writer, database


async def stored(file: Path, rng: random.Random, sessions: int, events: int) -> int:
    """Events a second by the clock on the wall, committed."""
    fill(file, sessions)
    said = list(hints(rng, sessions, events))
    now = T0
    reconciler, writer, database = opened(file, lambda: now)
    await reconciler.load(0)
    begun = time.perf_counter()
    for start in range(0, events, 500):
        now = said[start].received_ms
        await reconciler.take_all(said[start : start + 500])
    took = time.perf_counter() - begun
    writer.close()
    database.dispose()
    return round(events / took)


def fill(file: Path, sessions: int) -> None:
    """A database with so many live sessions, each with a room, heartbeats, a fact, and a decision."""
    from bot.store.tables import ChainSession, DecisionRow, FactRow
    from bot.store.tables import Room as RoomRow

    _, writer, database = opened(file, lambda: T0)
    with database.write() as tx:
        for start in range(1, sessions + 1, 10_000):
            keys = [key_of(number) for number in range(start, min(start + 10_000, sessions + 1))]
            tx.execute(insert(ChainSession), [_chain_row(key) for key in keys])
            tx.execute(insert(RoomRow), [_room_row(key) for key in keys])
            tx.execute(insert(FactRow), [_fact_row(key) for key in keys])
            tx.execute(insert(DecisionRow), [_decision_row(key) for key in keys])
    writer.close()
    database.dispose()


def _chain_row(key: SessionKey) -> dict[str, Any]:
    return {
        "session_id": key.session_id,
        "student": key.student,
        "tutor": key.tutor,
        "language": 0,
        "start_block": key.session_id,
        "started_at": T0 // 1000,
        "rate": "100",
        "token": address(1),
    }


def _room_row(key: SessionKey) -> dict[str, Any]:
    beats = Beats(10, T0, T0 + 90_000)
    return {
        "room": f"req_{key.session_id}",
        "session_key": str(key),
        "rule": "addresses",
        "trust": 2,
        "student": key.student,
        "tutor": key.tutor,
        "first_ms": T0,
        "heard_ms": beats.last_ms,
        "beats": beats.count,
        "beat_first_ms": beats.first_ms,
        "beat_last_ms": beats.last_ms,
        "beat_source": Source.WEBHOOK.value,
        "state": "linked",
    }


def _fact_row(key: SessionKey) -> dict[str, Any]:
    return {
        "key": f"bench:{key.session_id}",
        "kind": Kind.READY.value,
        "source": Source.SOCKET.value,
        "trust": int(TRUST_OF[Source.SOCKET]),
        "received_ms": T0,
        "room": f"req_{key.session_id}",
        "student": key.student,
        "tutor": key.tutor,
        "payload": {"sessionId": f"req_{key.session_id}", "studentAddress": key.student, "tutorAddress": key.tutor},
        "session_key": str(key),
    }


def _decision_row(key: SessionKey) -> dict[str, Any]:
    return {"session_key": str(key), "at_ms": T0, "action": "wait", "reason": "running", "inputs": {}}


async def restarted(file: str) -> dict[str, Any]:
    """A new process's first read: seconds until all is decided, memory, and the longest turn when a feed is back."""
    now = T0 + 100_000
    reconciler, writer, database = opened(Path(file), lambda: now)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    await reconciler.load(0)
    took, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    longest = await _longest_turn_ms(reconciler)
    gc.collect()
    rss_mb = _rss_mb()
    live = len(reconciler.memory.live)
    writer.close()
    database.dispose()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rss_mb_100k": round(rss_mb, 1),
        "peak_mb_100k": round(peak, 1),
        "restart_s_100k": round(took, 2),
        "restart_cpu_s_100k": round(cpu, 2),
        "longest_turn_ms_100k": round(longest, 1),
        "live": live,
    }


async def _longest_turn_ms(reconciler: Any) -> float:
    longest, last = 0.0, time.perf_counter()
    back = asyncio.create_task(_feed_returns(reconciler))
    while not back.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    await back
    return longest * 1000


async def _feed_returns(reconciler: Any) -> None:
    await reconciler.socket_feed(True)
    while reconciler.next_tick_ms() == reconciler.memory.clock():
        await asyncio.sleep(0)  # as the timer does
        await reconciler.tick()


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    import structlog

    structlog.configure(processors=[], wrapper_class=structlog.make_filtering_bound_logger(50))
    main()
