# SPDX-License-Identifier: Apache-2.0
"""The worker process behind the helper: started, asked, watched and started again.

Quoting runs in a process of its own because Intel's libraries crash and hang in ways that must not take the socket
with them. Whatever goes wrong there ends in an answer here.
"""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Final

import structlog

from kubenclave.errors import FormatError
from kubenclave.node.quotehelper.deadlines import Deadlines
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.metrics import Counter
from kubenclave.wire.quoteworker import FrameDecoder, Op, WorkerReply, decode_reply, encode_request

_log = structlog.get_logger()

STALL_SECONDS: Final = 120.0
"""A worker that leaves a request unanswered for so long is taken for dead."""

_RECEIVE: Final = 64 * 1024
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 30.0
_HOPELESS: Final = 3
_GRACE: Final = 1.0
_REAP_TRIES: Final = 100
_IDS: Final = 1 << 32
_STDERR: Final = 2

Done = Callable[[WorkerReply], None]


class WorkerState(Enum):
    """Whether there is a process to ask."""

    UP = "up"
    RESTARTING = "restarting"
    FAILING = "failing"

    @property
    def error(self) -> AesmError:
        """What to tell clients that cannot be served meanwhile."""
        return AesmError.SERVICE_UNAVAILABLE if self is WorkerState.FAILING else AesmError.BUSY


class Worker:
    """Keeps one ``<argv> --fd N`` running and multiplexes calls to it; ``restarts`` counts the ends of processes."""

    def __init__(self, argv: Sequence[str], restarts: Counter, *, stall_seconds: float = STALL_SECONDS) -> None:
        self._argv: Final = list(argv)
        self._restarts: Final = restarts
        self._pending: Final[dict[int, Done]] = {}
        self._stalls: Final = Deadlines[int](stall_seconds, self._stalled)
        self._last_id = 0
        self._failures = 0
        self._socket: socket.socket | None = None
        self._decoder = FrameDecoder(decode_reply)
        self._unsent: list[bytes] = []
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self.pid: int | None = None
        self.on_lost: Callable[[], None] = lambda: None
        """Called when a process has ended, before the calls that it leaves unanswered fail."""

    @property
    def state(self) -> WorkerState:
        """Whether calls go to a process at this moment."""
        if self._up.is_set():
            return WorkerState.UP
        return WorkerState.FAILING if self._failures >= _HOPELESS else WorkerState.RESTARTING

    @property
    def outstanding(self) -> int:
        """Calls that the process has not answered."""
        return len(self._pending)

    async def wait_up(self) -> None:
        """Return once there is a process to ask."""
        await self._up.wait()

    def healthy(self) -> None:
        """Take note that the process does what it is for, so that its next end counts as the first failure again."""
        self._failures = 0

    def call(self, op: Op, payload: bytes, done: Done) -> None:
        """Ask the process; ``done`` gets its reply, or BUSY or SERVICE_UNAVAILABLE when it ends before that."""
        if self._socket is None:
            done(WorkerReply(0, self.state.error, 0, b""))
            return
        request_id = self._last_id = (self._last_id + 1) % _IDS
        self._pending[request_id] = done
        self._stalls.add(request_id)
        if not self._unsent:  # what this turn of the loop brings goes out together
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(encode_request(request_id, op, payload))

    async def ask(self, op: Op, payload: bytes = b"") -> WorkerReply:
        """Ask the process and wait for the reply."""
        future: asyncio.Future[WorkerReply] = asyncio.get_running_loop().create_future()
        self.call(op, payload, lambda reply: None if future.done() else future.set_result(reply))
        return await future

    def restart(self, reason: str) -> None:
        """Give this process up: calls under way fail and another one is started."""
        if not self._lost.is_set():
            _log.warning("worker.given-up", reason=reason, pid=self.pid)
            self._lost.set()

    async def run(self) -> None:
        """Keep a process running until cancelled."""
        while True:
            await self._one_life()
            self._failures += 1
            self._restarts.inc()
            delay = min(_FIRST_DELAY * 2 ** (self._failures - 1), _LONGEST_DELAY)
            _log.warning("worker.restarting", failures=self._failures, seconds=delay)
            await asyncio.sleep(delay)

    async def _one_life(self) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            _log.error("worker.not-started", program=self._argv[0], error=error.strerror)
            return
        process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                process = self._spawn(theirs)
            self._connect(ours, process.pid)
            await self._lost.wait()
        except OSError as error:
            _log.error("worker.not-started", program=self._argv[0], error=error.strerror)
        finally:
            self._disconnect(ours)
            if process is not None:
                await self._reap(process)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        # With this variable Intel's library would connect to our own socket instead of quoting.
        environment = {key: value for key, value in os.environ.items() if key != "SGX_AESM_ADDR"}
        return subprocess.Popen(
            [*self._argv, "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            process_group=0,  # Ctrl-C is for us; the worker still has answers to give
            env=environment,
        )

    def _connect(self, ours: socket.socket, pid: int) -> None:
        ours.setblocking(False)
        self.pid = pid
        self._decoder = FrameDecoder(decode_reply)
        self._unsent = []
        self._lost.clear()
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._readable, ours)
        self._up.set()
        _log.info("worker.started", pid=pid)

    def _disconnect(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(ours)
        loop.remove_writer(ours)
        ours.close()  # which tells a process that still runs to end
        self._socket = None
        self._up.clear()
        self._stalls.clear()
        self.on_lost()
        pending = list(self._pending.values())
        self._pending.clear()
        for done in pending:
            done(WorkerReply(0, self.state.error, 0, b""))

    async def _reap(self, process: subprocess.Popen[bytes]) -> None:
        """Collect the process, which gets a moment to end by itself so that its exit code tells something."""
        try:
            for _ in range(_REAP_TRIES):
                if process.poll() is not None:
                    break
                await asyncio.sleep(_GRACE / _REAP_TRIES)
        finally:
            if process.poll() is None:
                process.kill()
                with suppress(subprocess.TimeoutExpired):  # the kernel may hold it, but shall not hold us
                    process.wait(_GRACE)
            _log.info("worker.ended", pid=process.pid, status=process.returncode)
            self.pid = None

    def _readable(self, ours: socket.socket) -> None:
        try:
            data = ours.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.restart("it closed its socket")
            asyncio.get_running_loop().remove_reader(ours)
            return
        try:
            replies = self._decoder.feed(data)
        except FormatError as error:
            self.restart(str(error))
            asyncio.get_running_loop().remove_reader(ours)
            return
        for reply in replies:
            done = self._pending.pop(reply.request_id, None)
            if done is not None:
                self._stalls.discard(reply.request_id)
                done(reply)

    def _flush(self) -> None:
        ours = self._socket
        data, self._unsent = b"".join(self._unsent), []
        if ours is None or not data:
            return
        try:
            sent = ours.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reader sees the end
        if sent < len(data):
            self._unsent = [data[sent:]]
            asyncio.get_running_loop().add_writer(ours, self._writable, ours)

    def _writable(self, ours: socket.socket) -> None:
        asyncio.get_running_loop().remove_writer(ours)
        self._flush()

    def _stalled(self, _request_id: int) -> None:
        self.restart("it does not answer")
