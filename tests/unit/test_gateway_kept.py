"""What the bundled backend keeps: rooms as text, files and seals, and a shelf that comes and goes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.domain.facts import Beats, Hint, Kind, Role, Source, Trust
from bot.errors import Misconfigured, TryAgain
from bot.store.shelf import Entry, FileShelf
from bot.web.gateway import kept as kept_module
from bot.web.gateway import stored
from bot.web.gateway.kept import Kept
from bot.web.gateway.room import End, Pulse, Room, Seen
from bot.web.gateway.state import Rooms
from bot.web.gateway.used import Used
from tests.support.sessions import STUDENT, T0, TUTOR

times = st.integers(0, 2**53)
trusts = st.sampled_from(Trust)
seen = st.dictionaries(st.sampled_from([None, *Role]), st.builds(Seen, times, trusts))
rooms = st.builds(
    Room,
    name=st.text(min_size=1),
    touched_ms=times,
    student=st.sampled_from([None, STUDENT]),
    tutor=st.sampled_from([None, TUTOR]),
    trust=trusts,
    language_id=st.none() | st.integers(0, 254),
    start_ms=st.none() | times,
    ended=st.none() | st.builds(End, times, st.text(), st.text(), trusts),
    here=seen,
    away=seen,
    graced=st.sets(st.sampled_from([None, *Role])),
    pulses=st.dictionaries(
        trusts,
        st.builds(Pulse, st.builds(Beats, times, times, times), st.integers(0, 99), st.none() | times, st.booleans()),
    ),
    statements=st.lists(st.fixed_dictionaries({"expires": st.integers(1), "at": st.integers(1), "nonce": st.text()})),
)


@given(rooms)
def test_room__dumped_and_loaded__equal(room: Room) -> None:
    """`load` of a `dump` is an equal room."""
    assert stored.load(room.name, stored.dump(room)) == room


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one)).map(repr))
def test_room__loaded_from_anything__refused_by_one_of_four_errors(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        stored.load("r", text)


def shelf_at(path: Path) -> FileShelf:
    shelf = FileShelf(path, "GATEWAY_STATE_FILE")
    shelf.open()
    return shelf


async def test_file__written_and_not_closed__is_there_for_the_next(tmp_path: Path) -> None:
    """what `write` returned from is there after a crash of the program"""
    path = tmp_path / "deep" / "gateway.db"
    code = f"""
import asyncio, os
from pathlib import Path
from bot.store.shelf import FileShelf
async def main():
    shelf = FileShelf(Path({str(path)!r}), "X"); shelf.open()
    await shelf.write([("room", "a", "1", 2000), ("room", "b", "2", 1000), ("used", "a", "3", 2000)], 0)
    await shelf.write([("used", "a", None, 0)], 0)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await done.wait() == -9
    shelf = shelf_at(path)
    assert await shelf.read(1500) == [("room", "a", "1")]
    await shelf.close()
    assert path.stat().st_mode & 0o077 == 0


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_file__made_and_written__nothing_of_it_is_for_others(tmp_path: Path) -> None:
    """Others can read neither the file nor what SQLite keeps beside it."""
    before = os.umask(0o022)
    try:
        shelf = shelf_at(tmp_path / "gateway.db")
        await shelf.write([("room", "a", "1", 2_000)], 0)
        assert modes_in(tmp_path) == {"gateway.db": 0o600, "gateway.db-wal": 0o600}
        await shelf.close()
    finally:
        os.umask(before)


async def test_file__an_entry_that_cant_be_written__none_of_them_is(tmp_path: Path) -> None:
    """one `write` is all or nothing"""
    shelf = shelf_at(tmp_path / "gateway.db")
    with pytest.raises(TryAgain):
        await shelf.write([("room", "a", "1", 9), ("room", None, "2", 9)], 0)  # type: ignore[list-item]
    assert await shelf.read(0) == []
    await shelf.close()


