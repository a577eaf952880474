"""Contracts on a running chain: one ape run for all worlds, and the addresses it wrote.

Promises: each `Deployed` has its own contract, owner, students and tutors, all registered and the students
funded; none shares an account with another.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.world.chain import Key, Node
from scripts.world.processes import CHECKOUT, Crew, Failed

RATE = 1000  # base units a second: 0.001 PYUSD
LANGUAGE = 1
ACCOUNTS_PER_WORLD = 40  # of Anvil's, as the deploy script takes them


@dataclass(frozen=True, slots=True)
class Deployed:
    """One LangDAO with the people on it."""

    chain_id: int
    contract: str
    deploy_block: int
    owner: Key
    keeper: Key  # may call the guard
    guard: str  # nobody's code until somebody delegates to it
    students: tuple[Key, ...]
    tutors: tuple[Key, ...]


async def deploy(crew: Crew, node: Node, *, worlds: int, students: int, tutors: int) -> list[Deployed]:
    """Run ape's deploy script once. Raises Failed with the end of its output."""
    out = crew.folder / "addresses.json"
    tools = CHECKOUT / ".venv" / "bin"
    env = {
        **os.environ,
        "PATH": f"{tools}:{CHECKOUT / 'node_modules' / '.bin'}:{os.environ.get('PATH', '')}",
        # Ape's caches stay in the checkout, like the Makefile has it.
        "APE_DATA_FOLDER": os.environ.get("APE_DATA_FOLDER", str(CHECKOUT / ".ape")),
    }
    options = ["--worlds", worlds, "--students", students, "--tutors", tutors]
    options += ["--rate", RATE, "--language", LANGUAGE]
    child = await crew.start(
        "deploy",
        [tools / "ape", "run", "deploy", "--network", node.url, *options, "--out", out],
        env=env,
        cwd=CHECKOUT,
    )
    if await child.wait() != 0 or not out.exists():
        raise Failed(f"deploying failed; its log is {child.log}:\n{child.tail(15)}")
    return read(out)


def read(path: Path) -> list[Deployed]:
    """The addresses file."""
    document = json.loads(path.read_text())
    return [_deployed(document["chain_id"], world) for world in document["worlds"]]


def _deployed(chain_id: int, world: dict[str, Any]) -> Deployed:
    return Deployed(
        chain_id=chain_id,
        contract=world["contract"],
        deploy_block=world["deploy_block"],
        owner=Key(**world["owner"]),
        keeper=Key(**world["keeper"]),
        guard=world["guard"],
        students=tuple(Key(**key) for key in world["students"]),
        tutors=tuple(Key(**key) for key in world["tutors"]),
    )
