# SPDX-License-Identifier: Apache-2.0
"""Bounds on what anybody may take: requests a second, bytes and seconds of a body, requests at a time, seconds in all.

They hold in front of all routes, so that none can be forgotten. Each worker process keeps its own counts.
"""

import asyncio
import contextlib
import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kubenclave.errors import FormatError, KubenclaveError, PlatformError
from kubenclave.services.web.problems import problem

_FRAMING: Final = "serving.framing"
_TABLE: Final = 10_000  # addresses or names remembered; beyond, the one that was quiet longest is forgotten


class TooFastError(PlatformError):
    """Somebody asks more often than they may; ``retry_after`` is in whole seconds, at least 1."""

    http_status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests", code="limits.rate", expected=f"a pause of {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second in the long run, and how many at once after a pause. 0 a second: no bound."""

    per_second: float = 0.0
    burst: int = 1


class Buckets:
    """Token buckets by name; ``clock`` returns seconds that only go forwards."""

    def __init__(self, rate: Rate, clock: Callable[[], float], size: int = _TABLE) -> None:
        self._rate: Final = rate
        self._clock: Final = clock
        self._size: Final = size
        self._levels: Final[OrderedDict[str, tuple[float, float]]] = OrderedDict()  # tokens left, and when

    def take(self, name: str) -> None:
        """Take one token. Raises TooFastError when there is none."""
        if self._rate.per_second <= 0:
            return
        now = self._clock()
        tokens, since = self._levels.get(name, (float(self._rate.burst), now))
        tokens = min(self._rate.burst, tokens + (now - since) * self._rate.per_second)
        self._levels[name] = (tokens - 1, now) if tokens >= 1 else (tokens, now)
        self._levels.move_to_end(name)
        if len(self._levels) > self._size:
            self._levels.popitem(last=False)
        if tokens < 1:
            raise TooFastError(max(1, math.ceil((1 - tokens) / self._rate.per_second)))

    def __len__(self) -> int:
        return len(self._levels)


def client_of(scope: Scope) -> str:
    """Return who is on the other side, as limits see them: an IPv4 address, or the /64 network of an IPv6 address."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one worker takes. Bytes and seconds.

    ``bodies`` are bounds of bodies by path: the longest prefix decides, ``body`` where there is none. ``together`` is
    for all bodies that are being read. A request ends after ``total``, its body has to be there after ``arriving``.
    ``at_once`` is for requests that are worked on: those whose bodies are still on their way, or that wait for somebody
    else (``waiting``), would else keep all others out.
    """

    rate: Rate = Rate()
    body: int = 256 << 10
    bodies: Mapping[str, int] = field(default_factory=dict)
    together: int = 128 << 20
    arriving: float = 10.0
    total: float = 30.0
    at_once: int = 512


class Limits:
    """ASGI middleware that keeps ``bounds``; ``answer`` makes the response to a request that is refused for them."""

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        clock: Callable[[], float],
        answer: Callable[[Request, KubenclaveError], Response] = lambda _request, error: problem(error),
    ) -> None:
        self._app: Final = app
        self._bounds: Final = bounds
        self._answer: Final = answer
        self._buckets: Final = Buckets(bounds.rate, clock)
        self._under_way = 0
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within the bounds."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = _Begun(send)
        place = _Place(self._work)
        body = _Body(receive, self._limit(scope["path"]), self._bounds, self._hold, place)
        try:
            self._buckets.take(client_of(scope))
            if self._under_way >= self._bounds.at_once:
                raise PlatformError("too many requests at once", code="limits.busy")
            body.expect(scope["headers"])
            place.take()
            before = _PLACE.set(place)
            try:
                async with asyncio.timeout(self._bounds.total):
                    await self._app(scope, body.receive, begun.send)
            except TimeoutError as error:
                raise PlatformError(
                    "the answer took too long", code="limits.late", expected=f"within {self._bounds.total:g} s"
                ) from error
            finally:
                _PLACE.reset(before)
                place.leave()
        except KubenclaveError as error:
            if begun.done:  # half an answer cannot be taken back: the server closes the connection
                raise
            response = self._answer(Request(scope), error)
            if error.code == _FRAMING:
                response.headers["Connection"] = "close"
            await response(scope, receive, begun.send)
        finally:
            self._hold(-body.size)

    def _limit(self, path: str) -> int:
        prefixes = [prefix for prefix in self._bounds.bodies if path.startswith(prefix)]
        return self._bounds.bodies[max(prefixes, key=len)] if prefixes else self._bounds.body

    def _work(self, step: int) -> None:
        self._under_way += step

    def _hold(self, size: int) -> None:
        """Count bytes that came, or went. Raises PlatformError ``limits.busy``."""
        self._held += size
        if size > 0 and self._held > self._bounds.together:
            raise PlatformError("too much is being sent at once", code="limits.busy")


class _Place:
    """The place of one request among those that are worked on; taken and left as often as need be."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._taken = False

    def take(self) -> None:
        if not self._taken:
            self._taken = True
            self._count(+1)

    def leave(self) -> None:
        if self._taken:
            self._taken = False
            self._count(-1)


_PLACE: Final[ContextVar[_Place | None]] = ContextVar("place", default=None)  # of the request in whose task we are


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Leave the place of a request to others while it waits for somebody else, such as a source that may hang."""
    place = _PLACE.get()
    if place is None:
        yield
        return
    place.leave()
    try:
        yield
    finally:
        place.take()


class _Begun:
    """Knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.done = False

    async def send(self, message: Message) -> None:
        self.done = True
        await self._send(message)


class _Body:
    """Counts the bytes of one body and the time that they take."""

    def __init__(
        self,
        receive: Receive,
        limit: int,
        bounds: Bounds,
        hold: Callable[[int], None],
        place: _Place,
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = bounds.arriving
        self._hold = hold
        self._place = place
        self._ends = asyncio.get_running_loop().time() + bounds.arriving
        self._whole = False
        self.size = 0

    def expect(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse a body that says beforehand that it is too long, or says its length in two ways.

        What comes after such a one is another request to a proxy than to us (RFC 9112, 6.3): so it is not looked at.
        """
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            raise FormatError(
                "the request says its length in two ways",
                code=_FRAMING,
                expected="Content-Length or Transfer-Encoding",
                found="both",
            )
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._limit:
                raise self._too_long()

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()  # waits for the client to go away, which may take as long as the answer
        self._place.leave()
        try:
            async with asyncio.timeout_at(self._ends):
                message: dict[str, Any] = dict(await self._receive())
        except TimeoutError as error:
            raise FormatError(
                "the request did not arrive in time", code="serving.slow", expected=f"within {self._seconds:g} s"
            ) from error
        finally:
            self._place.take()
        if message["type"] == "http.disconnect":
            raise FormatError("the client went away before its request was whole", code="serving.slow")
        self._whole = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self.size += size
        self._hold(size)
        if self.size > self._limit:
            raise self._too_long()
        return message

    def _too_long(self) -> FormatError:
        return FormatError("the request is too long", code="serving.size", expected=f"at most {self._limit} bytes")
