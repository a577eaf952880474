"""`make picture`: docs/devnet.svg, what `langdao-keeper status` shows of a real run.

Promises: a devnet runs for a while, then the command is run on a terminal of fixed size, and what it printed is the
picture. Nothing is drawn by hand, and the file names no host: a viewer's own monospaced font is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import shutil
import struct
import sys
import termios
import time

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from scripts.world import devnet, processes
from scripts.world.keeper import COMMAND, clean_environment
from scripts.world.processes import CHECKOUT, Failed
from scripts.world.world import World

# Long enough for some settlements; then until a lesson is over and waits for somebody to pay.
RUN_S = 75.0
MORE_S = 60.0
WAITING_S = (2.0, 6.0)
COLUMNS, ROWS = 140, 40
TARGET = CHECKOUT / "docs" / "devnet.svg"
# The template's web fonts, and the comment with its maker's address.
ELSEWHERE = re.compile(r"@font-face \{\{.*?\}\}\s*|<!--.*?-->\s*", re.DOTALL)


async def printed_by_status(world: World) -> str:
    """The output of `langdao-keeper status` on a terminal of COLUMNS × ROWS, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    folder = world.keeper.folder
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "status",
        env={**clean_environment(folder), "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = await asyncio.to_thread(_read_all, ours)
    if await process.wait() != 0:
        raise Failed(f"`status` failed: {output}")
    return output


async def until_one_waits(world: World) -> None:
    """Until a lesson was left a moment ago, and its session is still active."""
    soonest_s, latest_s = WAITING_S
    while True:
        for lesson in world.lessons:
            waits = lesson.left_at is not None and soonest_s < time.time() - lesson.left_at < latest_s
            if waits and (await world.dao.session(lesson.session_id)).active:
                return
        await asyncio.sleep(0.5)


def _read_all(descriptor: int) -> str:
    chunks = []
    # A terminal whose other side is closed answers with an error instead of an end.
    with contextlib.suppress(OSError):
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
    os.close(descriptor)
    return b"".join(chunks).decode(errors="replace").replace("\r\n", "\n")


def as_svg(output: str) -> str:
    """A terminal's output as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output.rstrip()))
    svg_format = ELSEWHERE.sub("", CONSOLE_SVG_FORMAT)
    return console.export_svg(title="langdao-keeper status --watch", code_format=svg_format, unique_id="devnet")


async def main() -> int:
    lines = devnet.Lines()
    async with processes.crew("picture") as crew:
        try:
            async with processes.interruptible(), devnet.built(crew, lines) as world:
                lessons = asyncio.ensure_future(devnet.hold_lessons(world, lines))
                await asyncio.wait([lessons], timeout=RUN_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(until_one_waits(world), MORE_S)
                svg = as_svg(await printed_by_status(world))
                lessons.cancel()
        except Failed as error:
            print(f"no picture: {error}", file=sys.stderr)
            return 1
        except processes.Interrupted:
            return 130
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(svg)
    shutil.rmtree(crew.folder, ignore_errors=True)
    lines.say(f"wrote {TARGET.relative_to(CHECKOUT)}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
