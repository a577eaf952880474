"""`doctor` on settings, node, contract and key: each finding by its real cause."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.ops import doctor
from tests.support.anvil import OWNER_KEY, World, anvil, langdao
from tests.support.commands import on_terminal
from tests.support.doctor import OTHER_KEY, examined, found, results, settings
from tests.support.guarded import delegate
from tests.support.proxy import Proxy
from tests.support.record import inside
from tests.support.servers import free_port

CHECKS = [name for stage in doctor.STAGES for name in stage]


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A chain that is only looked at."""
    with langdao(students=1, tutors=1) as one:
        yield one


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=1, tutors=1) as one:
        yield one


def always(world: World, *code: str) -> str:
    """A contract that answers every call with the word that this code leaves on the stack."""
    runtime = "".join(code) + "5f5260205ff3"
    size = len(runtime) // 2
    creation = f"{0x5F + size:02x}{runtime}5f5260{size:02x}60{32 - size:02x}f3"
    return str(world.receipt(world.send(world.owner, None, "0x" + creation))["contractAddress"])


# All of it -----------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.settings.failed")
def test_doctor__nothing_set__json_lists_every_check_and_the_text_names_both_settings(tmp_path: Path) -> None:
    """it says that alone, and exits 2 as they do; --json lists every check, always"""
    said = examined(tmp_path)
    assert len(said) >= 15
    assert said["settings"]["result"] == "failed"
    assert "RPC_URL is not set" in said["settings"]["value"]
    assert "CONTRACT_ADDRESS is not set" in said["settings"]["value"]
    assert inside(tmp_path, "doctor", "--json").code == 1
    done = inside(tmp_path, "doctor")
    assert (done.code, done.out) == (2, "")
    assert "RPC_URL is not set" in done.err
    assert "CONTRACT_ADDRESS is not set" in done.err
    assert len(done.err.splitlines()) <= 6


def test_doctor__only_a_node__the_rest_is_listed_and_nothing_fails(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared))
    assert results(said, "settings", "rpc", "contract", "clock", "finality", "owner", "database") == ["ok"] * 7
    assert results(said, "balance", "nonce", "backend", "redis", "schema", "keeper") == ["skipped"] * 6


@pytest.mark.provokes("doctor.settings.failed", "doctor.redis")
def test_doctor__several_settings_cant_be__are_all_named_and_the_others_looked_at(
    shared: World, tmp_path: Path
) -> None:
    """A setting that can't be read keeps only those checks from running that need it."""
    wrong = {"HTTP_BIND": "everywhere", "BACKEND_PRIVATE_KEY": "0x12", "PUBLIC_URL": "nonsense", "MASS_END_SHARE": 7}
    both = {"SOCKET_URL": "http://127.0.0.1:9", "NEXT_PUBLIC_BACKEND_URL": "http://elsewhere"}
    said = examined(tmp_path, **settings(shared, **wrong, **both, REDIS_URL="redis://127.0.0.1:9"))
    assert said["settings"]["result"] == "failed"
    assert all(name in said["settings"]["value"] for name in (*wrong, *both))
    assert results(said, "rpc", "contract", "owner", "redis") == ["ok", "ok", "ok", "failed"]
    assert results(said, "key", "public-url", "webhook", "backend") == ["skipped"] * 4
    assert said["key"]["value"] == "BACKEND_PRIVATE_KEY can't be read"


def test_doctor__env_file_that_is_no_text__is_a_finding_and_other_commands_say_so(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"RPC_URL=\xff\xfe\n")
    assert ".env can't be read" in examined(tmp_path)["settings"]["value"]
    done = inside(tmp_path, "status")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert ".env can't be read" in done.err


def test_doctor__nothing_answers_anywhere__is_over_within_30_s_and_fails_each(shared: World, tmp_path: Path) -> None:
    """takes at most 30 s"""
    with contextlib.ExitStack() as stack:

        def silent() -> str:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            return f"127.0.0.1:{server.getsockname()[1]}"

        deaf = {
            "SOCKET_URL": f"http://{silent()}",
            "REDIS_URL": f"redis://{silent()}",
            "SIGNALLING_URL": f"ws://{silent()}",
            "DATABASE_URL": f"postgresql://{silent()}/keeper",
            "REMOTE_SIGNER_URL": f"http://{silent()}",
            "REMOTE_SIGNER_ADDRESS": shared.owner,
        }
        began = time.monotonic()
        said = examined(tmp_path, **settings(shared, RPC_URL=f"http://{silent()},ws://{silent()}", **deaf))
        reachable = examined(tmp_path, **settings(shared, **deaf))
        took_s = time.monotonic() - began
    assert took_s < 60
    assert results(said, "rpc", "backend", "redis", "signalling", "database") == ["failed"] * 5
    assert results(reachable, "key", "backend", "redis", "signalling", "database") == ["failed"] * 5
    assert reachable["backend"]["value"].endswith("no answer in time")


