"""A TCP connection that can be cut: the outage between the keeper and its backend.

Promises: `cut` closes every connection at once and refuses new ones; `restore` accepts again, on the same
port. What is behind the proxy goes on undisturbed.
"""

from __future__ import annotations

import asyncio
import contextlib

from scripts.world.processes import LOOPBACK


class TcpProxy:
    """Forwards `port` on loopback to `target_port` on loopback."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0  # chosen at the first start
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._used = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connection, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    restore = start

    async def cut(self) -> None:
        """Refuse new connections, reset those there are. Safe when cut already."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._used.clear()
        for writer in self._writers:
            # A reset, not an orderly close: nothing that is still buffered gets through.
            writer.transport.abort()
        self._writers.clear()

    stop = cut

    async def until_used(self) -> None:
        """Wait until somebody has connected through it since it was last cut."""
        await self._used.wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection(LOOPBACK, self.target_port)
        except OSError:
            writer.transport.abort()
            return
        if self._server is None:  # cut while we were connecting
            writer.transport.abort()
            back_writer.transport.abort()
            return
        self._used.set()
        self._writers |= {writer, back_writer}
        try:
            await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))
        finally:
            self._writers -= {writer, back_writer}
            for each in (writer, back_writer):
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until either side is gone; then nothing more can be said in this direction."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
