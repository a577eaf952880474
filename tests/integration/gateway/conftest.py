"""Fixtures of the bundled backend's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from bot.web.gateway import create_gateway
from tests.support.gateway import config
from tests.support.servers import RedisServer, serving


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serving(create_gateway(config())) as address:
        yield address


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
