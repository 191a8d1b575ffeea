# SPDX-License-Identifier: Apache-2.0
"""The daemons as child processes: started in order, waited for, restarted when they fail, stopped in reverse order.

They log to our stderr themselves, in the form that suits it. A process group of their own keeps the terminal's
Ctrl-C from them, so that they end when we say so; and if we are killed, the kernel ends them.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from kubenclave.errors import PlatformError
from kubenclave.local import mounts

_log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Service:
    """A daemon: ``argv`` starts it, ``ready`` tells whether it answers; it inherits the file ``descriptors``."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long a start and a stop may take, and the pauses before restarts.

    A daemon that ran for ``stable`` seconds starts over with the first pause.
    """

    start: float = 15.0
    stop: float = 5.0
    poll: float = 0.02
    first_pause: float = 0.2
    last_pause: float = 10.0
    stable: float = 30.0


class Services:
    """Daemons that run while the ``running`` block is open."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._keepers: list[asyncio.Task[None]] = []
        self._restarts: dict[str, int] = {}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each service had to be started again."""
        return dict(self._restarts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Services"]:
        """Stop all services at the end of the block, the last started first."""
        try:
            yield self
        finally:
            for keeper in reversed(self._keepers):
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)

    async def start(self, service: Service) -> None:
        """Start a service and wait until it is ready. Raises PlatformError when it does not come up."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restarts[service.name] = 0
        keeper = asyncio.create_task(self._keep(service, started))
        self._keepers.append(keeper)
        await asyncio.wait((keeper, started), return_when=asyncio.FIRST_COMPLETED)
        await (started if started.done() else keeper)

    async def _keep(self, service: Service, started: "asyncio.Future[None]") -> None:
        """Run the service, again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        pause = self._patience.first_pause
        while True:
            since = loop.time()
            try:
                code = await self._one_life(service, started)
            except OSError as error:  # no memory or descriptors for a process: perhaps there will be
                if not started.done():
                    raise
                _log.error("daemon.not-started", daemon=service.name, error=error.strerror)
                code = None
            self._restarts[service.name] += 1
            if loop.time() - since > self._patience.stable:
                pause = self._patience.first_pause
            _log.warning("daemon.restarting", daemon=service.name, exit_code=code, pause=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._patience.last_pause)

    async def _one_life(self, service: Service, started: "asyncio.Future[None]") -> int:
        """Run the service once and return its exit code."""
        process = await _spawn(service)
        try:
            if not started.done():
                await self._wait_until_ready(service, process)
                started.set_result(None)
            return await process.wait()
        finally:
            await self._stop(service, process)

    async def _wait_until_ready(self, service: Service, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience.start
        while not await service.ready():
            if process.returncode is not None:
                raise PlatformError(
                    f"the {service.name} ended while starting",
                    code="up.daemon-failed",
                    expected="a running daemon",
                    found=f"exit code {process.returncode}",
                    hint="its last log line says why",
                )
            if loop.time() > deadline:
                raise PlatformError(
                    f"the {service.name} does not become ready",
                    code="up.daemon-late",
                    expected=f"an answer within {self._patience.start:g} s",
                    found="none",
                    hint="its last log line says what it waits for",
                )
            await asyncio.sleep(self._patience.poll)

    async def _stop(self, service: Service, process: asyncio.subprocess.Process) -> None:
        """Ask a process to end, then make it."""
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._patience.stop):
                await process.wait()
        except TimeoutError:
            _log.warning("daemon.killed", daemon=service.name)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _spawn(service: Service) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *service.argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,  # results for people; what daemons have to say is in their log
        start_new_session=True,
        pass_fds=service.descriptors,
        preexec_fn=partial(_end_with, os.getpid()),
    )


def _end_with(parent: int) -> None:
    """Tie the process that is about to become a daemon to us."""
    mounts.die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # we went before it asked to be told
