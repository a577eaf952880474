"""The log: constant events with named values, pretty on a terminal, one JSON object a line otherwise.

Promises: every line of ours and of the libraries goes the same way; before a line leaves, the values of the secret
settings, and of URLs everything but scheme and host, are taken out of it, whoever put them there; of a private key
also what it looks like as a number, in base64 and as bytes. What Python itself says of a crash goes that way too. That
is the second line of defence: the first is not to log them.
Doesn't promise to know secrets it was never told: `Redactor.add` takes those that are made later.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from bot.settings import Settings
from bot.values import KEY, shown

if TYPE_CHECKING:
    from structlog.typing import Processor

HIDDEN = "***"
# Shorter needles would take ordinary words out of lines; nobody's secret is that short on purpose.
_SHORTEST = 6

# What these say at their usual level is their own business: requests, pings, every statement.
_QUIET = ("uvicorn", "engineio", "socketio", "aiohttp", "apscheduler", "alembic", "asyncio", "urllib3", "web3")

# Credentials in any URL, the secret path of any webhook, the token of any link that answers a question, also those we
# were never told of.
_ANYWHERE = (
    (re.compile(r"(?<=://)[^/\s:@'\"]*:[^/\s@'\"]+(?=@)"), HIDDEN),
    (re.compile(r"(?<=/hook/)[A-Za-z0-9_\-]{8,}"), HIDDEN),
    (re.compile(r"(?<=/v/)[A-Za-z0-9_\-]{8,}"), HIDDEN),
)


class Redactor:
    """Takes known secrets out of text."""

    def __init__(self) -> None:
        self._instead: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str | None, instead: str = HIDDEN) -> None:
        """From now on `secret` is shown as `instead`."""
        if not secret or len(secret) < _SHORTEST:
            return
        # As it is, as a URL writes it; each as JSON writes it, too.
        forms = {secret, quote(secret, safe=""), unquote(secret), *_forms_of_key(secret)}
        for form in forms | {json.dumps(form)[1:-1] for form in forms}:
            self._instead[form.lower()] = instead
        # The longest first: a whole URL before the password in it.
        longest_first = sorted(self._instead, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

    def add_url(self, url: str) -> None:
        """Of `url`, only scheme and host may be shown. A SQLite URL is a path, and no secret."""
        if url.startswith("sqlite"):
            return
        self.add(url, shown(url))
        pieces = urlsplit(url)
        self.add(pieces.password)
        path = pieces.path.strip("/")
        self.add(f"{path}?{pieces.query}" if pieces.query else None)
        self.add(pieces.query)
        # `/0`, `/api` or `/v2` are no secrets, and they are parts of ordinary lines.
        for part in path.split("/"):
            if len(part) >= 16:
                self.add(part)

    def add_opaque(self, url: str) -> None:
        """Of `url`, only the scheme may be shown: in an Apprise URL the host can be the secret."""
        scheme = url.partition("://")[0]
        self.add(url, f"{scheme}://{HIDDEN}")
        pieces = urlsplit(url)
        self.add(pieces.password)
        for part in re.split(r"[/?&=:@]+", url.partition("://")[2]):
            if len(part) >= 16 and "." not in part:
                self.add(part)

    def add_settings(self, settings: Settings) -> None:
        """Takes in every secret setting."""
        for name in type(settings).model_fields:
            value = getattr(settings, name)
            if not isinstance(value, SecretStr):
                continue
            text = value.get_secret_value()
            for part in re.split(r"[,\s]+", text):
                if name == "apprise_urls":
                    self.add_opaque(part)
                elif "://" in part:
                    self.add_url(part)
                else:
                    self.add(part.removeprefix("0x") if len(part) == 66 else part)

    def __call__(self, text: str) -> str:
        """`text` without the secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(lambda found: self._instead.get(found[0].lower(), HIDDEN), text)
        for pattern, instead in _ANYWHERE:
            text = pattern.sub(instead, text)
        return text


def _forms_of_key(secret: str) -> list[str]:
    """How else a private key may be written; nothing for what can't be one."""
    if not KEY.fullmatch(secret):
        return []
    raw = bytes.fromhex(secret.removeprefix("0x"))
    base64s = (encode(raw).rstrip(b"=").decode() for encode in (base64.b64encode, base64.urlsafe_b64encode))
    forms = (raw.hex(), str(int.from_bytes(raw)), *base64s, repr(raw)[2:-1], ", ".join(map(str, raw)))
    return [form for form in forms if len(form) >= len(raw)]  # a small number would be in many a line


redactor = Redactor()
"""The process's redactor: `configure` tells it the settings' secrets, whoever makes another one adds it."""


def configure(
    settings: Settings | None = None,
    *,
    stream: TextIO | None = None,
    level: str | None = None,
    pretty: bool | None = None,
) -> Redactor:
    """Sets up logging for this process; safe to call again. Returns the redactor in use.

    `stream` is stdout by default, `level` that of the settings, `pretty` true if `stream` is a terminal.
    """
    import structlog

    out = stream if stream is not None else sys.stdout
    if settings is not None:
        redactor.add_settings(settings)
    name = (level or (settings.log_level if settings is not None else "info")).upper()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
        _in_order,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_rendering(out.isatty() if pretty is None else pretty),
        ],
    )
    handler.setFormatter(_Redacted(formatter, redactor))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(name)
    _quieten(root.level)
    _redact_crashes(redactor)
    return redactor


def _redact_crashes(redact: Redactor) -> None:
    """What nobody caught is said on stderr as ever, without the secrets."""

    def say(error: BaseException | None, where: str = "") -> None:
        if error is not None:
            sys.stderr.write(where + redact("".join(traceback.format_exception(error))))

    sys.excepthook = lambda _kind, error, _trace: say(error)
    threading.excepthook = lambda said: say(
        said.exc_value, f"Exception in thread {said.thread and said.thread.name}:\n"
    )
    sys.unraisablehook = lambda said: say(said.exc_value, "Exception ignored:\n")


def _rendering(pretty: bool) -> list[Any]:
    import structlog

    if pretty:
        # Rich's tracebacks print local variables, and keys are local variables.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain, pad_event_to=28, timestamp_key="at")]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]


def _in_order(_logger: Any, _method: str, event: Any) -> Any:
    """When, how bad, what and where; then the values."""
    first = {name: event.pop(name) for name in ("at", "level", "event", "logger") if name in event}
    return first | event


def _quieten(level: int) -> None:
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
    # A path can hold the webhook's secret: not even when debugging.
    for name in ("uvicorn.access", "aiohttp.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Redacted(logging.Formatter):
    """The last hand on a line: whatever it came from, exception texts included."""

    def __init__(self, inner: logging.Formatter, redact: Redactor) -> None:
        super().__init__()
        self._inner = inner
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(self._inner.format(record))
