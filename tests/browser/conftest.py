"""One stack and one Chromium for all tests of a worker; a fresh profile for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.stack import Lesson, Stack, built
from tests.browser.wallet import Wallet

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SIZES = {"phone": {"width": 360, "height": 740}, "desk": {"width": 1280, "height": 900}}


def chromium() -> str:
    """The browser of this machine: CHROMIUM, or the first on PATH."""
    found = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium: `make chromium` installs Debian's as root; else set CHROMIUM to one's path")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with built(tmp_path_factory.mktemp("stack")) as one:
        yield one


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS, timeout=60_000)
        yield one
        await one.close()


class Visitor:
    """Somebody with a browser profile, and a wallet if there is one."""

    def __init__(self, stack: Stack, context: Any, wallet: Wallet | None) -> None:
        self.stack = stack
        self.context = context
        self.wallet = wallet
        self.faults: list[str] = []

    async def open(self, url: str) -> Page:
        page: Page = await self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text) if "Content Security" in said.text else None)
        await page.goto(url if "://" in url else self.stack.url + url)
        return page


Visit = Callable[..., Awaitable[Visitor]]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(stack: Stack, browser: Browser) -> AsyncIterator[Visit]:
    """`await visit(lesson, "student")`: a visitor with that participant's wallet; None for one without."""
    visitors: list[Visitor] = []
    async with AsyncExitStack() as cleanup:

        async def make(
            lesson: Lesson | None = None, who: str | None = "student", *, size: str = "phone", **options: Any
        ) -> Visitor:
            wallet_options = {name: options.pop(name) for name in ("names",) if name in options}
            context = await browser.new_context(viewport=SIZES[size], locale="en-GB", **options)
            cleanup.push_async_callback(context.close)
            wallet = None
            if lesson is not None and who is not None:
                account = who if who.startswith("0x") else getattr(lesson, who)
                wallet = Wallet(stack.world.node, [account], **wallet_options)
                await wallet.install(context)
            visitors.append(Visitor(stack, context, wallet))
            return visitors[-1]

        yield make
    faults = [fault for visitor in visitors for fault in visitor.faults]
    assert faults == [], "the pages threw or broke their own policy"


@pytest.fixture
def pictures() -> Path:
    """Where the documentation's pictures are; every run writes them anew."""
    folder = Path(__file__).resolve().parents[2] / "docs" / "pages"
    folder.mkdir(exist_ok=True)
    return folder
