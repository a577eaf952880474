"""`make test-hardhat`: the contract tests once more, on another implementation of the EVM.

Promises: a Hardhat node of its own, on a port that it was seen to listen on itself, gone when this ends in any way. The
node is asked whether it knows EIP-7702; if it doesn't, the guard's tests are left out by selection, and a line says so.
Ends with pytest's summary and its status.
Doesn't promise anything of the tests marked `own_node`: those start an Anvil themselves, whichever node the others use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from pathlib import Path

import aiohttp

from scripts.world import processes
from scripts.world.chain import Node, RpcError
from scripts.world.processes import CHECKOUT, Crew, Failed

CONFIG = Path(__file__).with_name("hardhat.config.js")
CLI = CHECKOUT / "node_modules" / "hardhat" / "internal" / "cli" / "bootstrap.js"
STARTS_WITHIN_S = 60.0


async def start(crew: Crew) -> Node:
    """A Hardhat node that answers."""
    node_program = shutil.which("node")
    if node_program is None or not CLI.exists():
        raise Failed("hardhat is missing: run `make setup`")
    # Hardhat takes the folder of its configuration for a project of its own and looks for itself there.
    project = crew.folder / "hardhat"
    project.mkdir()
    shutil.copy(CONFIG, project)
    (project / "node_modules").symlink_to(CHECKOUT / "node_modules")
    port = processes.free_port()
    # No HOME of the person's: telemetry would ask, and nothing of a run belongs there.
    quiet = {"HOME": str(crew.folder), "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true", "CI": "1"}
    program = project / "node_modules" / CLI.relative_to(CHECKOUT / "node_modules")
    child = await crew.start(
        "hardhat-node",
        [node_program, program, "node", "--hostname", processes.LOOPBACK, "--port", port],
        env={"PATH": os.environ["PATH"], **quiet},
        cwd=project,
    )
    await processes.until_listening(child, port, STARTS_WITHIN_S)
    return Node(f"http://{processes.LOOPBACK}:{port}")


async def knows_delegation(node: Node) -> bool:
    """Whether code that says "delegated to the identity precompile's neighbour" is followed."""
    # Code set by hand suffices: an account that delegates to one that returns a word has to return that word.
    plain, delegated = "0x" + "a1" * 20, "0x" + "a2" * 20
    with contextlib.suppress(RpcError, aiohttp.ClientError):
        await node.call("hardhat_setCode", plain, "0x602a5f5260205ff3")
        await node.call("hardhat_setCode", delegated, "0xef0100" + plain[2:])
        return int(await node.call("eth_call", {"to": delegated}, "latest"), 16) == 42
    return False


async def main() -> int:
    async with processes.crew("hardhat") as crew:
        try:
            async with processes.interruptible():
                node = await start(crew)
                version = await node.call("web3_clientVersion")
                selection = "not own_node"
                if await knows_delegation(node):
                    print(f"hardhat: {version}, with the guard's delegation tests", flush=True)
                else:
                    selection += " and not delegation"
                    print(f"hardhat: {version}; left out, as it doesn't know EIP-7702: -m delegation", flush=True)
                await node.close()
                tests = await asyncio.create_subprocess_exec(
                    CHECKOUT / ".venv" / "bin" / "ape",
                    *("test", "tests/contracts", "-m", selection, *sys.argv[1:]),
                    cwd=CHECKOUT,
                    env={**os.environ, "CONTRACT_TESTS_NODE": node.url},
                )
                status = await tests.wait()
        except Failed as error:
            print(f"hardhat: {error}", file=sys.stderr)
            return 1
        except processes.Interrupted:
            return 130
    if status == 0:
        shutil.rmtree(crew.folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
