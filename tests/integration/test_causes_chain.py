"""What happens on the chain while a daemon runs, by its real cause: another user of its key, fees above the caps, a
race for a tutor's slot, a node that leaves logs out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot.chain.fees import GWEI
from bot.chain.follower.finality import FINALITY_EVERY, STILL_S
from tests.integration.test_cli_daemon import running, settings, until
from tests.integration.test_operator_site import TOKEN, Site
from tests.support.anvil import ENGLISH, OWNER_KEY, calldata, langdao
from tests.support.proxy import Proxy, each_call, relay
from tests.support.record import inside
from tests.support.sender import HIGH_FEE


@dataclass
class Daemon:
    """A keeper in direct mode, on a chain whose blocks come as the test wants."""

    site: Site
    proxy: Proxy
    given: dict[str, Any]

    def lesson(self, student: int, tutor: int) -> int:
        """A session that the keeper knows."""
        self.site.world.start(student, tutor)
        number = self.site.world.counter()
        until(lambda: f'href="/session/{number}"' in self.site.ask("/").text)
        return number

    def settle(self, number: int) -> None:
        said = self.site.ask("/act/settle", {"session_id": number}, Authorization=f"Bearer {TOKEN}")
        assert said.code == 200, said.text

    def unmined(self, number: int) -> dict[str, Any]:
        """Has it ended, with a transaction that nobody mines: that transaction."""
        self.rpc("evm_setAutomine", False)
        self.settle(number)
        return until(lambda: [tx for tx in self.txs() if tx["sessions"] == [number] and tx["state"] == "sent"])[0]

    def txs(self) -> list[dict[str, Any]]:
        return list(inside(self.site.home, "txs", "--json", **self.given).json())

    def mine(self, base_fee: int = GWEI) -> None:
        """A block that takes what bids this much."""
        self.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        self.site.world.node.mine()

    def told(self, alert: str, *, each_time: Callable[[], None] = lambda: None) -> None:
        """Waits for the alert."""
        until(lambda: (each_time(), f'"event": "{alert}"' in (self.site.home / "log").read_text())[1])

    def bids(self, sender: str, signature: str, *values: Any, fee: int) -> None:
        """A participant's transaction that bids so much."""
        world = self.site.world
        request = {"from": sender, "to": world.contract, "data": calldata(signature, *values), "gas": hex(500_000)}
        self.rpc("eth_sendTransaction", request | {"maxFeePerGas": hex(fee), "maxPriorityFeePerGas": hex(fee // 2)})

    def over(self, tutor: int) -> None:
        """Lets blocks come until this tutor's session has ended."""
        self.rpc("evm_setAutomine", True)
        until(lambda: (self.mine(), not self.site.world.is_active(tutor))[1])

    def head(self) -> int:
        found = re.search(r"^langdao_keeper_head_block (\S+)", self.site.ask("/metrics").text, re.MULTILINE)
        return int(float(found[1])) if found else -1

    def rpc(self, method: str, *params: Any) -> Any:
        return self.site.world.node.rpc(method, *params)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("direct")
    with langdao("--order", "fees", students=4, tutors=4) as world, relay(world.node.url) as proxy:
        more = {"OPERATOR_TOKEN": TOKEN, "POLL_INTERVAL_S": 0.2, "RPC_URL": proxy.url}
        given = settings(world, home, BACKEND_PRIVATE_KEY=OWNER_KEY, **more)
        with running(home, "run", **given):
            site = Site(given["HTTP_BIND"], world, home)
            until(site.up)
            yield Daemon(site, proxy, given)


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """Its chain is as it was, afterwards."""
    shared.mine()
    yield shared
    shared.proxy.after = lambda body, reply: reply
    shared.rpc("evm_setAutomine", True)
    shared.mine()


@pytest.mark.provokes("alert.balance-low")
def test_balance__good_for_few_settlements_at_the_start__is_told_with_how_many(tmp_path: Path) -> None:
    with langdao(students=1, tutors=1) as world:
        world.node.rpc("anvil_setBalance", world.owner, hex(11 * 10**15))  # MIN_BALANCE_ETH and a tenth of it
        with running(tmp_path, "run", **settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY)):
            until(lambda: "alert.balance-low" in (tmp_path / "log").read_text())
        assert re.search(r"enough for about \d more settlements", (tmp_path / "log").read_text())


@pytest.mark.provokes("alert.fee-cap")
def test_fees__above_every_cap__is_told_and_ended_when_they_fall(daemon: Daemon) -> None:
    number = daemon.lesson(0, 0)
    daemon.rpc("evm_setAutomine", False)
    daemon.mine(500 * GWEI)
    daemon.settle(number)
    daemon.told("alert.fee-cap", each_time=lambda: daemon.mine(500 * GWEI))
    assert daemon.site.world.is_active(0)
    daemon.over(0)


@pytest.mark.provokes("alert.foreign-nonce")
def test_nonce__used_by_another_program_with_the_same_key__is_told_and_signed_again(daemon: Daemon) -> None:
    number = daemon.lesson(1, 1)
    ours = daemon.unmined(number)
    owner = daemon.site.world.owner
    daemon.rpc("anvil_dropTransaction", ours["hash"])
    foreign = {"from": owner, "to": owner, "nonce": hex(ours["nonce"]), "gas": hex(21_000)}
    daemon.rpc("eth_sendTransaction", foreign | {"maxFeePerGas": hex(HIGH_FEE)})
    daemon.mine()
    daemon.told("alert.foreign-nonce", each_time=daemon.mine)
    daemon.over(1)


@pytest.mark.provokes("alert.wrong-session")
def test_race__next_lesson_began_in_the_same_block__is_told(daemon: Daemon) -> None:
    """In one block in the order [student ends, next student starts, owner ends], all three succeed"""
    world = daemon.site.world
    daemon.unmined(daemon.lesson(2, 2))
    daemon.bids(world.students[2], "endSession(address)", world.tutors[2], fee=3 * HIGH_FEE)
    daemon.bids(world.students[3], "startSession(address,uint8)", world.tutors[2], ENGLISH, fee=2 * HIGH_FEE)
    daemon.mine()
    assert not world.is_active(2)
    daemon.told("alert.wrong-session", each_time=daemon.mine)
    daemon.rpc("evm_setAutomine", True)


@pytest.mark.provokes("alert.logs-differ")
def test_logs__left_out_by_the_node__are_taken_at_the_second_look_and_told(daemon: Daemon) -> None:
    world = daemon.site.world
    daemon.proxy.after = each_call("eth_getLogs", lambda call, reply: reply | {"result": []})
    world.start(3, 3)
    number = world.counter()
    daemon.mine()
    until(lambda: daemon.head() == world.node.number())
    assert f'href="/session/{number}"' not in daemon.site.ask("/").text
    daemon.proxy.after = lambda body, reply: reply
    daemon.told("alert.logs-differ", each_time=daemon.mine)
    until(lambda: f'href="/session/{number}"' in daemon.site.ask("/").text)


@pytest.mark.provokes("alert.finality-still")
def test_finality__of_the_node_stands_still_for_hours__is_told_and_stops_nothing(daemon: Daemon) -> None:
    frozen = daemon.rpc("eth_getBlockByNumber", "finalized", False)

    def still(call: Any, reply: Any) -> Any:
        return reply | {"result": frozen} if call["params"][0] == "finalized" else reply

    daemon.proxy.after = each_call("eth_getBlockByNumber", still)
    node = daemon.site.world.node
    node.mine(FINALITY_EVERY)  # it looks at finality once more before the time goes by
    until(lambda: daemon.head() == node.number())
    daemon.rpc("evm_increaseTime", STILL_S + 1)
    daemon.told("alert.finality-still", each_time=lambda: node.mine(8))
    number = daemon.lesson(0, 0)
    daemon.settle(number)
    daemon.over(0)
