"""The three buttons, through to the chain; reloads in the middle of each step; two tabs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Visit
from tests.browser.stack import EXPLORER, Lesson, Stack
from tests.support.servers import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
PAY, FOR_ME, STILL = "End session & pay", "End it for me", "We are still in the lesson"


# Too short a moment to be met from outside.
RELOAD_WHEN_MINED = """
const set = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) {
  set.call(this, key, value);
  if (!sessionStorage.reloaded && String(value).includes('"step":"mined"')) {
    set.call(sessionStorage, "reloaded", "yes");
    location.reload();
  }
};
"""


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


async def kept(page: Page) -> dict[str, Any]:
    """What the page keeps of its steps between reloads."""
    text = "JSON.parse(Object.entries(localStorage).find(([k]) => k.startsWith('langdao.end:'))?.[1] ?? '{}')"
    found: dict[str, Any] = await page.evaluate(text)
    return found


async def reached(page: Page, step: str) -> None:
    async def look() -> bool:
        return (await kept(page)).get("step") == step

    await until(look, 30)


async def ended(page: Page) -> None:
    await expect(page.get_by_role("heading", name="The lesson has ended")).to_be_visible(timeout=30_000)


def told_backend(lesson: Lesson) -> bool:
    """Did the backend hear of this end from a page?"""
    room = lesson.room()
    return bool(room and room["ended"] and room["ended"]["reason"] == "ended-on-chain")


# End session & pay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["student", "tutor"])
async def test_pay__by_either_participant__is_mined_settled_and_told(stack: Stack, visit: Visit, who: str) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson, who)
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await ended(page)
    assert not lesson.active
    for step in ("Asked", "Sent", "Mined", "Settled"):
        await expect(page.get_by_text(step, exact=True)).to_be_visible()
    [[sent]] = visitor.wallet.sent("eth_sendTransaction")
    assert sent["gas"] == hex(300_000), "an estimate can be too low by a whole transfer"
    told = await lesson.is_("ended")
    assert told["bill"]["endedBy"] == who
    await until(lambda: told_backend(lesson))
    await expect(page.locator("#cost")).to_have_text(f"{int(told['bill']['paid']) / 1e6:.3f}")
    await expect(page.locator("#tx")).to_have_attribute("href", f"{EXPLORER}/tx/{told['bill']['txHash']}")


async def test_pay__after_a_hang_up__the_bill_shows_what_was_too_much(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    await lesson.hang_up()
    page = await (await visit(lesson)).open(lesson.path)
    await expect(page.get_by_text("The lesson was reported as ended.")).to_be_visible()
    await asyncio.sleep(2)
    await press(page, PAY)
    await ended(page)
    await until(lambda: (lesson.state() or {})["bill"]["overbilledSeconds"])
    bill = (await lesson.is_("ended"))["bill"]
    await expect(page.locator("#over")).to_contain_text(f"{int(bill['overbilled']) / 1e6:.3f} PYUSD")


async def test_pay__each_step__is_shown_while_it_lasts(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    visitor.wallet.holds = {"eth_requestAccounts"}
    await press(page, PAY)
    await expect(page.get_by_text("Looking at your wallet.")).to_be_visible()
    visitor.wallet.holds = {"eth_sendTransaction"}
    await expect(page.get_by_text("Confirm in your wallet.")).to_be_visible()
    await expect(page.locator("li[aria-current=step]")).to_have_text("Asked")
    with stack.nothing_mined():
        visitor.wallet.holds = set()
        await expect(page.get_by_text("Sent. Waiting for a block.")).to_be_visible()
        await expect(page.locator("li[aria-current=step]")).to_have_text("Sent")
        assert lesson.active
    await ended(page)


async def test_pay__tutor_is_in_another_lesson_by_now__nothing_is_sent(stack: Stack, visit: Visit) -> None:
    """The tutor's active session has to be this one: endSession ends whatever the tutor has."""
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    visitor.wallet.holds = {"eth_requestAccounts"}
    await press(page, PAY)
    stack.world.end(lesson.tutor_at)
    stack.world.start(next(stack.pairs), lesson.tutor_at)
    await until(lambda: lesson.active)
    visitor.wallet.holds = set()
    await ended(page)
    await until(lambda: visitor.wallet.sent("eth_call"))
    assert visitor.wallet.sent("eth_sendTransaction") == []
    assert lesson.active, "the next lesson was ended"


# End it for me, and still in the lesson ------------------------------------------------------------------------------


async def test_end_it_for_me__signed__the_keeper_ends_it_and_the_wallet_sends_nothing(
    stack: Stack, visit: Visit
) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson, "tutor")
    page = await visitor.open(lesson.path)
    await press(page, FOR_ME)
    await ended(page)
    assert not lesson.active
    assert visitor.wallet.sent("eth_sendTransaction") == []
    assert len(visitor.wallet.sent("personal_sign")) == 1
    await until(lambda: (lesson.state() or {})["bill"]["endedBy"] == "keeper")
    await expect(page.get_by_text("by the keeper")).to_be_visible()


