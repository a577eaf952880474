"""`langdao-keeper sessions`: the list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bot.cli.common import Address, emit, json_option, load_settings, now_ms, open_database, plain, show, table

if TYPE_CHECKING:
    from rich.table import Table

EXPIRED_FOR_MS = 86_400_000  # how long a room that was given up is shown


@click.command(short_help="List sessions and what the keeper thinks of them.")
@click.option("--active", "state", flag_value="active", help="Only those that run on chain.")
@click.option("--ended", "state", flag_value="ended", help="Only those that have ended.")
@click.option(
    "--unlinked",
    "state",
    flag_value="unlinked",
    help="Only active ones without a known room, and rooms without a session.",
)
@click.option("--student", type=Address(), help="Only those of this student.")
@click.option("--tutor", type=Address(), help="Only those of this tutor.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, newest first.")
@json_option
def command(state: str | None, student: str | None, tutor: str | None, limit: int, as_json: bool) -> None:
    """List sessions, what they cost so far and what the keeper thinks of them.

    \b
    Example:
      langdao-keeper sessions --active --tutor 0x…
    """
    from bot.ops import overview
    from bot.store import queries

    database = open_database(load_settings())
    now = now_ms()
    with database.read() as session:
        rows = queries.sessions(session, state=state, student=student, tutor=tutor, limit=limit)
        lines = overview.lines(session, rows, now)
        rooms = queries.unlinked_rooms(session, now - EXPIRED_FOR_MS) if state == "unlinked" else []
    if as_json:
        emit({"sessions": lines, "rooms": [_room(room) for room in rooms]} if state == "unlinked" else lines)
        return
    if not lines:
        click.echo("No such sessions.")
    else:
        show(session_table(lines, now))
    if rooms:
        show(room_table([_room(room) for room in rooms], now))


def _room(room: dict[str, Any]) -> dict[str, Any]:
    """A room without a session; times in epoch ms."""
    from bot.domain.linking import ROOM_EXPIRY_MS

    names = ("room", "state", "student", "tutor", "first_ms", "heard_ms", "beats")
    return {name: room[name] for name in names} | {"expires_ms": room["heard_ms"] + ROOM_EXPIRY_MS}


def room_table(rooms: list[dict[str, Any]], now: int) -> Table:
    """Rooms that belong to no session, for people."""
    from bot.ops.words import away, short

    return table(
        ("room", "student", "tutor", "first heard", "last heard", "heartbeats", "state"),
        (
            (
                plain(room["room"]),
                short(room["student"]),
                short(room["tutor"]),
                away(room["first_ms"], now),
                away(room["heard_ms"], now),
                room["beats"],
                "given up" if room["state"] == "expired" else f"waits, given up {away(room['expires_ms'], now)}",
            )
            for room in rooms
        ),
        right=("heartbeats",),
    )


def session_table(lines: list[dict[str, Any]], now: int) -> Table:
    """Sessions for people: one line each."""
    from bot.ops.words import amount, away, duration, moment, short

    def thinks(line: dict[str, Any]) -> str | None:
        if line["action"] is None:
            return None
        return line["action"] if line["action"] == line["reason"] else f"{line['action']} · {line['reason']}"

    def coming(line: dict[str, Any]) -> str | None:
        if line["state"] != "active":
            return moment(line["ended_at"] * 1000, now_ms=now) if line["ended_at"] else None
        if line["hold"]:
            return f"held: {line['hold']}"
        if line["due_ms"]:
            return (
                f"end {away(line['due_ms'], now)}" if line["due_ms"] > now else f"end due {away(line['due_ms'], now)}"
            )
        return f"look {away(line['look_again_ms'], now)}" if line["look_again_ms"] else None

    return table(
        ("id", "room", "student", "tutor", "state", "age", "cost", "keeper", "next / ended"),
        (
            (
                line["session_id"],
                line["room_id"],
                short(line["student"]),
                short(line["tutor"]),
                line["state"],
                duration(line["age_s"]) if line["age_s"] is not None else None,
                amount(int(line["cost"])) if line["cost"] is not None else None,
                thinks(line),
                coming(line),
            )
            for line in lines
        ),
        right=("id", "age", "cost"),
        spare=("student", "tutor", "state", "room"),
    )
