"""The log, and the promise that no secret leaves by it."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from bot.ops import logging as keeper_logging
from bot.ops.logging import Redactor, configure
from bot.settings import Settings

KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
RPC = "https://user:hunter22@rpc.example.org/v3/0123456789abcdef0123?apikey=zyxwvu"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings(rpc_url=RPC, backend_private_key=KEY, gateway_token="token-of-the-gateway")  # type: ignore[arg-type]


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """A stream to log to; logging is as it was afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    monkeypatch.setattr(keeper_logging, "redactor", Redactor())
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_configure__no_terminal__one_json_object_a_line(out: io.StringIO) -> None:
    configure(stream=out)
    structlog.get_logger("keeper").info("session.linked", session=5, room="req_qn8g")
    [line] = lines(out)
    assert list(line)[:4] == ["at", "level", "event", "logger"]
    assert (line["event"], line["session"], line["room"]) == ("session.linked", 5, "req_qn8g")


def test_configure__pretty__text_with_the_values(out: io.StringIO) -> None:
    configure(stream=out, pretty=True)
    structlog.get_logger("keeper").info("session.linked", session=5)
    assert "session.linked" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_configure__library_logs__same_way_and_quieter(out: io.StringIO) -> None:
    """every line of ours and of the libraries goes the same way"""
    configure(stream=out)
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("apscheduler.executors").warning("packet %s", "lost")
    logging.getLogger("aiohttp.access").error("GET /hook/secret")
    assert [line["event"] for line in lines(out)] == ["packet lost"]


def test_configure__called_twice__says_everything_once(out: io.StringIO) -> None:
    configure(stream=out)
    configure(stream=out)
    structlog.get_logger("keeper").warning("once")
    assert len(lines(out)) == 1


def test_configure__level_of_the_settings__less_severe_events_are_silent(out: io.StringIO, settings: Settings) -> None:
    configure(settings.model_copy(update={"log_level": "warning"}), stream=out)
    structlog.get_logger("keeper").info("quiet")
    structlog.get_logger("keeper").warning("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


@pytest.mark.parametrize(
    "said",
    [KEY, "0x" + KEY, KEY.upper(), RPC, "hunter22", "0123456789abcdef0123", "apikey=zyxwvu", "token-of-the-gateway"],
)
def test_redact__secret_in_a_value__is_taken_out(out: io.StringIO, settings: Settings, said: str) -> None:
    """before a line leaves, the values of the secret settings, and of URLs everything but scheme and host, are taken
    out of it, whoever put them there"""
    configure(settings, stream=out)
    structlog.get_logger("keeper").error("failed", error=f"while asking {said}: refused")
    text = out.getvalue()
    for secret in (KEY, "hunter22", "0123456789abcdef0123", "zyxwvu", "token-of-the-gateway"):
        assert secret not in text.lower()


def test_redact__url_of_the_settings__scheme_and_host_stay(out: io.StringIO, settings: Settings) -> None:
    configure(settings, stream=out)
    structlog.get_logger("keeper").error("failed", url=RPC)
    assert lines(out)[0]["url"] == "https://rpc.example.org"


def test_redact__secret_in_an_exception__is_taken_out(out: io.StringIO, settings: Settings) -> None:
    configure(settings, stream=out)
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError:
        structlog.get_logger("keeper").exception("crashed")
    assert "ValueError" in out.getvalue()
    assert KEY not in out.getvalue()


RAW = bytes.fromhex(KEY)


@pytest.mark.parametrize(
    "form",
    [
        str(int(KEY, 16)),
        base64.b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode(),
        repr(RAW),
        str(list(RAW)),
        repr(bytearray(RAW)),
    ],
)
def test_redact__key_in_another_form__is_taken_out(settings: Settings, form: str) -> None:
    """of a private key also what it looks like as a number, in base64 and as bytes"""
    redact = Redactor()
    redact.add_settings(settings)
    assert len(redact(f"before {form} after")) < 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_redact__nobody_caught_it__pythons_own_words_have_no_secret(
    out: io.StringIO, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Python itself says of a crash goes that way too."""
    configure(settings, stream=out)
    error = ValueError(f"bad {KEY}")
    sys.excepthook(ValueError, error, None)
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))
    sys.unraisablehook(SimpleNamespace(exc_value=error))  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.count("ValueError: bad ***") == 3
    assert KEY not in said


def test_redact__secret_made_later__is_taken_out_once_added(out: io.StringIO) -> None:
    configure(stream=out).add("made-just-now-0123")
    structlog.get_logger("keeper").info("webhook.secret-made", path="/hook/made-just-now-0123")
    assert "made-just-now" not in out.getvalue()


def test_redact__credentials_nobody_told_it_of__are_taken_out_of_urls() -> None:
    redact = Redactor()
    assert redact("redis://:pass@host:6379/0") == "redis://***@host:6379/0"
    assert redact("POST /hook/AbCdEfGhIjKlMnOp failed") == "POST /hook/*** failed"


def test_redact__ordinary_line__stays_as_it_is(settings: Settings) -> None:
    redact = Redactor()
    redact.add_settings(settings)
    redact.add(f"0x{77:064x}")  # a key that is a small number
    line = "tx 0x41c6a6e76c9adf64e850f87957d24457f747766d44b9c98b1d86d7f1ea2ed3d6 of session 5 at http://127.0.0.1:8545"
    assert redact(line) == line
