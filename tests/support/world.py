"""What the tests of the devnet's doubles share: people, a crew of processes, a server of one handler."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from scripts.world.processes import Crew
from scripts.world.signalling import Room

STUDENT, TUTOR, OWNER = "0x" + "5A" * 20, "0x" + "7B" * 20, "0x" + "0C" * 20
ROOM = Room("req_qn8g", STUDENT, TUTOR, language=1)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    made = Crew(tmp_path)
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def serving(handler: Any, path: str = "/{any:.*}", port: int = 0) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def post(url: str, body: Any) -> tuple[int, str]:
    """Status and text of the answer."""
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
        return answer.status, await answer.text()
