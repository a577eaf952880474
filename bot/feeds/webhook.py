"""The signalling server's posts, taken in by the keeper itself.

Promises: 200 only after `take_stored` returned, so what was answered is stored; 503 when storing failed, so that
a sender that cares may repeat it; every refusal is counted and logged as `hook.refused`, and changes nothing.
A wrong secret is answered like any unknown path, after a comparison in constant time.
The secret stands in the path, so whoever serves these routes has to keep paths out of the log: uvicorn's access
log is off in the keeper's servers. Nothing here logs a path.
Doesn't promise order between posts, nor that a sender repeats anything: the signalling server never does.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.domain.facts import Hint, Source
from bot.errors import Misconfigured
from bot.feeds import wire
from bot.feeds.posts import Limiter, address_of, json_body, problem, same_secret, status_of

log = structlog.get_logger(__name__)

OPEN_POSTS_PER_MINUTE = 100
_SECRET_PATTERN = re.compile(r"[A-Za-z0-9_-]{16,256}")


class Webhook(APIRouter):
    """The routes, and `direct`: the same answer to a post with the secret, without the framework's way to it."""

    secret: str
    on_secret: Callable[[Request], Awaitable[Response]]

    def direct(self, app: ASGIApp) -> ASGIApp:
        """`app`, but posts with the secret are answered at once: heartbeats come by the hundred a second.

        All else, a wrong secret too, goes to `app`, so that it is answered as anything unknown is.
        """
        prefix = wire.HOOK_PATH.partition("{")[0]

        async def served(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            posted = scope["type"] == "http" and scope["method"] == "POST" and path.startswith(prefix)
            if posted and same_secret(path.removeprefix(prefix), self.secret):
                response = await self.on_secret(Request(scope, receive))
                await response(scope, receive, send)
            else:
                await app(scope, receive, send)

        return served


def webhook_routes(
    take_stored: Callable[[Hint], Awaitable[None]],
    *,
    secret: str,
    open_to_all: bool,
    clock_ms: Callable[[], int],
    on_post: Callable[[], None],
    counters: Counter[str] | None = None,
    tee: Callable[[Hint], Awaitable[None]] | None = None,
    own: Callable[[Hint], bool] = lambda _: False,
    open_posts_per_minute: int = OPEN_POSTS_PER_MINUTE,
) -> Webhook:
    """`POST /hook/<secret>`, and `POST /api/webrtc-events` when `open_to_all`.

    `take_stored` returns when the hint is stored. `on_post` is called at each post with the secret, well-formed or
    not: the feed is alive. `tee` gets what came with the secret, once it is stored; it returns when it has that too.
    `own` takes the posts about rooms of the keeper's own, which are nobody's lesson; only of those with the secret.
    `counters`, if given, gets received, refused, unauthorised, limited, not_stored.
    """
    router = Webhook(tags=["signals"])
    counted: Counter[str] = counters if counters is not None else Counter()
    limiter = Limiter(open_posts_per_minute)

    async def take(request: Request, source: Source) -> Response:
        try:
            hint = wire.from_post(await json_body(request), clock_ms(), source)
        except wire.Refused as refused:
            counted["refused"] += 1
            log.warning("hook.refused", source=source, reason=refused.reason, detail=refused.detail)
            return problem(status_of(refused), refused.detail, reason=refused.reason)
        if source is Source.WEBHOOK and own(hint):
            return JSONResponse({"ok": True})
        try:
            await take_stored(hint)
            if tee is not None and source is Source.WEBHOOK:
                await tee(hint)
        except Exception as error:
            # Any failure to store has the same meaning for the sender: it isn't stored.
            counted["not_stored"] += 1
            log.error("hook.not_stored", source=source, kind=hint.kind, room=hint.room, error=type(error).__name__)
            return problem(503, "could not be stored; send it again", reason="not-stored", retry_after_s=1)
        counted["received"] += 1
        return JSONResponse({"ok": True})

    async def known(request: Request) -> Response:
        on_post()
        return await take(request, Source.WEBHOOK)

    router.secret, router.on_secret = secret, known

    @router.post(wire.HOOK_PATH)
    async def hook(request: Request) -> Response:
        """Takes one message of the signalling server that knows the secret."""
        if not same_secret(request.path_params["secret"], secret):
            counted["unauthorised"] += 1
            log.warning("hook.refused", source=Source.WEBHOOK, reason="wrong-secret")
            raise HTTPException(404)
        return await known(request)

    @router.post(wire.EVENTS_PATH)
    async def events(request: Request) -> Response:
        """Takes one message that anybody could have sent. Open only with WEBHOOK_OPEN=1."""
        if not open_to_all:
            raise HTTPException(404)
        wait_s = limiter.wait_s(address_of(request))
        if wait_s:
            counted["limited"] += 1
            log.debug("hook.limited", source=Source.OPEN_WEBHOOK, wait_s=wait_s)
            return problem(429, "too many requests from this address", reason="limited", retry_after_s=wait_s)
        return await take(request, Source.OPEN_WEBHOOK)

    return router


def secret_in(path: Path) -> tuple[str, bool]:
    """The webhook's secret in the file at `path`, and whether it was made just now.

    A new file appears complete, with mode 0600; two processes that start together agree on one secret.
    Raises Misconfigured when the file can be read by others, holds no secret, or can't be read or written.
    """
    try:
        if not path.exists():
            made = _created(path)
            if made is not None:
                return made, True
        return _read(path), False
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Misconfigured(f"WEBHOOK_SECRET_FILE {path}: {why}. Name a file that can be read or made") from None


def _created(path: Path) -> str | None:
    """None when somebody else was faster."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = secrets.token_urlsafe(32)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        # link() refuses an existing name, rename() would replace it.
        path.hardlink_to(draft)
    except FileExistsError:
        return None
    finally:
        draft.unlink()
    return secret


def _read(path: Path) -> str:
    with path.open() as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Misconfigured(f"WEBHOOK_SECRET_FILE {path}: is not a file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise Misconfigured(f"WEBHOOK_SECRET_FILE {path}: others may read it. chmod 600 {path}, or remove it")
        try:
            secret = file.read(1024).strip()
        except UnicodeDecodeError:
            secret = ""
    if not _SECRET_PATTERN.fullmatch(secret):
        raise Misconfigured(
            f"WEBHOOK_SECRET_FILE {path}: holds no secret (16 to 256 letters, digits, - or _). Remove it for a new one"
        )
    return secret
