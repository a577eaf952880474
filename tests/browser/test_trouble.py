"""What can go wrong: each time one sentence and one button, and the button helps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from bot.web.gateway import create_gateway
from tests.browser.conftest import Visit
from tests.browser.stack import Stack
from tests.browser.test_ending import FOR_ME, PAY, STILL, ended, press
from tests.integration.test_session_state import plan
from tests.support.gateway import STUDENT, TOKEN, client, config
from tests.support.servers import serving, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def says(page: Page, sentence: str, button: str) -> None:
    """One sentence and one button."""
    await expect(page.get_by_text(sentence)).to_be_visible(timeout=20_000)
    await expect(page.get_by_role("button", name=button, exact=True).first).to_be_visible()


async def test_no_wallet__says_so__and_looks_again(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson, None)
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await says(page, "No wallet was found in this browser.", "Look again")
    await press(page, "Look again")
    await says(page, "No wallet was found in this browser.", "Look again")


@pytest.mark.parametrize(("button", "method"), [(PAY, "eth_sendTransaction"), (FOR_ME, "personal_sign")])
async def test_refused__in_the_wallet__asks_again_when_told_to(
    stack: Stack, visit: Visit, button: str, method: str
) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    visitor.wallet.refuses.add(method)
    page = await visitor.open(lesson.path)
    await press(page, button)
    await says(page, "You said no in your wallet, so nothing was sent.", "Ask again")
    assert lesson.active
    visitor.wallet.refuses.clear()
    await press(page, "Ask again")
    await ended(page)


async def test_wrong_network__switches_and_pays(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    visitor.wallet.chain_id = 1
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await says(page, "Your wallet is on another network than this lesson.", "Switch network")
    assert visitor.wallet.sent("eth_sendTransaction") == []
    await press(page, "Switch network")
    await ended(page)
    assert visitor.wallet.sent("wallet_switchEthereumChain") == [[{"chainId": "0x7a69"}]]


async def test_wrong_network__that_the_wallet_doesnt_know__says_so_again(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    visitor.wallet.chain_id, visitor.wallet.knows_network = 1, False
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await press(page, "Switch network")
    await says(page, "Your wallet is on another network than this lesson.", "Switch network")
    assert lesson.active


async def test_no_gas__the_keeper_ends_it_instead(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    stack.world.node.rpc("anvil_setBalance", lesson.student, hex(1_000))
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await says(page, "Your account has too little ETH to pay the network fee.", "End it for me instead")
    await press(page, "End it for me instead")
    await ended(page)
    assert visitor.wallet.sent("eth_sendTransaction") == []


@pytest.mark.parametrize("button", [PAY, FOR_ME])
async def test_stranger__chooses_another_account(stack: Stack, visit: Visit, button: str) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson, stack.world.owner)
    page = await visitor.open(lesson.path)
    await press(page, button)
    await says(page, "This account is neither the student nor the tutor of this lesson.", "Choose another account")
    assert lesson.active
    visitor.wallet.accounts = [lesson.tutor]
    await press(page, "Choose another account")
    await ended(page)
    assert len(visitor.wallet.sent("wallet_requestPermissions")) == 1


async def test_wallet_asks_already__says_where_to_look(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    visitor.wallet.failing["eth_requestAccounts"] = {"code": -32002, "message": "Already processing"}
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await says(page, "Your wallet is already asking: open it and answer there.", "Ask again")


async def test_wallet_fails__in_an_unknown_way__says_that_nothing_was_changed(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    visitor.wallet.failing["eth_sendTransaction"] = {"code": -32603, "message": "Internal error"}
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await says(page, "That didn't work, and nothing was changed.", "Try again")
    visitor.wallet.failing.clear()
    await press(page, "Try again")
    await ended(page)


async def test_transaction__dropped_by_the_node__is_noticed(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    page = await visitor.open(lesson.path)
    with stack.nothing_mined():
        await press(page, PAY)
        await expect(page.get_by_text("Sent. Waiting for a block.")).to_be_visible()
        for waiting in stack.world.node.rpc("txpool_content")["pending"][stack.key_of(lesson.student)].values():
            stack.world.node.rpc("anvil_dropTransaction", waiting["hash"])
    await expect(page.get_by_text("Your wallet dropped the transaction")).to_be_visible(timeout=40_000)
    assert lesson.active
    await press(page, "Try again")
    await ended(page)


async def test_already_ended__before_the_page_was_opened__shows_the_bill(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    stack.world.end(lesson.tutor_at, by=lesson.student)
    await lesson.is_("ended")
    page = await (await visit(lesson)).open(lesson.path)
    await ended(page)
    await expect(page.get_by_role("button", name=PAY)).to_be_hidden()
    await expect(page.locator("#tx")).to_be_visible()


async def test_already_ended__by_somebody_faster__no_payment_is_made_twice(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    async with stack.line() as line:
        page = await visitor.open(line.url + lesson.path)
        await expect(page.get_by_role("button", name=PAY)).to_be_visible()
        await line.cut()
        stack.world.end(lesson.tutor_at)
        await press(page, PAY)
        await says(page, "This lesson has already ended.", "Show the bill")
        assert visitor.wallet.sent("eth_sendTransaction") == []
        await line.restore()
        await press(page, "Show the bill")
        await ended(page)


@pytest.mark.parametrize("name", ["999999", "req_nobody", "%3Cscript%3Ealert(1)%3C%2Fscript%3E"])
async def test_unknown__says_so__with_404(stack: Stack, visit: Visit, name: str) -> None:
    visitor = await visit()
    page = await visitor.context.new_page()
    answer = await page.goto(f"{stack.url}/s/{name}")
    assert answer is not None
    assert answer.status == 404
    await says(page, "Nothing is known of this lesson here.", "Look again")
    await press(page, "Look again")
    await expect(page.get_by_role("button", name=PAY)).to_be_hidden()


async def test_keeper_paused__says_so__and_one_can_pay(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    await lesson.hang_up()
    page = await (await visit(lesson)).open(lesson.path)
    await stack.command("pause")
    try:
        await says(page, "The keeper is paused and ends nothing for now.", PAY)
        await page.locator("#trouble-button").click()
        await ended(page)
    finally:
        await stack.command("resume")
    assert not lesson.active


async def test_keeper_paused__end_it_for_me__is_noted_and_done_when_it_goes_on(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    await stack.command("pause")
    try:
        await says(page, "The keeper is paused and ends nothing for now.", PAY)
        await press(page, FOR_ME)
        await expect(page.get_by_text("The keeper is paused and ends it as soon as it may.")).to_be_visible()
        assert lesson.active
    finally:
        await stack.command("resume")
    await ended(page)


async def test_backend_down__says_so__and_one_can_pay_all_the_same(stack: Stack, visit: Visit) -> None:
    """the payment still stands: the wallet speaks to the chain, not to the backend"""
    lesson = await stack.lesson()
    async with stack.line() as line:
        page = await (await visit(lesson)).open(line.url + lesson.path)
        await expect(page.get_by_role("button", name=PAY)).to_be_visible()
        await line.cut()
        await says(page, "The server can’t be reached", "Try again")
        before = await page.locator("#clock").inner_text()
        await expect(page.locator("#clock")).not_to_have_text(before)  # it goes on counting
        await press(page, PAY)
        await expect(page.get_by_text("Settled", exact=True)).to_be_visible()
        await until(lambda: not lesson.active)
        await line.restore()
        await page.locator("#trouble-button").click()
        await ended(page)
        await expect(page.locator("#trouble")).to_be_hidden()
        await until(lambda: (lesson.room() or {}).get("ended"), 20)


async def test_statement__backend_down__says_so_and_is_tried_again(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    page = await (await visit(lesson)).open(lesson.path)
    await page.route("**/statements", lambda route: route.abort())
    await press(page, FOR_ME)
    await says(page, "The server can't be reached right now.", "Try again")
    assert lesson.active
    await page.unroute("**/statements")
    await press(page, "Try again")
    await ended(page)


async def test_events_cut_off__asks_again_and_again_instead(stack: Stack, visit: Visit) -> None:
    """live by Server-Sent Events …, by polling when both fail"""
    lesson = await stack.lesson()
    visitor = await visit(lesson)
    await visitor.context.route("**/events", lambda route: route.abort())
    page = await visitor.open(lesson.path)
    await lesson.hang_up()
    await expect(page.get_by_role("heading", name="Please end the lesson and pay")).to_be_visible(timeout=15_000)
    stack.world.end(lesson.tutor_at)
    await expect(page.get_by_role("heading", name="The lesson has ended")).to_be_visible(timeout=15_000)


async def test_two_wallets__one_is_chosen_and_remembered(stack: Stack, visit: Visit) -> None:
    lesson = await stack.lesson()
    visitor = await visit(lesson, names=("First Wallet", "Second Wallet"))
    page = await visitor.open(lesson.path)
    await press(page, PAY)
    await expect(page.get_by_text("Which wallet?")).to_be_visible()
    visitor.wallet.refuses.add("eth_sendTransaction")
    await press(page, "Second Wallet")
    await says(page, "You said no in your wallet", "Ask again")
    visitor.wallet.refuses.clear()
    await press(page, "Ask again")
    await ended(page)
    assert set(visitor.wallet.used) == {"Second Wallet"}


# What the keeper says, told by a keeper that we play ourselves -------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def gateway() -> AsyncIterator[str]:
    async with serving(create_gateway(config(http_requests_per_minute=100_000))) as url:
        yield url


@pytest.mark.parametrize(
    ("hold", "sentence"),
    [
        ("watching", "The keeper only watches and ends nothing."),
        ("set-aside", "The keeper tried to end it and couldn’t."),
        ("paused", "The keeper is paused and ends nothing for now."),
    ],
)
async def test_held__each_reason__has_its_sentence(gateway: str, visit: Visit, hold: str, sentence: str) -> None:
    async with client(gateway, auth={"token": TOKEN}) as keeper:
        said: dict[str, Any] = plan(state="held", reason="ended", why="The lesson was reported as ended.", hold=hold)
        await keeper.call("keeper:session", said)
        page = await (await visit()).open(gateway + "/s/5")
        await says(page, sentence, PAY)


async def test_keeper_away__says_so__until_it_is_back(gateway: str, visit: Visit) -> None:
    visitor = await visit()
    async with client(gateway, auth={"token": TOKEN}) as keeper:
        await keeper.call("keeper:session", plan())
        page = await visitor.open(gateway + "/s/req_1")
        await expect(page.get_by_role("heading", name="Your lesson is running")).to_be_visible()
    await says(page, "The keeper isn’t connected, so nobody ends it for you.", PAY)
    async with client(gateway, auth={"token": TOKEN}):
        await expect(page.locator("#trouble")).to_be_hidden()


async def test_room_without_a_session__says_that_nothing_is_billed(gateway: str, visit: Visit) -> None:
    async with client(gateway) as one:
        await one.call("user:connect", {"address": STUDENT})
        await one.call("session:create", {"requestId": "req_new", "studentAddress": STUDENT, "tutorAddress": STUDENT})
    page = await (await visit()).open(gateway + "/s/req_new")
    await expect(page.get_by_text("Nothing is billed before the student has started the session.")).to_be_visible()
    await expect(page.get_by_role("button", name=STILL)).to_be_hidden()
