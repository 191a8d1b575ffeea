# SPDX-License-Identifier: Apache-2.0
"""The quote helper as a daemon: worker, service, socket and health put together, from start to hand-over.

The socket appears once quotes can be made. SIGTERM and SIGINT end the helper: it leaves the path, or has lost it to its
successor already, and answers whoever has got in before it goes.
"""

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

import structlog

from kubenclave import log
from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.node.health import JSON, TEXT, HealthServer, Route
from kubenclave.node.quotehelper import status
from kubenclave.node.quotehelper.options import Options, parse
from kubenclave.node.quotehelper.place import Place
from kubenclave.node.quotehelper.server import AesmServer, ServerLimits
from kubenclave.node.quotehelper.service import QuoteService
from kubenclave.node.quotehelper.status import Reason
from kubenclave.node.quotehelper.worker import Worker, WorkerState
from kubenclave.wire.metrics import CONTENT_TYPE, Gauge, Metrics

WATCH_SECONDS: Final = 1.0
LINGER_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 5.0
HANDOVER_STEP: Final = 0.05
RESERVED_DESCRIPTORS: Final = 64
"""What the worker, the health socket and the loop need, whatever clients hold."""

_log = structlog.get_logger()


def worker_command(options: Options) -> list[str]:
    """Return the command that starts the backend's worker, to which ``--fd N`` is added."""
    if options.simulated:
        module = "kubenclave.platform.simulated.worker"
        return [sys.executable, "-m", module, "--provision-socket", str(options.provision_socket)]
    library = ["--library", options.library] if options.library else []
    return [sys.executable, "-m", "kubenclave.platform.dcapworker", *library]


