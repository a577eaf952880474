"""How the pages look and behave for everybody: sizes, schemes, keyboard, without a script; nothing from elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import SIZES, Visit
from tests.browser.stack import Lesson, Stack
from tests.browser.test_ending import FOR_ME, PAY, ended, press
from tests.support.gateway import page as participant
from tests.support.servers import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"

# What the documentation keeps; all the others are looked at by axe alone.
PICTURES = {
    "running-phone-light",
    "due-phone-light",
    "due-desk-dark",
    "refused-phone-light",
    "sent-phone-dark",
    "ended-phone-dark",
    "unknown-phone-light",
}


async def axe(page: Page) -> list[str]:
    """What axe-core finds serious or critical."""
    # By the debugger, not as a script of the page: its policy forbids those, as it should.
    session = await page.context.new_cdp_session(page)
    await session.send("Runtime.evaluate", {"expression": AXE.read_text()})
    asked = {"expression": "axe.run().then(JSON.stringify)", "awaitPromise": True, "returnByValue": True}
    found = json.loads((await session.send("Runtime.evaluate", asked))["result"]["value"])
    assert found["passes"], "axe looked at nothing"
    return [
        f"{one['id']}: {one['help']} {[node['target'] for node in one['nodes']]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


async def fits(page: Page) -> bool:
    """Nothing has to be scrolled sideways."""
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def due(stack: Stack) -> Lesson:
    lesson = await stack.lesson()
    await lesson.hang_up()
    return lesson


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_every_state__each_size_and_scheme__fits_and_axe_finds_nothing_serious(
    stack: Stack, visit: Visit, pictures: Path, size: str, scheme: str
) -> None:
    """Accessible (keyboard, contrast, `aria-live`), light and dark"""
    lesson = await stack.lesson()
    visitor = await visit(lesson, size=size, color_scheme=scheme)
    page = await visitor.open(lesson.path)

    async def looked_at(state: str) -> None:
        assert await fits(page), state
        assert await axe(page) == [], state
        if (name := f"{state}-{size}-{scheme}") in PICTURES:
            await page.screenshot(path=pictures / f"{name}.png", full_page=size == "phone")

    await asyncio.sleep(3)  # so that there is something to pay
    await expect(page.get_by_role("heading", name="Your lesson is running")).to_be_visible()
    await looked_at("running")
    await lesson.hang_up()
    await expect(page.get_by_role("heading", name="Please end the lesson and pay")).to_be_visible()
    await looked_at("due")
    visitor.wallet.refuses.add("eth_sendTransaction")
    await press(page, PAY)
    await expect(page.get_by_text("You said no in your wallet")).to_be_visible()
    await looked_at("refused")
    visitor.wallet.refuses.clear()
    with stack.nothing_mined():
        await press(page, "Ask again")
        await expect(page.get_by_text("Sent. Waiting for a block.")).to_be_visible()
        await looked_at("sent")
    await ended(page)
    await until(lambda: (lesson.state() or {})["bill"]["overbilledSeconds"] is not None)
    await expect(page.get_by_text("by the student")).to_be_visible()
    await looked_at("ended")
    await page.goto(stack.url + "/s/req_nobody")
    await looked_at("unknown")


async def test_keyboard__alone__ends_the_lesson(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    await expect(page.get_by_role("button", name=PAY)).to_be_visible()
    for _ in range(5):
        await page.keyboard.press("Tab")
        focused = await page.evaluate("document.activeElement.shadowRoot?.activeElement?.textContent")
        if focused == PAY:
            break
    assert focused == PAY
    outline = "getComputedStyle(document.activeElement.shadowRoot.activeElement).outlineStyle"
    assert await page.evaluate(outline) == "solid", "focus can't be seen"
    await page.keyboard.press("Enter")
    await ended(page)


async def test_changes__are_read_out__once(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    heard = page.locator("#heard")
    await expect(heard).to_have_attribute("aria-live", "polite")
    await page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(heard.textContent)).observe(heard, {childList: true})"
    )
    await lesson.hang_up()
    await expect(heard).to_have_text("Please end the lesson and pay")
    await press(page, FOR_ME)
    await ended(page)
    said = await page.evaluate("said")
    assert len(said) == len(set(said))
    assert said[-1] == "The lesson has ended"


async def test_countdown__is_shown_and_runs_down(stack: Stack, visit: Visit) -> None:
    lesson = await due(stack)
    page = await (await visit()).open(lesson.path)
    left = page.locator("#left")
    await expect(left).to_have_text(re.compile(r"^[012]:\d\d$"))

    async def seconds() -> int:
        minutes, rest = (await left.inner_text()).split(":")
        return 60 * int(minutes) + int(rest)

    before = await seconds()
    await asyncio.sleep(3)
    assert before - 6 <= await seconds() <= before - 2


async def test_cost__is_counted_from_chain_time__whatever_the_devices_clock_says(stack: Stack, visit: Visit) -> None:
    """live duration and cost counted from chain time"""
    lesson = await stack.lesson()
    visitor = await visit()
    await visitor.context.add_init_script("const now = Date.now; Date.now = () => now() + 3600_000;")
    page = await visitor.open(lesson.path)
    head = int(stack.world.node.header()["timestamp"], 16)
    started = (await lesson.is_("running"))["startedAt"]
    minutes, rest = (await page.locator("#clock").inner_text()).split(":")
    assert abs(60 * int(minutes) + int(rest) - (head - started)) <= 3
    cost = float(await page.locator("#cost").inner_text())
    assert cost == pytest.approx((60 * int(minutes) + int(rest)) / 1000, abs=0.003)


# Without a script ----------------------------------------------------------------------------------------------------


# Chromium under a debugger doesn't build what stands in <noscript>, so that is read as text.
REFRESH = '<noscript><meta http-equiv="refresh" content="15"></noscript>'


async def source(stack: Stack, lesson: Lesson) -> str:
    def read() -> str:
        with urllib.request.urlopen(stack.url + lesson.path, timeout=10) as reply:
            return str(reply.read().decode())

    return await asyncio.to_thread(read)


async def test_without_a_script__running_and_due__tells_the_state_and_asks_again(stack: Stack, visit: Visit) -> None:
    """Works without JavaScript as a page that tells the state."""
    lesson = await stack.lesson()
    visitor = await visit(java_script_enabled=False)
    page = await visitor.open(lesson.path)
    await expect(page.get_by_role("heading", name="Your lesson is running")).to_be_visible()
    assert REFRESH in await source(stack, lesson)
    await lesson.hang_up()
    await page.reload()
    await expect(page.get_by_text("The lesson was reported as ended.")).to_be_visible()
    await expect(page.locator("#left")).to_have_text(re.compile(r"^[012]:\d\d$"))
    await expect(page.get_by_text(f"endSession({lesson.tutor})")).to_be_visible()
    assert await page.get_by_role("button").count() == 0, "a button that does nothing"
    stack.world.end(lesson.tutor_at)
    bill = (await lesson.is_("ended"))["bill"]
    await page.reload()
    await expect(page.locator("#cost")).to_have_text(f"{int(bill['paid']) / 1e6:.3f}")
    assert REFRESH not in await source(stack, lesson)


# Nothing from elsewhere, nothing to elsewhere ------------------------------------------------------------------------


async def test_page__from_opening_to_the_end__speaks_to_nobody_but_its_own_server(stack: Stack, visit: Visit) -> None:
    """no external assets, strict Content-Security-Policy, no tokens in referrers or logs"""
    lesson = await due(stack)
    visitor = await visit(lesson)
    asked: list[Any] = []
    visitor.context.on("request", lambda request: asked.append(request))
    page = await visitor.context.new_page()
    answer = await page.goto(stack.url + lesson.path)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    await press(page, PAY)
    await ended(page)
    assert {request.url.split("/")[2] for request in asked if "://" in request.url} == {stack.url.split("/")[2]}
    assert [request.url for request in asked if request.headers.get("referer")] == []
    log = (stack.home / "log").read_text()
    assert "/s/" not in log
    assert await page.locator("[style]").count() == 0


async def test_hostile_words__in_a_room__are_words(stack: Stack, visit: Visit) -> None:
    name = "<!--<script><img src=x onerror=alert(1)>"
    stack.post(stack.hook, {"type": "user-connected", "sessionId": name, "userRole": "student"})
    visitor = await visit()
    page = await visitor.context.new_page()
    page.on("dialog", lambda _: visitor.faults.append("a dialog"))
    await page.goto(f"{stack.url}/s/%3C!--%3Cscript%3E%3Cimg%20src=x%20onerror=alert(1)%3E")
    await expect(page.get_by_role("heading", name="The lesson hasn’t begun on chain")).to_be_visible()
    assert await page.locator("img[src=x]").count() == 0


# The nudge's links ----------------------------------------------------------------------------------------------------


async def test_nudges_link__opened_and_answered__the_lesson_goes_on(stack: Stack, visit: Visit, pictures: Path) -> None:
    lesson = await stack.lesson()
    async with participant(stack.url, lesson.student, world=stack.world) as one:
        await lesson.hang_up()
        link = str((await one.first("keeper:nudge", 30))["link"])
    assert link.startswith(stack.url + "/v/")
    page = await (await visit()).open(link)
    await expect(page.get_by_role("heading", name="Still in the lesson?")).to_be_visible()
    assert (await lesson.is_("due"))["state"] == "due", "opening it changed something"
    assert await fits(page)
    assert await axe(page) == []
    await page.screenshot(path=pictures / "still-here-phone-light.png")
    await page.get_by_role("link", name="see what it costs, and end it").click()
    await expect(page.get_by_role("heading", name="Please end the lesson and pay")).to_be_visible()
    await page.go_back()
    await press(page, "Yes, still in the lesson")
    await expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    await lesson.is_("running")
