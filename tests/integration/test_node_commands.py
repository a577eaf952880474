"""`stranded` and `doctor` against a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI, Request

from bot.chain.rpc import Rpc
from bot.ops import doctor, stranded
from bot.settings import Settings
from tests.support.anvil import RATE, World, anvil, langdao
from tests.support.record import Record, inside, record
from tests.support.servers import RedisServer, serving
from tests.support.signalling import SignallingServer

OWNER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
OTHER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Four sessions: 1 has ended, 2 and 3 are of one student, 4 of another."""
    with langdao() as one:
        one.start(0, 0)
        one.end(0)
        one.start(0, 0)
        one.start(0, 1)
        one.start(1, 2)
        yield one


def settings(world: World, **more: Any) -> dict[str, Any]:
    return {"RPC_URL": world.node.url, "CONTRACT_ADDRESS": world.contract} | more


# stranded ------------------------------------------------------------------------------------------------------------


def test_stranded__active_and_ended__lists_the_active_with_costs_and_a_total(world: World, tmp_path: Path) -> None:
    found = inside(tmp_path, "stranded", "--json", **settings(world)).json()
    assert [line["session_id"] for line in found["sessions"]] == [2, 3, 4]
    assert found["sessions_ever"] == 4
    at = found["head"]["at"]
    for line in found["sessions"]:
        assert line["cost"] == str(RATE * (at - line["started_at"]))
        assert line["cost_per_hour"] == str(3600 * RATE)
        assert line["settle"] == f"langdao-keeper settle {line['session_id']}"
    assert found["total"]["cost"] == str(sum(int(line["cost"]) for line in found["sessions"]))
    assert found["total"]["cost_per_hour"] == str(3 * 3600 * RATE)


def test_stranded__people__first_line_says_what_the_chain_cant_tell(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "stranded", **settings(world))
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("The chain alone can't tell a running lesson from a stranded one")
    assert "langdao-keeper settle 2" in done.out
    assert done.out.splitlines()[-1].startswith("Total: ")


def test_stranded__needs__neither_database_nor_key(world: World, tmp_path: Path) -> None:
    inside(tmp_path, "stranded", **settings(world))
    assert list(tmp_path.rglob("*.db")) == []


def test_stranded__shared_balance_used_up__says_since_when_and_counts_it_once(tmp_path: Path) -> None:
    with langdao() as world:
        world.start(0, 0)
        world.start(0, 1)
        world.node.rpc("evm_increaseTime", 600_000)  # both together have used up 1000 PYUSD after 500,000 s
        world.node.mine()
        found = inside(tmp_path, "stranded", "--json", **settings(world)).json()
    assert [line["drained"] for line in found["sessions"]] == [True, True]
    assert found["total"]["cost"] == "1000000000"
    assert found["total"]["cost_per_hour"] == "0"
    drained_at = found["sessions"][0]["drained_at"]
    assert 499_990 <= drained_at - found["sessions"][0]["started_at"] <= 500_010


def test_stranded__no_sessions__says_so(tmp_path: Path) -> None:
    with langdao(students=0, tutors=0) as world:
        done = inside(tmp_path, "stranded", **settings(world))
    assert done.code == 0
    assert "0 of 0 sessions are active" in done.out


def test_stranded__no_contract_there__exits_2_in_the_agreed_words(world: World, tmp_path: Path) -> None:
    nobody = "0x" + "11" * 20
    done = inside(tmp_path, "stranded", **settings(world, CONTRACT_ADDRESS=nobody))
    assert done.code == 2
    assert "CONTRACT_ADDRESS: no code at 0x1111111111111111111111111111111111111111 on chain 31337" in done.err
    assert "Check RPC_URL." in done.err


def test_stranded__another_contract_there__exits_2_without_a_traceback(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "stranded", **settings(world, CONTRACT_ADDRESS=world.token))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


async def test_read__small_pages__find_the_same_and_report_progress(world: World) -> None:
    rpc = Rpc([world.node.url])
    told: list[tuple[int, int]] = []
    whole = await stranded.read(rpc, world.contract, first_answer_s=10)
    paged = await stranded.read(
        rpc, world.contract, first_answer_s=10, page=2, progress=lambda done, of: told.append((done, of))
    )
    await rpc.close()
    assert paged.sessions == whole.sessions
    assert told == [(2, 4), (4, 4)]


# doctor --------------------------------------------------------------------------------------------------------------


def examined(world: World, home: Path, **more: Any) -> dict[str, dict[str, Any]]:
    done = inside(home, "doctor", "--json", **settings(world, **more))
    found = done.json()
    assert found["ok"] == all(check["result"] != "failed" for check in found["checks"])
    assert done.code == 0 if found["ok"] else done.code in (1, 2)
    assert [check["name"] for check in found["checks"]] == [name for stage in doctor.STAGES for name in stage]
    return {check["name"]: check for check in found["checks"]}


