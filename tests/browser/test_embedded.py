"""`/static/langdao.js` on a page of somebody else: a status bar, and a prompt when payment is due."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.async_api import Page, expect

from tests.browser.conftest import Visit
from tests.browser.stack import Lesson, Stack
from tests.browser.test_ending import PAY, press
from tests.browser.test_looks import axe, fits
from tests.support.servers import serving, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROOT = Path(__file__).resolve().parents[2]


def example(url: str) -> str:
    """The copy-paste example of docs/pages.md, with this backend's address."""
    text = (ROOT / "docs" / "pages.md").read_text()
    found = re.search(r"```html\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1].replace("https://backend.example", url)


@pytest_asyncio.fixture(loop_scope="session")
async def host(stack: Stack) -> AsyncIterator[str]:
    """A page of another origin that does what the documentation says, under a policy of its own."""
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        policy = f"default-src 'self'; script-src {stack.url}; connect-src {stack.url}; style-src 'self'"
        body = f"<!doctype html><html lang=en><title>Host</title><h1>Video call</h1>{example(stack.url)}"
        return HTMLResponse(body, headers={"Content-Security-Policy": policy})

    async with serving(app) as url:
        yield url


async def joined(page: Page, lesson: Lesson) -> None:
    """What the host page does when a lesson begins: it writes the documented pendingSession."""
    said = {
        "requestId": str(lesson.session_id),
        "tutorAddress": lesson.tutor,
        "studentAddress": lesson.student,
        "languageId": 0,
    }
    await page.evaluate("(said) => { sessionStorage.pendingSession = JSON.stringify(said); }", said)


async def test_bar__lesson_begins_later__is_found_counts_and_offers_the_end(
    stack: Stack, visit: Visit, host: str
) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson, size="desk")
    page = await visitor.open(host)
    bar = page.get_by_role("region", name="Your lesson")
    await expect(bar).to_be_hidden()
    await joined(page, lesson)
    await expect(bar.get_by_text("Lesson running")).to_be_visible()
    before = await bar.locator("b").inner_text()
    await expect(bar.locator("b")).not_to_have_text(before)
    await bar.get_by_role("button", name="End & pay").click()
    await press(page, PAY)
    await expect(page.get_by_role("heading", name="The lesson has ended")).to_be_visible(timeout=30_000)
    assert not lesson.active
    await expect(bar.get_by_text("Lesson ended")).to_be_visible()
    await expect(bar.get_by_role("button", name="End & pay")).to_be_hidden()
    assert await page.evaluate("sessionStorage.pendingSession") is None
    await until(lambda: (lesson.room() or {}).get("ended"))


@pytest.mark.parametrize(("size", "scheme"), [("phone", "light"), ("desk", "dark")])
async def test_prompt__call_is_over__appears_by_itself_and_pays(
    stack: Stack, visit: Visit, host: str, pictures: Path, size: str, scheme: str
) -> None:
    """a modal prompt when the session ends, by itself"""
    lesson = await stack.lesson()
    visitor = await visit(lesson, size=size, color_scheme=scheme)
    page = await visitor.open(host)
    await joined(page, lesson)
    await expect(page.get_by_text("Lesson running")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await lesson.hang_up()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await expect(dialog.get_by_text("The lesson was reported as ended.")).to_be_visible()
    await expect(dialog.get_by_text(re.compile("The keeper ends it in"))).to_be_visible()
    await expect(dialog.get_by_role("button", name=PAY)).to_be_visible()
    assert await fits(page)
    assert await axe(page) == []
    await page.screenshot(path=pictures / f"embedded-{size}-{scheme}.png")
    await press(page, PAY)
    await expect(page.get_by_role("heading", name="The lesson has ended")).to_be_visible(timeout=30_000)
    assert not lesson.active


async def test_prompt__closed__doesnt_come_again_for_the_same_reason(stack: Stack, visit: Visit, host: str) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(host)
    await joined(page, lesson)
    await expect(page.get_by_text("Lesson running")).to_be_visible()
    await lesson.hang_up()
    await press(page, "Close")
    await page.wait_for_timeout(2500)
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(page.get_by_text("Please end and pay")).to_be_visible()
    stack.world.end(lesson.tutor_at)
    await expect(page.get_by_role("heading", name="The lesson has ended")).to_be_visible(timeout=30_000)


async def test_reload__of_the_host_page__takes_up_what_was_sent(stack: Stack, visit: Visit, host: str) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(host)
    await joined(page, lesson)
    with stack.nothing_mined():
        await page.get_by_role("button", name="End & pay").click()
        await press(page, PAY)
        await expect(page.get_by_text("Sent. Waiting for a block.")).to_be_visible()
        await page.reload()
        await expect(page.get_by_text("Lesson running")).to_be_visible()
    await expect(page.get_by_text("Lesson ended")).to_be_visible(timeout=30_000)
    assert len(visitor.wallet.sent("eth_sendTransaction")) == 1
    await until(lambda: (lesson.room() or {}).get("ended"))


async def test_host__has_its_own_colours__they_are_taken(stack: Stack, visit: Visit, host: str) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(host)
    await joined(page, lesson)
    await page.evaluate("document.querySelector('langdao-bar').style.setProperty('--langdao-paper', 'rgb(1, 2, 3)')")
    bar = page.get_by_role("region", name="Your lesson")
    await expect(bar).to_have_css("background-color", "rgb(1, 2, 3)")
    await page.evaluate(
        "const s = new CSSStyleSheet(); s.replaceSync('langdao-bar::part(button) { color: rgb(4, 5, 6) }');"
        "document.adoptedStyleSheets = [s]"
    )
    await expect(bar.get_by_role("button")).to_have_css("color", "rgb(4, 5, 6)")
