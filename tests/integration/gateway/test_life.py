"""Redis that comes and goes; the bundled backend's own life."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
import redis.asyncio as aredis

from bot.errors import Misconfigured
from bot.web.gateway import create_gateway, serve
from tests.support.gateway import (
    HOOK,
    MAPPING,
    SECRET,
    STUDENT,
    TOKEN,
    TUTOR,
    client,
    config,
    page,
    post,
    signal,
)
from tests.support.servers import RedisServer, free_port, serving, until


async def test_redis__killed_and_back__the_gateway_goes_on_and_stores_again(http: aiohttp.ClientSession) -> None:
    with RedisServer() as server:
        async with serving(create_gateway(config(redis_url=server.url))) as url, page(url, STUDENT) as student:
            server.stop()
            assert (await student.call("session:create", MAPPING))["ok"]
            await post(http, url, HOOK, signal("session-ended"))
            said = await student.first("webrtc:session-ended")
            assert said["tutorAddress"] == TUTOR
            server.start()
            store = aredis.from_url(server.url)

            async def stored() -> bool:
                async with http.get(url + "/health") as answer:
                    return (await answer.json())["mappings"] == "redis"

            await until(stored, timeout_s=10, every_s=0.2)
            assert (await student.call("session:create", {**MAPPING, "requestId": "req_2"}))["ok"]
            assert await store.exists("session:req_2")
            await store.aclose()


async def test_redis__mapping_of_another_backend__fills_in_addresses(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    store = aredis.from_url(redis_server.url)
    await store.hset("session:req_else", mapping={"studentAddress": STUDENT.lower(), "tutorAddress": TUTOR.lower()})
    await store.aclose()
    async with serving(create_gateway(config(redis_url=redis_server.url))) as url, client(url) as listener:
        await post(http, url, HOOK, signal("session-ended", "req_else"))
        said = await listener.first("webrtc:session-ended")
    assert (said["studentAddress"], said["tutorAddress"]) == (STUDENT, TUTOR)


async def test_serve__until_cancelled__listens_and_lets_go_of_the_port(http: aiohttp.ClientSession) -> None:
    port = free_port()
    ready = asyncio.Event()
    task = asyncio.create_task(serve(config(bind=f"127.0.0.1:{port}"), on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    async with client(f"http://127.0.0.1:{port}"):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with serving(create_gateway(config()), port=port):
        pass


async def test_serve__port_taken__misconfigured_names_the_setting() -> None:
    async with serving(create_gateway(config())) as url:
        with pytest.raises(Misconfigured, match="GATEWAY_BIND"):
            await serve(config(bind=url.removeprefix("http://")))


def test_config__repr__shows_no_secret() -> None:
    text = repr(config(redis_url="redis://:hunter2@127.0.0.1/0"))
    assert TOKEN not in text
    assert SECRET not in text
    assert "hunter2" not in text