class QuoteHelper:
    """One run; ``command`` starts the worker."""

    def __init__(self, options: Options, command: Sequence[str]) -> None:
        self._options: Final = options
        self._metrics: Final = Metrics()
        counter, gauge = self._metrics.counter, self._metrics.gauge
        restarts = counter("kubenclave_quote_worker_restarts_total", "Ends of worker processes")
        outcomes = counter("kubenclave_aesm_connections_total", "AESM connections by how they ended", "outcome")
        self._worker: Final = Worker(command, restarts, stall_seconds=options.stall_seconds)
        self._service: Final = QuoteService(self._worker, self._metrics, options.service)
        self._server: Final = AesmServer(self._service.handle, outcomes, options.server)
        self._place: Final = Place(options.socket, options.mode, options.owner, options.take_over)
        self._in_the_way: Reason | None = Reason("quotehelper.starting", "the socket is not there yet")
        self._ready: Final = gauge("kubenclave_quote_helper_ready", "Whether a quote would be made now")
        self._gauges: Final[dict[str, Gauge]] = {
            "connections": gauge("kubenclave_aesm_open_connections", "AESM connections that are open"),
            "queued": gauge("kubenclave_aesm_queued_quotes", "Quotes that wait for the worker"),
            "worker": gauge("kubenclave_quote_worker_up", "Whether there is a worker process"),
            "calls": gauge("kubenclave_quote_worker_calls", "Calls that the worker has not answered yet"),
        }
        gauge("kubenclave_quote_helper_info", "Backend", "backend").set(1, options.backend)

    @property
    def reasons(self) -> list[Reason]:
        """What stands in the way of readiness."""
        return [*([self._in_the_way] if self._in_the_way else []), *self._service.reasons]

    def routes(self) -> dict[str, Route]:
        """Return the routes of the health socket."""
        return {
            "/healthz": lambda: (200, TEXT, b"ok\n"),
            "/readyz": lambda: (503 if self.reasons else 200, JSON, self._document()),
            "/status": lambda: (200, JSON, self._document()),
            "/metrics": lambda: (200, CONTENT_TYPE, self._rendered()),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``. Raises PlatformError where the socket cannot be had."""
        options = self._options
        async with AsyncExitStack() as stack:
            health = HealthServer(self.routes())
            if options.health_socket is not None:
                await stack.enter_async_context(health.on_unix_socket(options.health_socket))
            if options.health_port is not None:
                await stack.enter_async_context(health.on_tcp(None, options.health_port))
            await self._place.check()  # before an enclave is started for nothing
            tasks = await stack.enter_async_context(_running(self._worker.run(), self._service.keep_initialised()))
            if not await _unless(stop, self._service.wait_initialised(), tasks):
                return
            self._server.start(await self._place.claim())
            self._in_the_way = None
            stack.callback(self._server.close)
            stack.callback(self._place.leave)
            _log.info("helper.ready", socket=str(options.socket), backend=options.backend)
            await _unless(stop, self._keep_place(), tasks)
            await self._retire()

    async def _keep_place(self) -> None:
        """Watch over the path: take it back from nobody, step aside for a successor."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._place.ours:
                self._in_the_way = None
                continue
            try:
                listener = await self._place.reclaim()
            except PlatformError as error:
                self._note(Reason(error.code, error.message, error.hint or ""))
                continue
            if listener is not None:
                self._server.start(listener)
                self._in_the_way = None
            else:
                self._note(Reason("quotehelper.superseded", "another process serves the socket now"))

    def _note(self, reason: Reason) -> None:
        if self._in_the_way != reason:
            _log.warning("helper.not-ready", code=reason.code, error=reason.message, hint=reason.hint)
        self._in_the_way = reason

    async def _retire(self) -> None:
        """Leave the path and answer whoever has got in."""
        self._in_the_way = Reason("quotehelper.stopping", "the helper has been told to stop")
        for _ in range(round(self._options.handover_seconds / HANDOVER_STEP)):
            if not self._place.ours:
                break
            await asyncio.sleep(HANDOVER_STEP)
        _log.info("helper.stopping", handed_over=not self._place.ours)
        self._place.leave()
        await self._server.drain(LINGER_SECONDS, PATIENCE_SECONDS)

    def _document(self) -> bytes:
        return status.document(self._options.backend, self.reasons, simulated=self._options.simulated)

    def _rendered(self) -> bytes:
        self._ready.set(not self.reasons)
        self._gauges["connections"].set(self._server.connections)
        self._gauges["queued"].set(self._service.queued)
        self._gauges["worker"].set(self._worker.state is WorkerState.UP)
        self._gauges["calls"].set(self._worker.outstanding)
        return self._metrics.render()


@asynccontextmanager
async def _running(*work: Awaitable[None]) -> AsyncIterator[set["asyncio.Future[None]"]]:
    """Run all of it inside the block and end it afterwards."""
    tasks: set[asyncio.Future[None]] = {asyncio.ensure_future(one) for one in work}
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _unless(stop: asyncio.Event, work: Awaitable[None], tasks: set["asyncio.Future[None]"]) -> bool:
    """Wait for ``work``, return False if ``stop`` comes first. Raises what work or one of ``tasks`` raises."""
    async with _running(work) as ours, _running(_wait(stop)) as stopping:
        done, _ = await asyncio.wait(tasks | ours | stopping, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return not done & stopping


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def serve(options: Options, command: Sequence[str]) -> None:
    """Run a helper in this process until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await QuoteHelper(options, command).run(stop)


def run(options: Options, command: Sequence[str] | None = None) -> int:
    """Run a helper and return its exit code; ``command`` starts another worker than the backend's."""
    log.configure("quote-helper", simulated=options.simulated)
    if options.simulated:
        _log.warning("platform.simulated", note="SIMULATED platform: nothing is protected by hardware")
    options = replace(options, server=_within_descriptors(options.server))
    try:
        asyncio.run(serve(options, worker_command(options) if command is None else command))
    except KubenclaveError as error:
        _log.error("helper.failed", code=error.code, error=str(error), hint=error.hint or "")
        return error.exit_code
    return 0


def _within_descriptors(limits: ServerLimits) -> ServerLimits:
    """Allow as many descriptors as we may, and clients no more than leaves some for us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return limits
    return replace(limits, connections=min(limits.connections, most - min(RESERVED_DESCRIPTORS, most // 2)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the helper as a program; returns its exit code."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as end:  # help has been shown, or what is wrong with the options
        return end.code if isinstance(end.code, int) else 2
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
