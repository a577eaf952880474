"""A sender on a real chain of its module's own; see `tests.support.sender`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.anvil import World, langdao
from tests.support.sender import Bench, benched


@pytest.fixture(scope="module")
def chain() -> Iterator[World]:
    with langdao("--order", "fees") as world:
        yield world


@pytest.fixture
async def bench(chain: World, tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(chain, f"sqlite:///{tmp_path}/keeper.db") as bench:
        yield bench
