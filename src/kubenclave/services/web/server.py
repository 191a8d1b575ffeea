# SPDX-License-Identifier: Apache-2.0
"""A service on the network: one process or several, in front of each the same bounds, log, metrics and TLS."""

import asyncio
import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from kubenclave import serving
from kubenclave.errors import KubenclaveError, UsageError, first_error
from kubenclave.platform.signals import held, stop_signal
from kubenclave.services.web.access import Access
from kubenclave.services.web.gather import Gatherer
from kubenclave.services.web.lease import Lease
from kubenclave.services.web.limits import Bounds, Limits
from kubenclave.services.web.protocol import Protocol
from kubenclave.services.web.tls import Tls
from kubenclave.services.web.workers import Patience, Workers
from kubenclave.wire.metrics import Metrics

CONNECTIONS: Final = 2048
"""Open at a time in each worker; beyond, the oldest is closed. 35 kB each, over TLS 0.3 MB."""
_QUEUE: Final = 1024  # may wait to be accepted
_AT_ONCE: Final = 8  # are accepted by one worker, before the others have their turn
_KEEP_ALIVE: Final = 75
_GRACE: Final = 20  # seconds for what is under way, at the end
_MARGIN: Final = 10  # seconds more until a worker is killed

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is, in one worker.

    ``answer`` makes the response to a request that is refused in front of the routes. ``figures`` returns metrics that
    all workers share, read out of the database when somebody asks. ``background`` is done by one worker: by whichever
    has ``lease``. ``close`` is called at the end, when nothing is under way.
    """

    app: ASGIApp
    answer: Callable[[Request, KubenclaveError], Response]
    figures: Callable[[], bytes]
    background: Callable[[], Coroutine[Any, Any, None]]
    lease: Lease
    close: Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """How a service meets the network.

    ``health`` serves /healthz, /readyz and /metrics, None for nowhere. ``drain`` is for how many seconds a service
    still takes requests after it was asked to end, while /readyz says no.
    """

    listening: serving.Listening
    health: serving.Listening | None = None
    tls: Tls | None = None
    bounds: Bounds = field(default_factory=Bounds)
    workers: int = 1
    drain: float = 0.0
    addresses: bool = False

    def sockets(self) -> list[serving.Listening]:
        """Return all sockets that are served."""
        return [self.listening, *([] if self.health is None else [self.health])]


def listen(host: str, port: int) -> serving.Listening:
    """Listen for as many clients as this machine lets one process have. Raises PlatformError ``serving.port``."""
    return serving.listen(port, host, connections=_most(), backlog=_QUEUE)


def inherited(descriptor: int) -> serving.Listening:
    """Return the listening socket that whoever started us has opened. Raises UsageError ``serving.descriptor``."""
    try:
        found = serving.Listening(fileno=descriptor, connections=_most(), queue=_QUEUE)
        found.listen()
    except OSError as error:
        raise UsageError(
            "no socket was handed over",
            code="serving.descriptor",
            field=f"descriptor {descriptor}",
            found=error.strerror,
        ) from error
    return found


def _most() -> int:
    """Return how many connections one process may have, after asking for as many files as it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return CONNECTIONS if hard == resource.RLIM_INFINITY else max(16, min(CONNECTIONS, hard - 128))


def run(build: Callable[[Metrics], Parts], front: Front, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``build`` is called once in each worker, ``on_ready`` when clients may come.

    What stands in the way of building is told before any worker starts. Raises what building raises, and PlatformError.
    """
    with tempfile.TemporaryDirectory(prefix="kubenclave-") as directory, held():
        if front.workers == 1:
            asyncio.run(_worker(build, front, Path(directory), 0, on_ready))
            return
        asyncio.run(build(Metrics()).close())
        on_ready()

        def work(number: int) -> None:
            asyncio.run(_worker(build, front, Path(directory), number, lambda: None))

        patience = Patience(stop=front.drain + _GRACE + _MARGIN)
        Workers(front.workers, work, front.sockets(), patience).run()


async def _worker(
    build: Callable[[Metrics], Parts], front: Front, directory: Path, number: int, on_ready: Callable[[], None]
) -> None:
    """Be one worker until the signal comes. Raises what building raises, and what background work raises."""
    stop = stop_signal()
    metrics = Metrics()
    parts = build(metrics)
    try:
        await _serve(
            _Worker(parts, front, metrics, Gatherer(directory, number, front.workers, metrics.render)), stop, on_ready
        )
    except BaseExceptionGroup as group:
        ours = group.subgroup(KubenclaveError)
        raise group if ours is None else first_error(ours) from group
    finally:
        await parts.close()


@dataclass(slots=True)
class _Worker:
    parts: Parts
    front: Front
    metrics: Metrics
    gatherer: Gatherer
    draining: bool = False

    def servers(self) -> Iterator[tuple[serving.Server, serving.Listening]]:
        front, parts = self.front, self.parts
        limits = Limits(parts.app, front.bounds, time.monotonic, parts.answer)
        yield (
            serving.server(
                Access(limits, self.metrics, addresses=front.addresses),
                None if front.tls is None else front.tls.context,
                keep_alive=_KEEP_ALIVE,
                backlog=_AT_ONCE,
                grace=_GRACE,
                protocol=Protocol,
            ),
            front.listening,
        )
        if front.health is not None:
            app = serving.health_app(lambda: "draining" if self.draining else None, self.render)
            yield serving.server(app), front.health

    async def render(self) -> bytes:
        """Return the metrics of all workers, then what they share."""
        figures = await asyncio.to_thread(self.parts.figures)
        return await self.gatherer.gather() + figures


async def _serve(worker: _Worker, stop: "asyncio.Future[str]", on_ready: Callable[[], None]) -> None:
    servers = list(worker.servers())
    async with worker.gatherer.serving(), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(server.serve([listening])) for server, listening in servers]
        background = [tasks.create_task(worker.parts.lease.hold(worker.parts.background))]
        if worker.front.tls is not None:
            background.append(tasks.create_task(worker.front.tls.watch()))
        _log.info("service.started", address=_address(worker.front.listening), workers=worker.front.workers)
        on_ready()
        reason = await stop
        _log.info("service.stopping", signal=reason)
        worker.draining = True
        await asyncio.sleep(worker.front.drain)
        for server, _ in servers:
            server.should_exit = True
        for task in background:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*running)
    _log.info("service.stopped")


def _address(listening: serving.Listening) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
