"""`/debug` and the built-in wallet: the whole flow on a local chain, without installing anything."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from bot.chain.rpc import Rpc
from bot.web.debug.playground import NotHere, Playground
from tests.browser.conftest import Visit
from tests.browser.stack import Stack, built
from tests.browser.test_ending import FOR_ME, PAY, ended, press
from tests.browser.test_looks import axe, fits
from tests.support.anvil import ROOT, anvil
from tests.support.servers import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
SHORT = {
    "DISCONNECT_GRACE_S": 4,
    "NUDGE_WINDOW_S": 4,
    "HEARTBEAT_TIMEOUT_S": 8,
    "HEARTBEAT_ARM_COUNT": 2,
    "HEARTBEAT_ARM_S": 2,
    "FEED_SILENCE_S": 6,
    "SOLE_ROOM_TIMEOUT_S": 10,
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def devnet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with built(tmp_path_factory.mktemp("devnet"), 6, DEBUG_PAGE=1, **SHORT) as one:
        yield one


async def begun(page: Page, devnet: Stack) -> Any:
    """A lesson begun with the page's button: its entry in the list."""
    await page.goto(devnet.url + "/debug")
    count = await page.locator("#plays li").count()
    await press(page, "Begin a lesson")
    await expect(page.locator("#plays li")).to_have_count(count + 1)
    return page.locator("#plays li").first


def line(page: Page, kind: str, words: str) -> Any:
    return page.locator(f"#tape li.{kind}", has_text=words).first


async def test_begin__a_lesson__is_a_real_session_and_hanging_up_is_played_to_its_end(
    devnet: Stack, visit: Visit, pictures: Path
) -> None:
    visitor = await visit(size="desk")
    page = await visitor.open(devnet.url + "/debug")
    before = devnet.world.counter()
    entry = await begun(page, devnet)
    assert devnet.world.counter() == before + 1
    number = before + 1
    await expect(line(page, "fact", "webrtc:user-connected")).to_be_visible()
    await expect(line(page, "plan", f"session {number}: running")).to_be_visible(timeout=15_000)
    await entry.get_by_role("button", name="Hang up").click()
    await expect(line(page, "fact", "webrtc:session-ended")).to_be_visible()
    await expect(line(page, "plan", f"session {number}: due, because ended")).to_be_visible(timeout=15_000)
    await expect(line(page, "nudge", f"session {number}")).to_be_visible(timeout=15_000)
    await expect(line(page, "plan", f"session {number}: ended")).to_be_visible(timeout=30_000)
    assert await axe(page) == []
    assert await fits(page)
    await page.screenshot(path=pictures / "debug-desk-light.png")


async def test_lose_and_return__is_seen_and_withdrawn(devnet: Stack, visit: Visit) -> None:
    page = await (await visit()).open(devnet.url + "/debug")
    entry = await begun(page, devnet)
    number = devnet.world.counter()
    await entry.get_by_role("button", name="Lose the connection").click()
    await expect(line(page, "plan", f"session {number}: due, because away:student")).to_be_visible(timeout=15_000)
    await entry.get_by_role("button", name="Come back").click()
    await expect(page.locator("#tape li.plan", has_text=f"session {number}:").first).to_contain_text(
        "running", timeout=15_000
    )
    await entry.get_by_role("button", name="Hang up").click()


async def test_freeze__runs_into_the_timeout_and_is_ended(devnet: Stack, visit: Visit) -> None:
    page = await (await visit()).open(devnet.url + "/debug")
    entry = await begun(page, devnet)
    number = devnet.world.counter()
    await page.wait_for_timeout(9_000)  # a series of heartbeats
    await entry.get_by_role("button", name="Freeze (time-out)").click()
    await expect(line(page, "fact", "webrtc:heartbeat-timeout")).to_be_visible(timeout=30_000)
    await expect(line(page, "plan", f"session {number}: ended")).to_be_visible(timeout=40_000)


@pytest.mark.parametrize(("who", "button"), [("student", PAY), ("tutor", FOR_ME)])
async def test_built_in_wallet__as_either__ends_the_lesson(devnet: Stack, visit: Visit, who: str, button: str) -> None:
    """with a built-in test wallet on the devnet, so that everything can be tried without installing one"""
    visitor = await visit()
    page = await visitor.open(devnet.url + "/debug")
    entry = await begun(page, devnet)
    async with visitor.context.expect_page() as opened:
        await entry.get_by_role("link", name=f"Open as {who}").click()
    lesson = await opened.value
    await press(lesson, button)
    await ended(lesson)


async def test_nobody_is_free__says_so(devnet: Stack, visit: Visit) -> None:
    page = await (await visit()).open(devnet.url + "/debug")
    for student, tutor in zip(devnet.world.students, range(6), strict=True):
        if not devnet.world.is_active(tutor):
            devnet.world.do(student, "startSession(address,uint8)", devnet.world.tutors[tutor], 0)
    await press(page, "Begin a lesson")
    await expect(page.get_by_text("no registered student and tutor are free")).to_be_visible(timeout=15_000)
    for tutor in range(6):
        devnet.world.end(tutor)


async def test_devnet__the_students_link_that_it_prints__opens_and_ends_the_lesson(
    visit: Visit, tmp_path: Path
) -> None:
    """`make devnet` prints a student's link; it opens in any browser"""
    command = (sys.executable, "-m", "scripts.world.devnet", "--for", "100", "--plain")
    log = tmp_path / "devnet.log"
    with log.open("w") as output:
        world = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=output, stderr=output)
    try:
        link = re.compile(r"http://\S+/s/1\?as=student")
        found = await until(lambda: link.search(log.read_text()), 90, 0.2)
        page = await (await visit()).open(found[0])
        await press(page, PAY)
        await ended(page)
        await until(lambda: "session 1: ended by Hugo" in log.read_text())
    finally:
        world.send_signal(signal.SIGINT)
        await world.wait()


def asked(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else b"", headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status), json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def test_debug__not_switched_on__is_not_there(stack: Stack) -> None:
    """(devnet or `DEBUG_PAGE=1` only)"""
    for path in ("/debug/lessons", "/debug/wallet"):
        assert asked(stack.url + path, {"method": "eth_chainId", "params": []})[0] == 404


async def test_debug__page_of_another_origin__changes_nothing(devnet: Stack) -> None:
    """A request from a page of another origin changes nothing."""
    before = devnet.world.counter()
    headers = {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"}
    assert asked(devnet.url + "/debug/lessons", **headers)[0] == 403
    assert asked(devnet.url + "/debug/wallet", {"method": "eth_chainId", "params": []}, **headers)[0] == 403
    assert devnet.world.counter() == before


@pytest.mark.parametrize("method", ["anvil_setBalance", "evm_mine", "eth_sign", "debug_traceTransaction"])
async def test_wallet__method_of_no_wallet__is_refused(devnet: Stack, method: str) -> None:
    status, said = asked(devnet.url + "/debug/wallet", {"method": method, "params": []})
    assert (status, said["reason"]) == (409, "not-here")


async def test_playground__chain_that_isnt_local__sends_nothing() -> None:
    """nothing is sent unless the chain is a development one"""
    with anvil("--chain-id", "11155111") as node:
        rpc = Rpc([node.url])
        try:
            playground = Playground(None, rpc, "0x" + "11" * 20)  # type: ignore[arg-type]
            with pytest.raises(NotHere, match="chain 11155111"):
                await playground.begin()
            with pytest.raises(NotHere):
                await playground.wallet("eth_sendTransaction", [{}])
        finally:
            await rpc.close()
        assert node.number() == 0
