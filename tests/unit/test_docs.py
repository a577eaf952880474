"""What the documents name exists: files, headings, commands, options, make targets, settings, alerts, columns."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bot.cli import COMMANDS, root
from bot.domain import decide
from bot.domain import rules as rules_of
from bot.ops.catalogue import ALERTS
from bot.settings import Settings
from bot.store.queries import SETTLEMENT_COLUMNS

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "bot/ARCHITECTURE.md", "contracts/README.md")
    for path in CHECKOUT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
COMMAND = re.compile(r"langdao-keeper[ \t]+([a-z][a-z-]*)([^\n`#]*)")
OPTION = re.compile(r"(?<!\S)--?[a-z][a-z-]*")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")
SETTING = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b")
GIVEN = re.compile(r"(?:^|[\s\"`])([A-Z][A-Z0-9_]+)[=:](?!:)", re.MULTILINE)
SETTINGS = {name.upper() for name in Settings.model_fields}
UNITS = sorted(path.name for path in (CHECKOUT / "deploy/systemd").iterdir())
# Other programs' names, those of the contract, of the scripts, and of make.
NOT_OURS = {
    "BACKEND_URL", "XDG_STATE_HOME", "PYUSD_TOKEN", "PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "UTC",
    "OWNER_PRIVATE_KEY", "KEEPER_PRIVATE_KEY", "DEPLOYER_PRIVATE_KEY", "SEED", "COUNT", "MINUTES", "LESSONS", "NAME",
}  # fmt: skip

documents = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(CHECKOUT)))


def room_of(module: str) -> str:
    """`chain` of `bot.chain.rpc`, `keeper` of `bot.keeper`."""
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> Iterator[str]:
    """The rooms of the project that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bot":
            yield from (room_of(f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (room_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "bot")


def code_in(text: str) -> str:
    return "\n".join(CODE.findall(text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links__lead_somewhere(path: Path) -> None:
    dead = []
    for target in LINK.findall(path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        if not found.exists() or (anchor and anchor not in anchors(found.read_text())):
            dead.append(target)
    assert dead == []


@documents
def test_commands__exist_with_their_options(path: Path) -> None:
    context = click.Context(root)
    for name, options in COMMAND.findall(code_in(path.read_text())):
        assert name in COMMANDS, f"langdao-keeper {name}"
        command = root.get_command(context, name)
        assert command is not None
        known = {text for parameter in command.params for text in parameter.opts} | {"--help", "-h"}
        assert set(OPTION.findall(options)) <= known, f"langdao-keeper {name}{options}"


# What stands for something of the reader's.
PLACEHOLDERS = {"ID": "5", "…": "", "FILE": "file"}


@documents
def test_commands__are_taken_as_they_stand(path: Path) -> None:
    """Arguments too: a line of the guide can be pasted."""
    context = click.Context(root)
    for name, rest in COMMAND.findall(code_in(path.read_text())):
        line = re.split(r"[|;&)]| {3}|→", rest)[0]
        arguments = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)]
        command = root.get_command(context, name)
        assert command is not None
        if arguments:  # a name by itself speaks of the command
            command.make_context(name, [word for word in arguments if word], parent=context).close()


@documents
def test_make_targets__exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKE.findall(code_in(path.read_text()))) <= targets


@documents
def test_settings__exist(path: Path) -> None:
    text = path.read_text()
    named = set(SETTING.findall(text)) | set(GIVEN.findall(code_in(text)))
    assert named - NOT_OURS - SETTINGS == set()


@pytest.mark.parametrize("path", ["Dockerfile", "compose.yaml", *(f"deploy/systemd/{one}" for one in UNITS)])
def test_deploy__settings_that_it_gives__exist(path: str) -> None:
    named = set(GIVEN.findall((CHECKOUT / path).read_text()))
    assert named - NOT_OURS - SETTINGS == set()


@documents
def test_alerts__named_anywhere__exist(path: Path) -> None:
    assert set(re.findall(r"`(alert\.[a-z-]+)`", path.read_text())) <= set(ALERTS)


def test_alerts_md__has_a_section_for_every_alert() -> None:
    """Every alert's name is here, once; `docs/alerts.md` has a section for each, which a test holds."""
    text = (CHECKOUT / "docs" / "alerts.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [name.removeprefix("alert.") for name in ALERTS]
    assert text.count("**To do:**") == len(ALERTS)


def test_alerts__raised_anywhere__are_in_the_catalogue() -> None:
    code = "\n".join(path.read_text() for path in (CHECKOUT / "bot").rglob("*.py"))
    # The rules' own alerts are named for the rule.
    of_rules = {f"alert.{rule}" for rule in ("orphan", "contradiction")}
    assert set(re.findall(r'"(alert\.[a-z-]+)"', code)) | of_rules == set(ALERTS)


def test_operate_md__has_every_rule() -> None:
    text = (CHECKOUT / "docs" / "operate.md").read_text()
    source = Path(decide.__file__).read_text() + Path(rules_of.__file__).read_text()
    rules = set(re.findall(r'(?:Due\(|Decision\(Action\.\w+,)\s*"([a-z-]+)"', source))
    assert "told" in rules
    assert {rule for rule in rules if f"`{rule}`" not in text} == set()


def test_operate_md__names_every_command() -> None:
    text = (CHECKOUT / "docs" / "operate.md").read_text()
    assert {name for name in COMMANDS if f"`{name}" not in text and f"langdao-keeper {name}" not in text} == set()


def test_settlements_md__has_the_columns_in_order() -> None:
    text = (CHECKOUT / "docs" / "settlements.md").read_text()
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == SETTLEMENT_COLUMNS


def test_architecture_md__imports_are_as_it_says() -> None:
    text = (CHECKOUT / "bot" / "ARCHITECTURE.md").read_text()
    block = text.partition("```imports\n")[2].partition("```")[0]
    allowed = {
        room.strip(): set(others.split()) for room, _, others in (line.partition("→") for line in block.splitlines())
    }
    open_to_all = {"settings", "values", "errors"}
    broken = []
    for path in sorted((CHECKOUT / "bot").rglob("*.py")):
        module = path.relative_to(CHECKOUT).with_suffix("")
        room = module.parts[1]
        if room == "__init__":
            continue
        extra = set() if room in ("domain", "errors", "values") else open_to_all
        wrong = set(imports_of(path)) - {room} - allowed[room] - extra
        broken += [f"{module} imports {other}" for other in sorted(wrong)]
    assert broken == []


def test_architecture_md__names_modules_that_exist() -> None:
    text = (CHECKOUT / "bot" / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", text))
    assert {name for name in named if not (CHECKOUT / "bot" / name).exists()} == set()