async def test_file__of_another_process__misconfigured_names_the_setting(tmp_path: Path) -> None:
    """a file belongs to one process at a time"""
    shelf = shelf_at(tmp_path / "gateway.db")
    with pytest.raises(Misconfigured, match="GATEWAY_STATE_FILE"):
        shelf_at(tmp_path / "gateway.db")
    await shelf.close()


def test_file__no_database__misconfigured_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_text("something else, longer than a header of a database would be" * 9)
    with pytest.raises(Misconfigured, match="GATEWAY_STATE_FILE"):
        shelf_at(tmp_path / "gateway.db")


class Flaky:
    """A shelf that can be down, and can lose everything."""

    where = "flaky"

    def __init__(self) -> None:
        self.up = True
        self.held: dict[tuple[str, str], str] = {}

    async def read(self, now_ms: int) -> list[tuple[str, str, str]]:
        self._look()
        return [(*key, text) for key, text in self.held.items()]

    async def write(self, entries: Iterable[Entry], now_ms: int) -> None:
        self._look()
        for kind, name, text, _ in entries:
            if text is None:
                self.held.pop((kind, name), None)
            else:
                self.held[kind, name] = text

    async def close(self) -> None:
        pass

    def _look(self) -> None:
        if not self.up:
            raise TryAgain("down")


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "REST_S", 0.0)


def said(kind: Kind, room: str = "r", at_ms: int = T0, **more: Any) -> Hint:
    return Hint(kind, Source.WEBHOOK, Trust.CONFIGURED, at_ms, room=room, **more)


async def test_kept__shelf_down_and_emptied__everything_is_written_anew(no_rest: None) -> None:
    """once it is back everything is written anew, because it may have lost what it had"""
    shelf, rooms, used = Flaky(), Rooms(), Used()
    kept = Kept(shelf, [rooms, used], lambda: T0)
    await kept.load()
    rooms.apply(said(Kind.CONNECTED, "a"))
    used.use("x", T0 + 1)
    await kept.flush()
    shelf.up, shelf.held = False, {}
    rooms.apply(said(Kind.CONNECTED, "b"))
    await kept.flush()
    assert kept.where == "flaky, down"
    shelf.up = True
    await kept.flush()
    assert shelf.held.keys() == {("room", "a"), ("room", "b"), ("used", "x")}
    assert kept.where == "flaky"


async def test_kept__shelf_down_at_the_start__what_it_held_is_taken_in_later(no_rest: None) -> None:
    shelf, before = Flaky(), Rooms()
    first = Kept(shelf, [before, Used()], lambda: T0)
    await first.load()
    before.apply(said(Kind.ENDED, "a"), ended_by="tutor", reason="ended")
    before.apply(said(Kind.DISCONNECTED, "b", role=Role.STUDENT))
    await first.flush()
    shelf.up = False
    rooms = Rooms()
    kept = Kept(shelf, [rooms, Used()], lambda: T0)
    await kept.load()
    rooms.apply(said(Kind.CONNECTED, "b", role=Role.STUDENT, at_ms=T0 + 5))
    await kept.flush()
    shelf.up = True
    await kept.flush()
    ended, back = rooms.get("a"), rooms.get("b")
    assert ended is not None
    assert ended.ended is not None
    assert back is not None
    assert (back.here[Role.STUDENT].at_ms, back.away) == (T0 + 5, {})  # what is known here is newer


async def test_kept__text_that_cant_be_read__left_out_and_costs_nothing_else() -> None:
    shelf, rooms, used = Flaky(), Rooms(), Used()
    shelf.held = {
        ("room", "a"): "{}",
        ("room", "b"): stored.dump(Room("b", T0)),
        ("used", "x"): "soon",
        ("?", "y"): "1",
    }
    kept = Kept(shelf, [rooms, used], lambda: T0)
    await kept.load()
    assert (list(rooms.names()), list(used.names()), kept.where) == (["b"], [], "flaky")


def test_used__until_it_expires__once() -> None:
    used = Used()
    assert [used.use("x", T0), used.use("x", T0), used.use("y", T0 + 5)] == [True, False, True]
    used.prune(T0)
    assert list(used.names()) == ["y"]
