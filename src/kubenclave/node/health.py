# SPDX-License-Identifier: Apache-2.0
"""HTTP endpoint of a node daemon: a handful of GET routes over a Unix socket, or TCP where wanted.

One request per connection; head sizes, connections and time are bounded, so that nobody who may connect can hold
the daemon up. When there are too many connections the oldest goes: it is one whose peer keeps us waiting, for a
request that is there is answered at once.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import h11

from kubenclave.errors import PlatformError
from kubenclave.platform import sockets

Answer = tuple[int, str, bytes]
"""Status, content type and body."""

Route = Callable[[], Answer]
"""Returns the answer; must not block."""

AsyncRoute = Callable[[], Awaitable[Answer]]
"""Returns what to await for the answer, well within DEADLINE."""

MAX_HEAD: Final = 8192
MAX_CONNECTIONS: Final = 128
DEADLINE: Final = 5.0

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


class HealthServer:
    """Serves ``routes``; ``deadline`` is the time in seconds a connection may take altogether."""

    def __init__(
        self,
        routes: Mapping[str, Route | AsyncRoute],
        *,
        max_connections: int = MAX_CONNECTIONS,
        deadline: float = DEADLINE,
    ) -> None:
        self._routes = dict(routes)
        self._most = max_connections
        self._open: dict[asyncio.Task[None], None] = {}  # in the order of their coming
        self._deadline = deadline

    @asynccontextmanager
    async def on_unix_socket(self, path: Path, mode: int = 0o660) -> AsyncIterator[None]:
        """Serve at ``path`` inside the block. Raises PlatformError where no socket can be made."""
        listener, who = sockets.take(path, mode)
        server = await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_HEAD)
        try:
            yield
        finally:
            await sockets.close(server)
            sockets.remove(path, who)

    @asynccontextmanager
    async def on_tcp(self, host: str | None, port: int) -> AsyncIterator[int]:
        """Serve at ``host`` (None: everywhere) inside the block; yields the port, which is a free one if it is 0.

        Raises PlatformError where the port cannot be had.
        """
        try:
            listener = _everywhere(port) if host is None else socket.create_server((host, port))
        except OSError as error:
            raise PlatformError(
                f"port {port} cannot be served",
                code="serving.port",
                found=error.strerror or str(error),
                hint="another process has it: ss -lntp",
            ) from error
        server = await asyncio.start_server(self._connected, sock=listener, limit=MAX_HEAD)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            await sockets.close(server)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this in a task"
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        self._open[task] = None
        try:
            async with asyncio.timeout(self._deadline):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()  # cancelled: by us, or the daemon ends, which Python 3.11 would report as an error
        finally:
            self._open.pop(task, None)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        head_only = False
        try:
            request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            status, kind, body = error.error_status_hint, TEXT, b"not a proper request\n"
        else:
            if request is None:
                return
            head_only = request.method == b"HEAD"
            status, kind, body = await self._answer(request.method, request.target)
        head = h11.Response(
            status_code=status,
            headers=[("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")],
        )
        writer.write(connection.send(head) or b"")
        if not head_only:
            writer.write(connection.send(h11.Data(body)) or b"")
        await writer.drain()

    async def _answer(self, method: bytes, target: bytes) -> Answer:
        route = self._routes.get(target.partition(b"?")[0].decode("ascii", "replace"))
        if route is None:
            known = " ".join(self._routes)
            return 404, TEXT, f"no such path; there are {known}\n".encode()
        if method not in (b"GET", b"HEAD"):
            return 405, TEXT, b"only GET and HEAD\n"
        answer = route()
        return answer if isinstance(answer, tuple) else await answer


def _everywhere(port: int) -> socket.socket:
    """Listen on all addresses, of IPv6 too where there is any. asyncio would start a thread to look up none."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the request's head, None when the peer has gone. Raises RemoteProtocolError for anything else."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(MAX_HEAD))