def results(found: dict[str, dict[str, Any]], *names: str) -> list[str]:
    return [found[name]["result"] for name in names]


@pytest.fixture
def one(world: World, tmp_path: Path) -> Record:
    """A database that belongs to this world."""
    made = record(tmp_path / "keeper.db", identity=False)
    made.identity(contract=world.contract)
    made.meta(genesis_hash=world.node.header(0)["hash"])
    return made


def test_doctor__only_a_node__the_rest_is_listed_and_nothing_fails(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path)
    assert len(found) >= 15
    assert results(found, "settings", "rpc", "contract", "clock", "finality", "owner", "database") == ["ok"] * 7
    assert results(found, "balance", "nonce", "backend", "redis", "schema", "keeper") == ["skipped"] * 6
    assert all(check["remedy"] for check in found.values() if check["result"] in ("warning", "failed"))


def test_doctor__nothing_can_report_an_end__warns_with_the_way_out(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path)["ends"]
    assert found["result"] == "warning"
    assert "SOCKET_URL" in found["remedy"]


def test_doctor__owners_key__is_ok_with_its_balance(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY)
    assert results(found, "key", "balance", "nonce") == ["ok"] * 3
    assert "settlements" in found["balance"]["value"]
    assert OWNER_KEY[2:] not in str(found)


def test_doctor__somebody_elses_key__fails_and_exits_1(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, BACKEND_PRIVATE_KEY=OTHER_KEY)
    assert found["key"]["result"] == "failed"
    assert "docs/guard.md" in found["key"]["remedy"]
    assert inside(tmp_path, "doctor", **settings(world, BACKEND_PRIVATE_KEY=OTHER_KEY)).code == 1


def test_doctor__balance_below_the_minimum__fails(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, MIN_BALANCE_ETH=1_000_000)
    assert found["balance"]["result"] == "failed"
    assert "MIN_BALANCE_ETH" in found["balance"]["value"]


def test_doctor__no_contract_there__fails_and_skips_what_needs_it(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, CONTRACT_ADDRESS="0x" + "11" * 20)
    assert results(found, "contract", "owner") == ["failed", "skipped"]


def test_doctor__node_out_of_reach__exits_2_and_lists_every_check(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, RPC_URL="http://u:hunter22@127.0.0.1:9/key0123456789abcdef")
    assert results(found, "rpc", "contract", "owner", "database") == ["failed", "skipped", "skipped", "skipped"]
    assert "hunter22" not in str(found)
    text = inside(tmp_path, "doctor", **settings(world, RPC_URL="http://127.0.0.1:9"))
    assert text.code == 2
    assert len(text.text.splitlines()) <= 6


def test_doctor__one_endpoint_of_two_down__warns(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, RPC_URL=f"{world.node.url},http://127.0.0.1:9")
    assert found["rpc"]["result"] == "warning"
    assert "127.0.0.1:9" in found["rpc"]["value"]


def test_doctor__setting_of_the_wrong_kind__is_the_first_check(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "doctor", "--json", **settings(world, HTTP_BIND="everywhere"))
    assert done.code == 2
    first, *rest = done.json()["checks"]
    assert first["result"] == "failed"
    assert "HTTP_BIND" in first["value"]
    assert {check["result"] for check in rest} == {"skipped"}


def test_doctor__own_database__is_ok_and_nobody_runs(world: World, one: Record, tmp_path: Path) -> None:
    found = examined(world, tmp_path, DATABASE_URL=one.url)
    assert results(found, "database", "schema", "identity", "keeper") == ["ok", "ok", "ok", "warning"]


def test_doctor__database_of_another_chain__fails(world: World, one: Record, tmp_path: Path) -> None:
    one.meta(genesis_hash="0x" + "99" * 32)
    found = examined(world, tmp_path, DATABASE_URL=one.url)
    assert found["identity"]["result"] == "failed"
    assert "DATABASE_URL" in found["identity"]["remedy"]


def test_doctor__posts_were_received__an_end_can_be_reported(world: World, one: Record, tmp_path: Path) -> None:
    one.fact("heartbeat", source="webhook")
    secret = tmp_path / "keeper.db.webhook"
    secret.write_text("s" * 43)
    secret.chmod(0o600)
    found = examined(world, tmp_path, DATABASE_URL=one.url)
    assert results(found, "webhook", "ends") == ["ok", "ok"]
    assert "s" * 43 not in str(found)


def test_doctor__webhook_secret_others_may_read__fails(world: World, one: Record, tmp_path: Path) -> None:
    secret = tmp_path / "keeper.db.webhook"
    secret.write_text("s" * 43)
    secret.chmod(0o644)
    assert examined(world, tmp_path, DATABASE_URL=one.url)["webhook"]["result"] == "failed"


