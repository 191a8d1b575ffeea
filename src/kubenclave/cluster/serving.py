# SPDX-License-Identifier: Apache-2.0
"""HTTP for programs of the cluster: uvicorn with bounds, on sockets that the program has opened itself."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request

from kubenclave.errors import FormatError, PlatformError

_CONCURRENT: Final = 256
_KEEP_ALIVE: Final = 5
_GRACE: Final = 5


class Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def server(app: Starlette) -> Server:
    """Return a server without TLS for an application; ``serve([listen(port)])`` runs it."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=_CONCURRENT,
    )
    return Server(config)


def listen(port: int) -> socket.socket:
    """Listen on all addresses, of both families where there are two. Raises PlatformError ``serving.port``."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise PlatformError(
            f"port {port} cannot be served",
            code="serving.port",
            found=error.strerror or str(error),
            hint="another process has it: ss -lntp",
        ) from error


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body piece by piece. Raises FormatError ``serving.size`` as soon as it is longer than ``limit`` bytes."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise FormatError("the request is too long", code="serving.size", expected=f"at most {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)
