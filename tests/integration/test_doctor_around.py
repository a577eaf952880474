"""`doctor` on what is around the keeper: backend, Redis, people, database, disk. Each finding by its real cause."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.responses import JSONResponse

from bot.store.lock import Lock
from tests.support.anvil import World, langdao
from tests.support.doctor import examined, found, results, settings
from tests.support.host import bound_by_modes, small_disk, small_disks
from tests.support.record import Record, inside, record
from tests.support.servers import RedisServer, free_port, serving
from tests.support.signalling import SignallingServer


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A chain that is only looked at."""
    with langdao(students=1, tutors=1) as one:
        yield one


@pytest.fixture
def one(shared: World, tmp_path: Path) -> Record:
    """A database that belongs to this chain."""
    made = record(tmp_path / "keeper.db", identity=False)
    made.identity(contract=shared.contract)
    made.meta(genesis_hash=shared.node.header(0)["hash"])
    return made


def secret(home: Path, mode: int = 0o600) -> str:
    path = home / "keeper.db.webhook"
    path.write_text("s" * 43)
    path.chmod(mode)
    return path.read_text()


# Backend, signalling server, Redis -----------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.backend.failed", "doctor.redis.failed")
def test_doctor__backend_and_redis_out_of_reach__fail(shared: World, tmp_path: Path) -> None:
    gone = {"SOCKET_URL": "http://127.0.0.1:9", "REDIS_URL": "redis://:hunter22@127.0.0.1:9"}
    said = examined(tmp_path, **settings(shared, **gone))
    assert results(said, "backend", "redis", "ends") == ["failed", "failed", "ok"]
    assert said["backend"]["value"] == "http://127.0.0.1:9: nobody listens there"
    assert "hunter22" not in str(said)


@pytest.mark.provokes("doctor.backend.failed")
async def test_doctor__backend_without_socketio__fails(shared: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"<html>hello</html>"})

    async with serving(app) as url:
        said = await found(shared, socket_url=url)
    assert said["backend"].result == "failed"
    assert "no Socket.IO" in said["backend"].value


@pytest.mark.provokes("doctor.backend.warning")
async def test_doctor__backend_refuses_for_its_rate_limit__warns_and_doesnt_doubt_the_address(shared: World) -> None:
    async with serving(JSONResponse({}, 429, {"Retry-After": "60"})) as url:
        said = await found(shared, socket_url=url)
    assert said["backend"].result == "warning"
    assert "HTTP 429" in said["backend"].value
    assert "raise the backend's limit" in said["backend"].remedy


async def test_doctor__bundled_backend_and_redis__are_ok(shared: World) -> None:
    from bot.web.gateway import GatewayConfig, create_gateway

    gateway = create_gateway(GatewayConfig(bind="127.0.0.1:0", token="token", hook_secret="s" * 43))
    with RedisServer() as redis:
        async with serving(gateway) as url:
            said = await found(shared, socket_url=url, redis_url=redis.url, gateway_token="token")
    assert (said["backend"].result, said["redis"].result, said["nudges"].result) == ("ok", "ok", "ok")
    assert "the bundled backend" in said["backend"].value


@pytest.mark.provokes("doctor.signalling.failed")
async def test_doctor__signalling_server__opens_a_room_or_fails(shared: World) -> None:
    async with SignallingServer("http://127.0.0.1:9/").serving() as url:
        said = await found(shared, signalling_url=url)
    assert said["signalling"].result == "ok"
    said = await found(shared, signalling_url="ws://127.0.0.1:9/")
    assert said["signalling"].result == "failed"
    assert (await found(shared))["signalling"].result == "skipped"


# People --------------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.alerts.warning", "doctor.public-url.warning", "doctor.nudges.warning")
async def test_doctor__nothing_set_for_people__warns_each(shared: World) -> None:
    said = await found(shared)
    assert [said[name].result for name in ("alerts", "public-url", "nudges")] == ["warning"] * 3


@pytest.mark.provokes("doctor.nudges.failed")
async def test_doctor__nudge_webhook_without_its_secret__fails(shared: World) -> None:
    said = (await found(shared, nudge_webhook_url="http://127.0.0.1:9/nudge"))["nudges"]
    assert (said.result, "NUDGE_WEBHOOK_SECRET" in said.value) == ("failed", True)


@pytest.mark.provokes("doctor.hints")
async def test_doctor__each_trust_in_hints__is_told_with_its_risk(shared: World) -> None:
    told = {(await found(shared, trust_backend_hints=hints))["hints"].value for hints in ("yes", "corroborated", "no")}
    assert len(told) == 3


@pytest.mark.provokes("doctor.silence.warning")
@pytest.mark.parametrize(("feed_s", "result"), [(45, "ok"), (60, "warning")])
async def test_doctor__feed_counts_as_up_for_longer_than_heartbeats_do__warns(
    shared: World, feed_s: int, result: str
) -> None:
    said = (await found(shared, feed_silence_s=feed_s, heartbeat_timeout_s=60))["silence"]
    assert (said.result, "FEED_SILENCE_S" in str(said.remedy)) == (result, result == "warning")


@pytest.mark.provokes("doctor.ends.warning")
def test_doctor__nothing_can_report_an_end__warns_with_the_way_out(shared: World, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared))["ends"]
    assert said["result"] == "warning"
    assert "SOCKET_URL" in said["remedy"]


