# SPDX-License-Identifier: Apache-2.0
"""One line in the log and a count in the metrics for each request, and an id that client and log share.

What is logged: method, route (its template, never the path with its parameters), status, milliseconds, bytes, id and
who asked by name. Not: query, body, headers, and the client's address unless the operator wants it.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kubenclave.services.web.guard import principal_of
from kubenclave.wire.metrics import Metrics

REQUEST_ID: Final = "Request-ID"
"""Header with the id, in requests and answers; Intel's PCS calls it the same."""

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

_log = structlog.get_logger()


class Access:
    """ASGI middleware, outermost. ``addresses`` writes the client's address into the log as well."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, addresses: bool = False) -> None:
        self._app: Final = app
        self._addresses: Final = addresses
        self._requests: Final = metrics.counter(
            "kubenclave_service_requests_total", "Requests answered.", "method", "route", "status"
        )
        self._seconds: Final = metrics.histogram(
            "kubenclave_service_request_seconds", "Time from the head of a request to the end of its answer.", _BUCKETS
        )
        self._under_way: Final = metrics.gauge("kubenclave_service_requests_under_way", "Requests being answered.")
        self._number = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = request_id(scope)
        answer = _Answer(send, identity)
        scope.setdefault("state", {})["request_id"] = identity
        begun = time.perf_counter()
        self._count(+1)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            self._count(-1)
            self._tell(scope, answer, identity, time.perf_counter() - begun)

    def _count(self, step: int) -> None:
        self._number += step
        self._under_way.set(self._number)

    def _tell(self, scope: Scope, answer: "_Answer", identity: str, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "none")  # a bounded number of label values, whatever is asked for
        self._requests.inc(method, route, str(answer.status))
        self._seconds.observe(seconds)
        client = scope.get("client")
        _log.info(
            "request.served",
            method=method,
            route=route,
            status=answer.status,
            ms=round(seconds * 1000, 1),
            bytes=answer.size,
            request_id=identity,
            principal=principal_of(scope).name or None,
            **({"client": client[0]} if self._addresses and client else {}),
        )


def request_id(scope: Scope) -> str:
    """Return the id that the client gave, if it is a plain one, or a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else secrets.token_hex(16)


class _Answer:
    """Sees what is sent: 500 is what the server makes of an answer that never came."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], identity: str) -> None:
        self._send = send
        self._identity = identity
        self.status = 500
        self.size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message).setdefault(REQUEST_ID, self._identity)
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)