@pytest.mark.provokes("doctor.names.warning")
def test_doctor__slip_in_a_name__is_named_with_the_right_one(shared: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\nexport APPRISE_URL=json://127.0.0.1\nFAVOURITE_COLOUR=blue\nPORT=4000\n"
    )
    said = examined(tmp_path, **settings(shared, SOKET_URL="http://127.0.0.1:1"))["names"]
    assert said["result"] == "warning"
    assert said["value"] == (
        "not read: APPRISE_URL (did you mean APPRISE_URLS?), FAVOURITE_COLOUR, SOKET_URL (did you mean SOCKET_URL?)"
    )


# The node ------------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.rpc.failed")
def test_doctor__node_out_of_reach__fails_and_its_secrets_stay_out(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, RPC_URL="http://u:hunter22@127.0.0.1:9/key0123456789abcdef"))
    assert results(said, "rpc", "contract", "owner", "database") == ["failed", "skipped", "skipped", "skipped"]
    assert "hunter22" not in str(said)


@pytest.mark.provokes("doctor.rpc.failed")
def test_doctor__endpoints_of_two_chains__fails(shared: World, tmp_path: Path) -> None:
    with anvil("--chain-id", "4242") as other:
        said = examined(tmp_path, **settings(shared, RPC_URL=f"{shared.node.url},{other.url}"))
    assert said["rpc"]["result"] == "failed"
    assert "is chain 4242" in said["rpc"]["value"]


@pytest.mark.provokes("doctor.rpc.warning")
def test_doctor__one_endpoint_of_two_down__warns(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, RPC_URL=f"{shared.node.url},http://127.0.0.1:9"))
    assert said["rpc"]["result"] == "warning"
    assert "127.0.0.1:9" in said["rpc"]["value"]


@pytest.mark.provokes("doctor.sync.warning")
async def test_doctor__one_endpoint_far_behind__warns(shared: World) -> None:
    with anvil("--chain-id", "31337") as late:
        shared.node.mine(10)
        said = await found(shared, rpc_url=f"{shared.node.url},{late.url}")
    assert said["sync"].result == "warning"
    assert f"{late.url} is" in said["sync"].value


@pytest.mark.provokes("doctor.sync.warning")
async def test_doctor__node_that_syncs__warns(shared: World) -> None:
    """Anvil is never behind a network; the answer is a syncing geth's."""
    said = await with_answers(shared, "eth_syncing", {"result": {"currentBlock": "0x10", "highestBlock": "0x99"}})
    assert (said["sync"].result, "still syncing" in said["sync"].value) == ("warning", True)


@pytest.mark.provokes("doctor.websocket")
async def test_doctor__websocket_that_nobody_serves__fails(shared: World) -> None:
    said = await found(shared, rpc_url=f"{shared.node.url},ws://127.0.0.1:{free_port()}")
    assert said["websocket"].result == "failed"


def test_doctor__node_by_websocket__announces_heads_and_takes_the_range(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, RPC_URL=shared.node.url.replace("http", "ws")))
    assert results(said, "websocket", "sync", "ranges") == ["ok"] * 3
    assert "blocks at once" in said["ranges"]["value"]
    assert results(examined(tmp_path, **settings(shared)), "websocket") == ["skipped"]


@pytest.mark.provokes("doctor.clock.warning")
async def test_doctor__chain_ahead_of_this_clock__warns(world: World) -> None:
    world.node.rpc("evm_setNextBlockTimestamp", int(time.time()) + 3_600)
    world.node.mine()
    assert (await found(world))["clock"].result == "warning"


@pytest.mark.provokes("doctor.clock.warning")
async def test_doctor__chain_without_a_block_for_an_hour__warns() -> None:
    with langdao("--timestamp", str(int(time.time()) - 3_600), students=0, tutors=0) as world:
        said = (await found(world))["clock"]
    assert said.result == "warning"
    assert "in sync" in (said.remedy or "")


async def with_answers(world: World, method: str, answer: dict[str, Any], **when: Any) -> dict[str, doctor.Check]:
    """What is found through a node that answers this to one method (and, if given, these parameters)."""
    async with Proxy(world.node.url) as proxy:

        def before(body: Any) -> Any:
            asked = body if isinstance(body, list) else [body]
            if not any(call["method"] == method and str(when.get("of", "")) in str(call["params"]) for call in asked):
                return None
            said = [{"jsonrpc": "2.0", "id": call["id"], **answer} for call in asked]
            return said if isinstance(body, list) else said[0]

        proxy.before = before
        return await found(world, rpc_url=proxy.url)


