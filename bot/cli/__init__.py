"""The command line, `langdao-keeper`.

Promises: a command's module is imported only when it is asked for, and none of them imports anything heavy at its
top, so that `--help` costs little more than the interpreter. An expected failure is one line on stderr, with `--json`
the document `{"error": …}` on stdout, and never a traceback.
Exit codes: 0 done; 1 done, and the answer is no (a failed check, no such session); 2 can't be done like this, the
message names the setting; 130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence

import click

from bot.errors import KeeperError, Misconfigured, TryAgain

PROGRAM = "langdao-keeper"
GC_THRESHOLD = 50_000  # objects; looking for garbage in what a start imports was a tenth of its time

# Command -> module with a click command `command`, in the order in which an operator meets them.
COMMANDS = {
    "init": "bot.cli.init",
    "run": "bot.cli.run",
    "index": "bot.cli.index",
    "audit": "bot.cli.audit",
    "status": "bot.cli.status",
    "doctor": "bot.cli.doctor",
    "stranded": "bot.cli.stranded",
    "sessions": "bot.cli.sessions",
    "explain": "bot.cli.explain",
    "replay": "bot.cli.replay",
    "settlements": "bot.cli.settlements",
    "txs": "bot.cli.txs",
    "settle": "bot.cli.settle",
    "pause": "bot.cli.pause",
    "resume": "bot.cli.resume",
    "db": "bot.cli.db",
    "alert": "bot.cli.alert",
    "webhook": "bot.cli.webhook",
    "gateway": "bot.cli.gateway",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        module = COMMANDS.get(name)
        if module is None:
            return None
        found: click.Command = importlib.import_module(module).command
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def root() -> None:
    """Ends, on chain, the LangDAO lessons that everybody else forgot to end, and says why.

    Settings come from the environment and from .env in the present directory. Begin with RPC_URL and
    CONTRACT_ADDRESS and `langdao-keeper doctor`.
    """


def main(args: Sequence[str] | None = None) -> None:
    """The console script. Exits."""
    arguments = list(sys.argv[1:] if args is None else args)
    gc.set_threshold(GC_THRESHOLD)
    atexit.register(gc.freeze)  # and looking for it once more on the way out another one
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains about it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        returned = root.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except click.ClickException as error:
        if as_json:
            return _tell(error.format_message(), error.exit_code, as_json)
        error.show()
        return error.exit_code
    except click.Abort as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):  # a prompt's has no cause
            return 130
        return _tell("Stopped. Nothing was changed", 1, as_json)
    except BrokenPipeError:
        return 1
    except KeeperError as error:
        return _tell(*_in_words(error), as_json)
    except Exception as error:
        said = _database_trouble(error)
        if said is None:
            if as_json:  # the traceback is for whoever mends it; who reads stdout gets what was promised
                _tell(f"{type(error).__name__}: {error}"[:300], 1, as_json)
            raise
        return _tell(said, 2, as_json)


def _in_words(error: KeeperError) -> tuple[str, int]:
    """A message that names the setting, and the exit code."""
    from bot.chain.errors import RpcError, Unreachable

    match error:
        case Misconfigured():
            return f"{error}{_slip(str(error))}", 2
        case Unreachable():
            return f"RPC_URL: no usable answer from {error.endpoint} ({error.reason}). Is the node running?", 2
        case RpcError():
            return f"RPC_URL: the node refused a call: {error.message} ({error.code})", 2
        case TryAgain():
            return f"{error}. Try again in a moment", 2
        case _:
            return str(error), 1


def _slip(said: str) -> str:
    """The name that was written instead of the one that is missed, if it looks like that."""
    missed, found, _ = said.partition(" is not set")
    if not found:
        return ""
    from bot.ops.doctor.names import written_for

    names = written_for(missed)
    return f". {' and '.join(names)} is set, and nobody reads that" if names else ""


def _database_trouble(error: Exception) -> str | None:
    """What to say of an error of the database, None for any other error."""
    if not type(error).__module__.startswith("sqlalchemy"):
        return None
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    remedy = "Make room" if "is full" in reason else "Is it the keeper's, and writable?"
    return f"DATABASE_URL: the database refused ({reason[:200]}). {remedy}"


def _tell(message: str, code: int, as_json: bool) -> int:
    from bot.ops.logging import redactor

    message = redactor(message)
    with contextlib.suppress(BrokenPipeError):
        if as_json:
            click.echo(json.dumps({"error": message}, ensure_ascii=False))
        else:
            click.echo(f"{PROGRAM}: {message}", err=True)
    return code
