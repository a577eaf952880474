"""A local chain: Anvil with a fixed block time.

Promises: when `start` returns, our own Anvil answers. Its accounts are the usual ones (`test test … junk`),
enough of them for two worlds, and `finalized` follows the head within seconds instead of minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from scripts.world.chain import Node
from scripts.world.processes import CHECKOUT, Child, Crew, Failed, free_port, until_listening

ACCOUNTS = 100


def binary() -> Path:
    """The native Anvil: the checkout's own (npm's wrapper would orphan the node), else the one on PATH."""
    ours = CHECKOUT / "node_modules" / ".bin" / "anvil"
    if ours.exists():
        return ours
    if found := shutil.which("anvil"):
        return Path(found)
    raise Failed("anvil is missing: run `make setup`, or put Foundry's anvil on PATH")


async def start(
    crew: Crew,
    *,
    block_time_s: int | None,
    name: str = "anvil",
    accounts: int = ACCOUNTS,
    options: Sequence[str] = (),
) -> tuple[Child, Node]:
    """Start Anvil on a free port. `block_time_s` None mines a block for each transaction."""
    for attempt in range(3):
        port = free_port()
        argv = [binary(), "--port", port, "--accounts", accounts, "--slots-in-an-epoch", 1, "--silent"]
        # Pin the rules: the default hardfork moves with Anvil's version.
        argv += ["--hardfork", "prague", "--no-request-size-limit", *options]
        argv += ["--cache-path", crew.folder / f"{name}-states"]  # by default in the home, and left there when killed
        if block_time_s is not None:
            argv += ["--block-time", block_time_s]
        child = await crew.start(name, argv)
        try:
            await until_listening(child, port)
        except Failed:
            # Somebody else may have taken the port meanwhile.
            if attempt == 2:
                raise
            continue
        node = Node(f"http://127.0.0.1:{port}")
        await _until_it_answers(node)
        return child, node
    raise AssertionError("unreachable")


async def _until_it_answers(node: Node) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(aiohttp.ClientError):
            await node.call("eth_chainId")
            return
        await asyncio.sleep(0.1)
    raise Failed(f"anvil doesn't answer on {node.url}")
