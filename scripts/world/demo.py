"""`make demo`: the keeper's promises, played once on a real chain and judged by that chain.

Eight scenarios in two worlds at once. `gateway` has the bundled backend. `plain` has a Socket.IO server
that says `session:ready` and nothing more, and the signalling server posts to the keeper itself.

Promises: it is over within 150 s whatever happens, and what wasn't seen by then has failed.
`demo-report.json` in the checkout holds the table; the exit code is 0 only if every entry agrees with the
chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.world import anvil, deployment, processes, scenarios
from scripts.world.backends import Backend, Gateway, PlainBackend
from scripts.world.chain import LangDAO, Node
from scripts.world.deployment import Deployed
from scripts.world.keeper import Keeper
from scripts.world.processes import CHECKOUT, Crew, Failed
from scripts.world.rpc_proxy import RpcProxy
from scripts.world.scenarios import Performance, Stage
from scripts.world.signalling import Signalling
from scripts.world.tcp_proxy import TcpProxy
from scripts.world.verdict import Row, read_chain
from scripts.world.world import STUDENTS, TUTORS, World, people

# Reading the chain and stopping everything take the rest of the 150 s.
PLAY_LIMIT_S = 138.0
BLOCK_S = 1
ENTRIES = 16
REPORT = CHECKOUT / "demo-report.json"

Say = Callable[[str], None]


async def perform(crew: Crew, say: Say) -> list[Row]:
    """Build both worlds, play, judge. Raises Failed when a world can't be built."""
    deadline = asyncio.get_running_loop().time() + PLAY_LIMIT_S
    async with _worlds(crew, say) as worlds:
        performances = [
            Performance(Stage(world, lambda text, name=world.name: say(f"{name:8} {text}"))) for world in worlds
        ]
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*(performance.play() for performance in performances))
        except TimeoutError:
            say("out of time")
        rows = []
        for performance in performances:
            keeper = performance.stage.world.keeper
            if not keeper.running:
                say(f"{keeper.name} isn't running any more; its log is {keeper.log}")
            rows += performance.rows(await read_chain(performance.stage.world))
    return sorted(rows, key=lambda row: (row.name[0], row.world))


@contextlib.asynccontextmanager
async def _worlds(crew: Crew, say: Say) -> AsyncIterator[list[World]]:
    """Both worlds, ready for lessons: keepers run, and pages are open."""
    _, node = await anvil.start(crew, block_time_s=BLOCK_S)
    say("anvil answers")
    gateway, plain = Gateway(crew, scenarios.POLICY), PlainBackend(crew)
    worlds: list[World] = []
    try:
        (first, second), *_ = await asyncio.gather(
            deployment.deploy(crew, node, worlds=2, students=scenarios.STUDENTS, tutors=scenarios.TUTORS),
            gateway.start(),
            plain.start(),
        )
        say("two contracts deployed, people registered and funded; both backends run")
        worlds.append(await _build(crew, node, "gateway", gateway, first))
        worlds.append(await _build(crew, node, "plain", plain, second))
        await asyncio.gather(*(world.keeper.start() for world in worlds), worlds[0].open_pages())
        # Without a replay, what this backend says before the keeper is connected would be lost.
        await plain.until_clients(1)
        say("both keepers run")
        yield worlds
    finally:
        for world in worlds:
            await world.close()
        await node.close()


async def _build(crew: Crew, node: Node, name: str, backend: Backend, deployed: Deployed) -> World:
    """A world's parts; its keeper isn't started yet."""
    dao = LangDAO(node, deployed.contract, deployed.chain_id, deployment.LANGUAGE)
    rpc = RpcProxy(node.url, kill=lambda: keeper.kill())
    await rpc.start()
    settings: dict[str, Any] = {
        "RPC_URL": rpc.url,
        "CONTRACT_ADDRESS": deployed.contract,
        "START_BLOCK": deployed.deploy_block,
        "BACKEND_PRIVATE_KEY": deployed.owner.key,
        "SOCKET_URL": backend.url,
        **scenarios.POLICY,
    }
    line = None
    if isinstance(backend, Gateway):
        line = TcpProxy(backend.port)
        await line.start()
        settings |= {"SOCKET_URL": line.url, "GATEWAY_TOKEN": backend.token}
    keeper = Keeper(crew, f"keeper-{name}", settings)
    return World(
        name=name,
        dao=dao,
        deployed=deployed,
        backend=backend,
        signalling=Signalling(
            backend.webhook if isinstance(backend, Gateway) else keeper.webhook, scenarios.HEARTBEAT_S
        ),
        keeper=keeper,
        students=people(STUDENTS, deployed.students, dao),
        tutors=people(TUTORS, deployed.tutors, dao),
        rpc=rpc,
        line=line,
    )


def _show(rows: list[Row]) -> None:
    # Wide enough for whole sentences where the terminal doesn't say how wide it is.
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table("scenario", "world", "expected", "observed", "", show_lines=True)
    for row in rows:
        mark = "[green]agrees[/]" if row.ok else "[bold red]differs[/]"
        table.add_row(row.name, row.world, row.expected, row.observed, mark)
    console.print(table)


def _write_report(rows: list[Row]) -> bool:
    ok = len(rows) == ENTRIES and all(row.ok for row in rows)
    document = {"ok": ok, "scenarios": [asdict(row) for row in rows]}
    REPORT.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return ok


async def main() -> int:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    REPORT.unlink(missing_ok=True)
    rows: list[Row] = []
    async with processes.crew("demo") as crew:
        try:
            async with processes.interruptible():
                rows = await perform(crew, say)
        except Failed as error:
            print(f"the demo can't be played: {error}", file=sys.stderr)
        except processes.Interrupted:
            print("stopped", file=sys.stderr)
            shutil.rmtree(crew.folder, ignore_errors=True)
            return 130
    ok = _write_report(rows)
    _show(rows)
    say(f"{'all agree with the chain' if ok else 'NOT all agree with the chain'}; see {REPORT.name}")
    if ok:
        shutil.rmtree(crew.folder, ignore_errors=True)
    else:
        print(f"logs: {crew.folder}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
