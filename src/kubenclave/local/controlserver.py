# SPDX-License-Identifier: Apache-2.0
"""The side of ``up`` of the control socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from kubenclave.errors import KubenclaveError
from kubenclave.local import control
from kubenclave.platform import sockets

MAX_CONNECTIONS: Final = 512
REQUEST_DEADLINE: Final = 10.0

_log = structlog.get_logger()

Handler = Callable[[control.Request, int], Awaitable[tuple[control.Reply, Callable[[], None] | None]]]
"""Answers a request of a process id; the second value is called when the connection has ended."""


class ControlServer:
    """Answers one request per connection and keeps the connection as long as the peer does."""

    def __init__(self, handler: Handler, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._handler = handler
        self._free = max_connections
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Serve at ``path``, for its owner only, inside the block. Raises PlatformError where that cannot be."""
        listener, who = sockets.take(path, 0o600)
        server = await asyncio.start_unix_server(self._connected, sock=listener, limit=control.MAX_LINE)
        try:
            yield
        finally:
            await sockets.close(server)
            self._stopping = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            sockets.remove(path, who)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this in a task"
        self._tasks.add(task)
        try:
            if self._free:
                self._free -= 1
                try:
                    await self._serve(reader, writer)
                finally:
                    self._free += 1
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            _log.debug("control.ended", reason=str(error))
        except asyncio.CancelledError:
            if not self._stopping:  # by us it is no news, but Python 3.11 would report it as an error
                raise
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        release: Callable[[], None] | None = None
        try:
            async with asyncio.timeout(REQUEST_DEADLINE):
                line = await reader.readuntil(b"\n")
            pid, _uid = sockets.peer(writer.get_extra_info("socket"))
            try:
                reply, release = await self._handler(control.decode_request(line), pid)
                answer = control.encode(reply)
            except KubenclaveError as error:
                answer = control.encode(control.refusal(error))
            writer.write(answer)
            async with asyncio.timeout(REQUEST_DEADLINE):
                await writer.drain()
            if release is not None:
                await reader.read(1)  # whatever comes ends it: there is nothing more to say
        finally:
            if release is not None:
                release()
