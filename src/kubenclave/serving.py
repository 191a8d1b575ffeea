# SPDX-License-Identifier: Apache-2.0
"""HTTP for programs that serve: uvicorn with bounds, on sockets that the program has opened itself."""

import asyncio
import contextlib
import gc
import itertools
import logging
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kubenclave.errors import FormatError, KubenclaveError, PlatformError
from kubenclave.log import fault
from kubenclave.wire.metrics import CONTENT_TYPE

MAX_CONNECTIONS: Final = 128
"""Open at a time, unless a program says otherwise: over TLS each takes 0.3 MB, also one that never says anything."""
_BACKLOG: Final = 128  # as many are accepted at once
_KEEP_ALIVE: Final = 5
_GRACE: Final = 5  # seconds for what is under way, at the end
_STATUS: Final = {"serving.size": 413, "serving.slow": 408}


class Listening(socket.socket):
    """A listening socket with a bound: when there are too many connections, the oldest goes.

    That is one of a peer that keeps us waiting, or at worst one that an API server makes anew: so whoever can reach the
    port can neither use up the memory nor keep others out. It holds before TLS, for which nobody else bounds anything.
    """

    def __init__(
        self, *arguments: Any, connections: int = MAX_CONNECTIONS, queue: int = _BACKLOG, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._connections = connections
        self._queue = queue
        self._numbers = itertools.count()
        self._open: weakref.WeakValueDictionary[int, socket.socket] = weakref.WeakValueDictionary()

    def listen(self, backlog: int = 0) -> None:
        """Listen with the queue that this socket has, at least.

        To asyncio a backlog is also how many connections it accepts at once: where several processes share a socket,
        a small number leaves the others something to do, and the queue may be long all the same.
        """
        super().listen(max(backlog, self._queue))

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, at the cost of the oldest if need be."""
        connection, address = super().accept()
        if len(self._open) >= self._connections:
            with contextlib.suppress(KeyError, OSError):  # it may go by itself at this moment
                self._open.pop(min(self._open.keys())).shutdown(socket.SHUT_RDWR)  # its protocol sees that, and closes
        number = next(self._numbers)
        self._open[number] = connection
        if number % self._connections == 0:
            gc.collect()  # a handshake that failed is a cycle, which Python would let a thousand others join
        return connection, address


class _Wordless(logging.Filter):
    """Leaves out of uvicorn's log what a fault says, which may be what a client sent; type and place are enough."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info is not None and record.exc_info[1] is not None:
            told = fault(record.exc_info[1])
            record.msg, record.args = "%s: %s in %s", (record.getMessage().strip(), told["error"], told["where"])
            record.exc_info = None
        return True


_WORDLESS: Final = _Wordless()  # one for all servers of a process: a logger takes it once


class Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, those connections too that come about meanwhile: it tells only the ones there are.

        One that was accepted in the last moment would else go on with request after request until the grace ends.
        """
        telling = asyncio.create_task(self._tell_connections())
        try:
            await super().shutdown(sockets)
        finally:
            telling.cancel()

    async def _tell_connections(self) -> None:
        """Have each connection end with the answer that it is at, again and again."""
        while True:
            await asyncio.sleep(0.05)
            for connection in list(self.server_state.connections):
                transport = getattr(connection, "transport", None)
                if transport is not None and not transport.is_closing():
                    connection.shutdown()


def server(
    app: ASGIApp,
    context: ssl.SSLContext | None = None,
    *,
    keep_alive: int = _KEEP_ALIVE,
    backlog: int = _BACKLOG,
    grace: int = _GRACE,
    protocol: type[asyncio.Protocol] | None = None,
) -> Server:
    """Return a server for an application, over TLS where there is a ``context``; ``serve([listen(port)])`` runs it.

    ``keep_alive`` is for how many seconds a connection may be idle, ``grace`` for how many seconds what is under way
    may go on at the end, ``backlog`` how many connections are accepted at once; ``protocol`` replaces uvicorn's.
    """
    logging.getLogger("uvicorn.error").addFilter(_WORDLESS)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=protocol or "h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        backlog=backlog,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=grace,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )
    return Server(config)


def listen(port: int, host: str = "", *, connections: int = MAX_CONNECTIONS, backlog: int = _BACKLOG) -> Listening:
    """Listen on an address, by default on all of both families. Raises PlatformError ``serving.port``.

    Connections send at once what they are given: asyncio sees to that only for sockets of its own making, and an answer
    in two pieces would otherwise wait some 40 ms for the client to acknowledge the first.
    """
    try:
        if not host and socket.has_dualstack_ipv6():
            made = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            made = socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise PlatformError(
            f"port {port} cannot be served",
            code="serving.port",
            found=error.strerror or str(error),
            hint="another process has it: ss -lntp",
        ) from error
    listening = Listening(fileno=made.detach(), connections=connections, queue=backlog)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux hands it on to what is accepted
    return listening


@dataclass(slots=True)
class Bodies:
    """Reads the bodies of requests: whoever can reach a port must not be able to use up the memory.

    ``limit`` is in bytes of one, ``together`` of all that are being read; ``seconds`` is how long one may take.
    """

    limit: int
    together: int
    seconds: float
    _held: int = 0

    async def read(self, request: Request) -> bytes:
        """Return a whole body.

        Raises FormatError ``serving.size`` as soon as it is too long, ``serving.slow`` when it is late or its client
        went away, and PlatformError ``serving.busy`` when too much is being read.
        """
        try:
            async with asyncio.timeout(self.seconds):
                return await self._read(request)
        except (TimeoutError, ClientDisconnect) as error:
            raise FormatError(
                "the request did not arrive in time", code="serving.slow", expected=f"within {self.seconds:g} s"
            ) from error

    async def _read(self, request: Request) -> bytes:
        pieces, size = [], 0
        try:
            async for piece in request.stream():
                size += len(piece)
                self._held += len(piece)
                if size > self.limit:
                    raise FormatError(
                        "the request is too long", code="serving.size", expected=f"at most {self.limit} bytes"
                    )
                if self._held > self.together:
                    raise PlatformError("too many requests at once", code="serving.busy")
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            self._held -= size


def status_of(error: KubenclaveError) -> int:
    """Return the HTTP status that tells a client of an error."""
    return _STATUS.get(error.code, error.http_status)


def health_app(
    ready: Callable[[], str | None], render: Callable[[], bytes] | Callable[[], Awaitable[bytes]]
) -> Starlette:
    """Return the application of a health port.

    ``ready`` says what is missing, None when nothing is; ``render`` returns the metrics as they are now.
    """

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        missing = ready()
        return PlainTextResponse("ok\n") if missing is None else PlainTextResponse(f"{missing}\n", 503)

    async def metrics(_request: Request) -> Response:
        rendered = render()
        text = rendered if isinstance(rendered, bytes) else await rendered
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