@pytest.mark.provokes("doctor.finality.warning")
async def test_doctor__node_without_a_finalized_block__warns(shared: World) -> None:
    """Anvil names one; nodes of some chains don't."""
    said = await with_answers(shared, "eth_getBlockByNumber", {"result": None}, of="finalized")
    assert said["finality"].result == "warning"


@pytest.mark.provokes("doctor.ranges.warning")
async def test_doctor__node_that_gives_no_logs__warns(shared: World) -> None:
    said = await with_answers(shared, "eth_getLogs", {"error": {"code": -32601, "message": "no such method"}})
    assert said["ranges"].result == "warning"


async def test_doctor__node_that_refuses_the_range__is_fine_with_smaller_pages(shared: World) -> None:
    said = await with_answers(shared, "eth_getLogs", {"error": {"code": -32005, "message": "block range too large"}})
    assert said["ranges"].result == "ok"
    assert "smaller pages" in said["ranges"].value


# The contract --------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.contract.failed")
def test_doctor__no_contract_there__fails_and_skips_what_needs_it(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, CONTRACT_ADDRESS="0x" + "11" * 20))
    assert results(said, "contract", "owner") == ["failed", "skipped"]


@pytest.mark.provokes("doctor.owner.failed")
async def test_doctor__contract_of_another_kind__fails(world: World) -> None:
    assert (await found(world, contract_address=world.token))["owner"].result == "failed"
    obliging = always(world, "30")  # its own address, whatever it is asked
    assert (await found(world, contract_address=obliging))["owner"].result == "failed"


@pytest.mark.provokes("doctor.owner.warning")
async def test_doctor__token_with_other_decimals__warns(world: World) -> None:
    eighteen = always(world, "6012")
    world.node.rpc("anvil_setCode", world.token, world.node.rpc("eth_getCode", eighteen, "latest"))
    said = (await found(world))["owner"]
    assert (said.result, "18 decimals" in said.value) == ("warning", True)


@pytest.mark.provokes("doctor.guard.warning")
async def test_doctor__owner_delegates_to_something_else__warns(world: World) -> None:
    delegate(world, world.token)
    assert (await found(world))["guard"].result == "warning"


# The key -------------------------------------------------------------------------------------------------------------


def test_doctor__owners_key__is_ok_with_its_balance(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, BACKEND_PRIVATE_KEY=OWNER_KEY))
    assert results(said, "key", "balance", "nonce") == ["ok"] * 3
    assert "settlements" in said["balance"]["value"]
    assert OWNER_KEY[2:] not in str(said)


@pytest.mark.provokes("doctor.key.failed")
def test_doctor__somebody_elses_key__fails_and_exits_1(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, BACKEND_PRIVATE_KEY=OTHER_KEY))
    assert said["key"]["result"] == "failed"
    assert "docs/guard.md" in said["key"]["remedy"]


@pytest.mark.provokes("doctor.key.warning")
async def test_doctor__no_key_or_a_dry_run__warns_that_it_only_watches(shared: World) -> None:
    assert (await found(shared))["key"].result == "warning"
    said = (await found(shared, backend_private_key=OWNER_KEY, dry_run=True))["key"]
    assert (said.result, "DRY_RUN" in (said.remedy or "")) == ("warning", True)


@pytest.mark.provokes("doctor.balance.failed", "doctor.balance.warning")
async def test_doctor__account_empty_or_nearly__fails_or_warns(world: World) -> None:
    seen = []
    for wei in (10**15, 11 * 10**15):
        world.node.rpc("anvil_setBalance", world.owner, hex(wei))
        seen.append((await found(world, backend_private_key=OWNER_KEY))["balance"])
    assert [check.result for check in seen] == ["failed", "warning"]
    assert "MIN_BALANCE_ETH" in seen[0].value
    assert all(world.owner in (check.remedy or "") for check in seen)


@pytest.mark.provokes("doctor.nonce.warning")
async def test_doctor__transactions_of_the_key_wait_in_the_pool__warns(world: World) -> None:
    world.stop_mining()
    world.do(world.owner, "mint(address,uint256)", world.owner, 1, to=world.token)
    assert (await found(world, backend_private_key=OWNER_KEY))["nonce"].result == "warning"


def test_doctor__on_a_terminal__long_lines_go_on_below_their_beginning(shared: World, tmp_path: Path) -> None:
    lines = on_terminal(tmp_path, "doctor", columns=80, **settings(shared))
    assert max(map(len, lines)) <= 80
    [at] = [at for at, line in enumerate(lines) if line.startswith("ok       hints ")]
    assert lines[at + 1].startswith(" " * lines[at].index("TRUST"))
