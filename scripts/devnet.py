"""The world of `make devnet`: a local chain, backend, keeper and participants, until Ctrl-C.

ape run devnet
ape run devnet --for 60 --plain
"""

import os
import sys
from pathlib import Path

import click
from ape.cli import network_option

CHECKOUT = Path(__file__).resolve().parents[1]


@click.command()
@click.option("--for", "seconds", type=click.FloatRange(1), help="Stop by itself after so many seconds.")
@click.option("--plain", is_flag=True, help="Plain lines, also on a terminal.")
@network_option(default="ethereum:local", callback=lambda _, __, value: value)
def cli(network, seconds: float | None, plain: bool) -> None:
    """A LangDAO on this machine, with lessons that are left in all the ways lessons are left."""
    if getattr(network, "name", str(network)) not in ("ethereum:local", "local", "foundry"):
        raise click.UsageError("The devnet brings a chain of its own; --network can only be ethereum:local.")
    arguments = [*(["--for", str(seconds)] if seconds else []), *(["--plain"] if plain else [])]
    os.chdir(CHECKOUT)
    # In this process's place: signals, terminal and exit status are then the devnet's own.
    os.execv(sys.executable, [sys.executable, "-m", "scripts.world.devnet", *arguments])
