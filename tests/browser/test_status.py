"""The operator's status page in a real Chromium, of a real keeper: sizes, schemes, the token, acting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import SIZES
from tests.browser.test_looks import axe, fits
from tests.integration.test_cli_daemon import until
from tests.integration.test_operator_site import TOKEN, Site, site

pytestmark = pytest.mark.asyncio(loop_scope="session")
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def keeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    with with_lessons(tmp_path_factory.mktemp("status")) as one:
        yield one


@contextmanager
def with_lessons(home: Path) -> Iterator[Site]:
    """Two lessons, one of them ended by its student."""
    with site(home, OPERATOR_TOKEN=TOKEN) as one:
        one.world.start(0, 0)
        one.world.start(1, 1)
        one.world.end(1, by=one.world.students[1])
        until(lambda: all(word in one.ask("/").text for word in ('href="/session/1"', "on-their-own")))
        yield one


async def opened(browser: Browser, one: Site, **options: Any) -> Page:
    context = await browser.new_context(locale="en-GB", **options)
    page = await context.new_page()
    await page.goto(f"http://{one.address}/")
    return page


@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [("light", "light", "desk"), ("dark", "dark", "desk"), ("narrow", "light", "phone")],
    ids=["light", "dark", "narrow"],
)
async def test_status_page__every_size_and_scheme__fits_and_axe_finds_nothing(
    browser: Browser, keeper: Site, name: str, scheme: str, size: str
) -> None:
    page = await opened(browser, keeper, viewport=SIZES[size], color_scheme=scheme)
    await expect(page.get_by_role("link", name="1", exact=True)).to_be_visible()
    await page.screenshot(path=DOCS / f"status-{name}.png", full_page=True)
    assert await fits(page)
    # That it refreshes by itself is what axe would say; it can be told to hold still.
    await page.get_by_role("link", name="hold still").click()
    await expect(page.locator("meta[http-equiv=refresh]")).to_have_count(0)
    assert await axe(page) == []
    await page.context.close()


async def test_status_page__token_given__pauses_resumes_and_settles_by_buttons(browser: Browser, keeper: Site) -> None:
    page = await opened(browser, keeper, viewport=SIZES["desk"], java_script_enabled=False)
    await expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    await page.get_by_role("link", name="Operator").click()
    await page.locator("input[type=password]").fill(TOKEN)
    await page.locator("input[type=password]").press("Enter")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("Paused").first).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()
    await page.goto(f"http://{keeper.address}/session/1")
    await page.get_by_role("button", name="End").click()
    deadline = asyncio.get_running_loop().time() + 30
    while keeper.world.is_active(0):
        assert asyncio.get_running_loop().time() < deadline, "it isn't ended"
        await asyncio.sleep(0.2)
    await page.context.close()
