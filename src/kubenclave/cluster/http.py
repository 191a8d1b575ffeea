# SPDX-License-Identifier: Apache-2.0
"""What the cluster's services share of HTTP: a listening socket, a server that leaves signals alone, health pages."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kubenclave.errors import PlatformError
from kubenclave.wire.metrics import CONTENT_TYPE

_KEEP_ALIVE: Final = 120  # longer than the 90 s after which an API server drops an idle connection: it never meets ours
_CONCURRENT: Final = 512
_GRACE: Final = 5  # seconds for what is under way, at the end


class Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def new_server(app: Starlette, context: ssl.SSLContext | None = None) -> Server:
    """Make a server of an application, over TLS where there is a ``context``."""
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
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )
    return Server(config)


def listen(port: int) -> socket.socket:
    """Listen on every address, IPv6 and IPv4. Raises PlatformError where the port cannot be had."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise PlatformError(
            f"port {port} cannot be served",
            code="cluster.port",
            found=error.strerror or str(error),
            hint="another process has it: ss -lntp",
        ) from error


def health_app(ready: Callable[[], str | None], render: Callable[[], bytes]) -> Starlette:
    """Return the application of a health port.

    ``ready`` says what is missing, None when nothing is; ``render`` returns the metrics as they are now.
    """

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        missing = ready()
        return PlainTextResponse("ok\n") if missing is None else PlainTextResponse(f"{missing}\n", 503)

    async def metrics(_request: Request) -> Response:
        return Response(render(), headers={"Content-Type": CONTENT_TYPE})

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