# The webhook ---------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.webhook.warning")
def test_doctor__no_secret_yet_or_no_post_with_it__warns(shared: World, one: Record, tmp_path: Path) -> None:
    given = settings(shared, DATABASE_URL=one.url)
    assert "no secret" in examined(tmp_path, **given)["webhook"]["value"]
    hidden = secret(tmp_path)
    said = examined(tmp_path, **given)
    assert said["webhook"]["result"] == "warning"
    assert "no post with it was ever received" in said["webhook"]["value"]
    assert hidden not in str(said)


def test_doctor__posts_were_received__an_end_can_be_reported(shared: World, one: Record, tmp_path: Path) -> None:
    one.fact("heartbeat", source="webhook")
    secret(tmp_path)
    said = examined(tmp_path, **settings(shared, DATABASE_URL=one.url))
    assert results(said, "webhook", "ends") == ["ok", "ok"]


@pytest.mark.provokes("doctor.webhook.failed")
def test_doctor__keeper_runs_and_its_address_doesnt_answer__fails(shared: World, one: Record, tmp_path: Path) -> None:
    one.fact("heartbeat", source="webhook")
    secret(tmp_path)
    lock = Lock(one.database)
    try:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            bind = f"127.0.0.1:{deaf.getsockname()[1]}"
            said = examined(tmp_path, process=True, **settings(shared, DATABASE_URL=one.url, HTTP_BIND=bind))
    finally:
        lock.release()
    assert results(said, "keeper", "webhook") == ["ok", "failed"]
    assert "HTTP_BIND" in said["webhook"]["remedy"]


@pytest.mark.provokes("doctor.webhook.failed")
def test_doctor__webhook_secret_others_may_read__fails(shared: World, one: Record, tmp_path: Path) -> None:
    secret(tmp_path, 0o644)
    assert examined(tmp_path, **settings(shared, DATABASE_URL=one.url))["webhook"]["result"] == "failed"


# The database --------------------------------------------------------------------------------------------------------


@pytest.mark.provokes("doctor.keeper.warning")
def test_doctor__own_database__is_ok_and_nobody_runs(shared: World, one: Record, tmp_path: Path) -> None:
    said = examined(tmp_path, **settings(shared, DATABASE_URL=one.url))
    assert results(said, "database", "schema", "identity", "keeper") == ["ok", "ok", "ok", "warning"]


@pytest.mark.provokes("doctor.database.failed")
async def test_doctor__database_server_out_of_reach__fails(shared: World) -> None:
    url = f"postgresql://keeper@127.0.0.1:{free_port()}/keeper"
    assert (await found(shared, database_url=url))["database"].result == "failed"


@pytest.mark.provokes("doctor.database.failed")
def test_doctor__database_or_its_folder_isnt_writable__fails(shared: World, one: Record, tmp_path: Path) -> None:
    one.database.dispose()
    folder = tmp_path / "locked"
    folder.mkdir()
    inside(tmp_path, "doctor")  # the home is made
    for url, words in ((one.url, "can't be written"), (f"sqlite:///{folder}/new.db", "isn't writable")):
        path = Path(url.removeprefix("sqlite:///"))
        locked = path if path.exists() else folder
        locked.chmod(0o500)
        said = examined(tmp_path, before=bound_by_modes() or ("env",), **settings(shared, DATABASE_URL=url))
        assert said["database"]["result"] == "failed", said["database"]
        assert words in said["database"]["value"]
        locked.chmod(0o700)


@pytest.mark.provokes("doctor.disk.warning")
def test_doctor__little_room_on_the_disk__warns(shared: World, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    if not small_disks(folder):
        pytest.skip("no disk can be mounted here")
    assert examined(tmp_path, **settings(shared))["disk"]["result"] == "ok"
    given = settings(shared, DATABASE_URL=f"sqlite:///{folder}/keeper.db")
    said = examined(tmp_path, before=small_disk(folder, "16m"), **given)["disk"]
    assert (said["result"], said["value"]) == ("warning", f"0.0 GB free at {folder}")


@pytest.mark.provokes("doctor.schema.failed", "doctor.schema.warning")
async def test_doctor__database_of_a_newer_keeper_or_of_none__fails_or_warns(shared: World, tmp_path: Path) -> None:
    one = record(tmp_path / "keeper.db")
    with one.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert (await found(shared, database_url=one.url))["schema"].result == "failed"
    with sqlite3.connect(tmp_path / "empty.db") as raw:
        raw.execute("VACUUM")
    raw.close()
    assert (await found(shared, database_url=f"sqlite:///{tmp_path}/empty.db"))["schema"].result == "warning"


@pytest.mark.provokes("doctor.identity.failed")
@pytest.mark.parametrize(
    "other", [{"genesis_hash": "0x" + "99" * 32}, {"chain_id": 1}, {"contract": "0x" + "11" * 20}], ids=lambda of: [*of]
)
def test_doctor__database_of_another_chain_or_contract__fails(
    shared: World, one: Record, tmp_path: Path, other: dict[str, Any]
) -> None:
    one.meta(**other)
    said = examined(tmp_path, **settings(shared, DATABASE_URL=one.url))
    assert said["identity"]["result"] == "failed"
    assert "DATABASE_URL" in said["identity"]["remedy"]