def test_doctor__backend_and_redis_out_of_reach__fail(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, SOCKET_URL="http://127.0.0.1:9", REDIS_URL="redis://:hunter22@127.0.0.1:9")
    assert results(found, "backend", "redis", "ends") == ["failed", "failed", "ok"]
    assert "hunter22" not in str(found)


async def test_doctor__backend_without_socketio__fails(world: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"<html>hello</html>"})

    async with serving(app) as url:
        found = await _checks(world, socket_url=url)
    assert found["backend"].result == "failed"
    assert "no Socket.IO" in found["backend"].value


async def test_doctor__bundled_backend_and_redis__are_ok(world: World) -> None:
    from bot.web.gateway import GatewayConfig, create_gateway

    gateway = create_gateway(GatewayConfig(bind="127.0.0.1:0", token="token", hook_secret="s" * 43))
    with RedisServer() as redis:
        async with serving(gateway) as url:
            found = await _checks(world, socket_url=url, redis_url=redis.url, gateway_token="token")
    assert (found["backend"].result, found["redis"].result, found["nudges"].result) == ("ok", "ok", "ok")


async def _checks(world: World, **more: Any) -> dict[str, doctor.Check]:
    named = {"rpc_url": world.node.url, "contract_address": world.contract} | more
    given = Settings(_env_file=None, **named)  # type: ignore[arg-type]
    return {check.name: check for check in await doctor.examine(given)}


async def test_doctor__bundled_backend__is_known_as_that(world: World) -> None:
    from bot.web.gateway import GatewayConfig, create_gateway

    gateway = create_gateway(GatewayConfig(bind="127.0.0.1:0", token="token", hook_secret="s" * 43))
    async with serving(gateway) as url:
        found = await _checks(world, socket_url=url)
    assert "the bundled backend" in found["backend"].value


def test_doctor__slip_in_a_name__is_named_with_the_right_one(world: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\nexport APPRISE_URL=json://127.0.0.1\nFAVOURITE_COLOUR=blue\nPORT=4000\n"
    )
    found = examined(world, tmp_path, SOKET_URL="http://127.0.0.1:1")["names"]
    assert found["result"] == "warning"
    assert found["value"] == (
        "not read: APPRISE_URL (did you mean APPRISE_URLS?), FAVOURITE_COLOUR, SOKET_URL (did you mean SOCKET_URL?)"
    )


def test_doctor__node_by_websocket__announces_heads_and_takes_the_range(world: World, tmp_path: Path) -> None:
    found = examined(world, tmp_path, RPC_URL=world.node.url.replace("http", "ws"))
    assert results(found, "websocket", "sync", "ranges") == ["ok"] * 3
    assert "blocks at once" in found["ranges"]["value"]
    assert results(examined(world, tmp_path), "websocket") == ["skipped"]


async def test_doctor__one_endpoint_far_behind__warns(world: World) -> None:
    with anvil("--chain-id", "31337") as late:
        world.node.mine(10)
        found = await _checks(world, rpc_url=f"{world.node.url},{late.url}")
    assert found["sync"].result == "warning"
    assert f"{late.url} is" in found["sync"].value


async def test_doctor__node_that_refuses_the_range__is_fine_with_smaller_pages(world: World) -> None:
    app = FastAPI()

    @app.post("/")
    async def forward(request: Request) -> Any:
        asked = await request.json()
        if isinstance(asked, dict) and asked["method"] == "eth_getLogs":
            return {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32005, "message": "block range too large"}}
        async with aiohttp.ClientSession() as http, http.post(world.node.url, json=asked) as answer:
            return await answer.json()

    async with serving(app) as url:
        found = await _checks(world, rpc_url=url)
    assert found["ranges"].result == "ok"
    assert "smaller pages" in found["ranges"].value


async def test_doctor__little_room_on_the_disk__warns(
    world: World, one: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await _checks(world, database_url=one.url)
    assert found["disk"].result == "ok"
    monkeypatch.setattr("bot.ops.doctor.record.DISK_LOW_BYTES", 1 << 60)  # more than any disk has
    found = await _checks(world, database_url=one.url)
    assert (found["disk"].result, found["disk"].remedy is not None) == ("warning", True)


async def test_doctor__signalling_server__opens_a_room_or_fails(world: World) -> None:
    async with SignallingServer("http://127.0.0.1:9/").serving() as url:
        found = await _checks(world, signalling_url=url)
    assert found["signalling"].result == "ok"
    found = await _checks(world, signalling_url="ws://127.0.0.1:9/")
    assert (found["signalling"].result, found["signalling"].remedy is not None) == ("failed", True)
    assert (await _checks(world))["signalling"].result == "skipped"
