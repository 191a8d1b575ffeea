# SPDX-License-Identifier: Apache-2.0
"""Several processes that serve the same sockets: started by forking, replaced when they end, stopped together.

The parent serves nothing and has no event loop or thread, so that forking is safe. It opens the sockets before; what
waits in their queue when a worker dies is answered by the others. If the parent is killed, the kernel ends the workers.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from socket import socket
from typing import Final

import structlog

from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.platform.parent import die_with_parent

_WANTED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: a worker that lived for ``stable`` starts well; ``pause`` before one is replaced that did not.

    ``attempts`` workers in a row that did not end the program. ``stop`` is how long all have to end.
    """

    stable: float = 5.0
    pause: float = 0.5
    attempts: int = 10
    stop: float = 30.0


@dataclass(slots=True)
class Workers:
    """``count`` processes, each of which runs ``work(number)`` until SIGTERM; numbers stay when one is replaced.

    ``sockets`` are closed here when the end begins: from then on nobody is made to wait for an answer that never comes.
    """

    count: int
    work: Callable[[int], None]
    sockets: Iterable[socket] = ()
    patience: Patience = field(default_factory=Patience)
    _running: dict[int, tuple[int, float]] = field(default_factory=dict)  # process: its number, and since when
    _failures: int = 0

    def run(self) -> None:
        """Run until SIGINT or SIGTERM. Raises PlatformError ``workers.failing`` when they end again and again."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WANTED)
        try:
            for number in range(self.count):
                self._start(number, before)
            while (arrived := signal.sigwait(_WANTED)) == signal.SIGCHLD:
                self._replace(before)
            _log.info("workers.stopping", signal=signal.Signals(arrived).name)
        finally:
            self._stop()
            while signal.sigtimedwait(_WANTED, 0) is not None:
                pass  # who asked again while we were ending has what they wanted
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(self, number: int, mask: "set[signal.Signals] | Iterable[int]") -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            _live(self.work, number, parent, mask)
        self._running[process] = (number, time.monotonic())
        _log.info("worker.started", worker=number, pid=process)

    def _replace(self, mask: "set[signal.Signals] | Iterable[int]") -> None:
        """Start new workers for those that have ended."""
        # All are taken off first: the number of a process that was waited for may be another program's by now.
        ended = [(process, status, *self._running.pop(process)) for process, status in _ended()]
        for process, status, number, since in ended:
            code = os.waitstatus_to_exitcode(status)
            _log.error("worker.ended", worker=number, pid=process, exit_code=code)
            lived = time.monotonic() - since
            self._failures = 0 if lived >= self.patience.stable else self._failures + 1
            if self._failures >= self.patience.attempts:
                raise PlatformError(
                    "workers end as soon as they start",
                    code="workers.failing",
                    found=f"exit code {code}",
                    hint="the lines above say why",
                )
            if lived < self.patience.stable:
                time.sleep(self.patience.pause)
            self._start(number, mask)

    def _stop(self) -> None:
        """End all workers: asked first, and killed when they do not."""
        for each in self.sockets:
            each.close()
        for process in self._running:
            os.kill(process, signal.SIGTERM)
        ends = time.monotonic() + self.patience.stop
        while self._running:
            for process, _ in _ended():
                self._running.pop(process, None)
            left = ends - time.monotonic()
            if self._running and (left <= 0 or signal.sigtimedwait((signal.SIGCHLD,), left) is None):
                break
        for process in self._running:
            _log.error("worker.killed", pid=process)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        self._running.clear()


def _ended() -> Iterable[tuple[int, int]]:
    """Yield the children that have ended, with their status."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        yield process, status


def _live(work: Callable[[int], None], number: int, parent: int, mask: "set[signal.Signals] | Iterable[int]") -> None:
    """Be a worker, and end as one: nothing of the parent's is unwound."""
    code = 1
    try:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            return  # it died before the kernel could be asked
        structlog.contextvars.bind_contextvars(worker=number)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work(number)
        code = 0
    except KubenclaveError as error:
        code = error.exit_code
        _log.error("worker.failed", error=str(error), code=error.code, hint=error.hint)
    except BaseException:  # noqa: BLE001 - whatever it is, the process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