async def test_still_here__signed__payment_is_no_longer_due(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    await expect(page.get_by_role("button", name=STILL)).to_be_hidden()
    await lesson.hang_up()
    await expect(page.get_by_role("heading", name="Please end the lesson and pay")).to_be_visible()
    await press(page, STILL)
    await expect(page.get_by_text("Noted: the lesson goes on.")).to_be_visible()
    await lesson.is_("running")
    await expect(page.get_by_role("heading", name="Your lesson is running")).to_be_visible()
    await expect(page.get_by_role("button", name=PAY)).to_be_visible()
    assert lesson.active


async def test_statement__in_the_page__has_the_words_that_are_verified(stack: Stack, visit: Visit) -> None:
    """The words are those of bot/domain/statement.py."""
    from bot.domain.address import checksum
    from bot.domain.statement import Said, Statement

    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    contract = checksum(stack.world.contract)
    assert contract is not None
    for action in Said:
        ours = Statement(action, 31337, contract, 7, contract, 1_800_000_000, "0x" + "ab" * 16)
        given = {
            "action": str(action),
            "address": contract,
            "contract": contract,
            "chainId": 31337,
            "id": 7,
            "expires": 1_800_000_000,
            "nonce": "0x" + "ab" * 16,
        }
        assert await page.evaluate("(given) => LangDAO.statement(given)", given) == ours.text()


# Reload --------------------------------------------------------------------------------------------------------------


async def test_reload__while_the_wallet_asks__offers_to_ask_again(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    visitor.wallet.holds = {"eth_sendTransaction"}
    await press(page, PAY)
    await reached(page, "asked")
    await page.reload()
    await expect(page.get_by_text("This page was reloaded while your wallet was asking.")).to_be_visible()
    assert lesson.active
    visitor.wallet.holds = set()
    await press(page, "Ask again")
    await ended(page)


async def test_reload__while_it_waits_for_a_block__goes_on_and_sends_nothing_twice(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    with stack.nothing_mined():
        await press(page, PAY)
        await reached(page, "sent")
        await page.reload()
        await expect(page.get_by_text("Sent. Waiting for a block.")).to_be_visible()
        await expect(page.get_by_role("button", name=PAY)).to_be_hidden()
    await ended(page)
    assert len(visitor.wallet.sent("eth_sendTransaction")) == 1
    await until(lambda: told_backend(lesson))


async def test_reload__just_mined__is_settled_and_the_backend_is_told(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    await visitor.context.add_init_script(RELOAD_WHEN_MINED)
    await visitor.context.route("**/api/sessions/**", lambda route: route.abort())  # only the receipt tells it
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await ended(page)
    await reached(page, "settled")
    assert await page.evaluate("sessionStorage.reloaded") == "yes"
    await until(lambda: told_backend(lesson))


async def test_reload__settled__is_still_shown_and_told_only_once(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    await press(page, PAY)
    await ended(page)
    await until(lambda: posts)
    await page.reload()
    await ended(page)
    await expect(page.get_by_text("Settled. The lesson has ended and is paid.")).to_be_visible()
    assert len(posts) == 1


async def test_reload__two_hours_later__what_was_begun_is_forgotten(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    with stack.nothing_mined():
        await press(page, PAY)
        await reached(page, "sent")
        await visitor.context.add_init_script("const now = Date.now; Date.now = () => now() + 7_201_000")
        await page.reload()
        await expect(page.get_by_role("button", name=PAY)).to_be_visible()
    await ended(page)


async def test_reload__while_signing__offers_to_ask_again(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    visitor.wallet.holds = {"personal_sign"}
    await press(page, FOR_ME)
    await reached(page, "signed")
    await page.reload()
    await expect(page.get_by_text("This page was reloaded while your wallet was asking.")).to_be_visible()
    visitor.wallet.holds = set()
    await press(page, "Ask again")
    await ended(page)


# Two tabs ------------------------------------------------------------------------------------------------------------


async def test_two_tabs__one_asks__the_other_cant_and_then_sees_the_same(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    one, other = await visitor.open(lesson.path), await visitor.open(lesson.path)
    visitor.wallet.holds = {"eth_requestAccounts"}
    await press(one, PAY)
    await press(other, PAY)
    await expect(other.get_by_text("Another tab is already asking your wallet.")).to_be_visible()
    visitor.wallet.holds = set()
    await ended(one)
    await ended(other)
    await expect(other.get_by_text("Settled. The lesson has ended and is paid.")).to_be_visible()
    assert len(visitor.wallet.sent("eth_sendTransaction")) == 1


# Which lesson --------------------------------------------------------------------------------------------------------


async def test_pending_session__written_in_the_documented_format__finds_the_lesson(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    await page.wait_for_function("sessionStorage.pendingSession")
    pending = await page.evaluate("JSON.parse(sessionStorage.pendingSession)")
    assert {"requestId", "tutorAddress", "studentAddress", "languageId", "startTime"} == set(pending)
    assert pending["tutorAddress"] == lesson.tutor
    await page.goto(stack.url + "/s/")
    await page.wait_for_url("**" + lesson.path)
    await press(page, PAY)
    await ended(page)
    assert await page.evaluate("sessionStorage.pendingSession") is None


async def test_pending_session__two_hours_old__is_forgotten(stack: Stack, visit: Visit) -> None:
    visitor = await visit()
    page = await visitor.open("/s/")
    await expect(page.get_by_text("No lesson is open in this tab.")).to_be_visible()
    said = "sessionStorage.pendingSession = JSON.stringify({requestId: '7', startTime: Date.now() - %d})"
    await page.evaluate(said % (2 * 3600 * 1000 + 1))
    await press(page, "Look again")
    assert await page.evaluate("sessionStorage.pendingSession") is None
    await page.evaluate(said % (2 * 3600 * 1000 - 60_000))
    await press(page, "Look again")
    await page.wait_for_url("**/s/7")
