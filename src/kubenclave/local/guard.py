# SPDX-License-Identifier: Apache-2.0
"""Two processes where one would do, so that nothing outlives either: the guard (us) and the keeper (our child).

The keeper starts programs and is the parent of whatever they leave behind; when the guard is killed the kernel tells
the keeper, which ends them. When the keeper is killed its children become the guard's, which does the same. The guard
also watches the connection that the lease hangs on: when ``up`` goes, what it granted is no longer ours to use.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from kubenclave.errors import PlatformError
from kubenclave.local import mounts

POLL: Final = 0.02
LAST_WAIT: Final = 5.0

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED: Final = 130


def guarded(work: Callable[[], bytes], lease: int, lost: Callable[[], None]) -> bytes:
    """Return what ``work`` returns, which runs in a child process and has to set signal handlers of its own.

    ``lease`` is the descriptor of a connection; when the peer closes it ``lost`` is called and the child gets SIGTERM.
    Raises KeyboardInterrupt when the child was interrupted, PlatformError when it ended without an answer.
    """
    mounts.adopt_orphans()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # nothing may arrive between the fork and the handlers on both sides
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    keeper = os.fork()
    if keeper == 0:
        os.close(reader)
        _keep(work, writer, os.getppid())
    os.close(writer)
    try:
        with _forwarding(keeper):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            answer = _wait(keeper, reader, lease, lost)
            status = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    finally:
        os.close(reader)
        end_orphans()
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise PlatformError(
            "the process that kept the programs has ended without a word",
            code="run.keeper-lost",
            expected="exit code 0",
            found=str(status),
            hint="whatever ran was ended too",
        )
    return answer


def end_orphans() -> None:
    """Kill and collect every child that is left, adopted ones and theirs included."""
    deadline = time.monotonic() + LAST_WAIT
    while time.monotonic() < deadline:
        for orphan in _children():
            with suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(POLL)
        except ChildProcessError:
            return


def _keep(work: Callable[[], bytes], writer: int, guard: int) -> NoReturn:
    """Be the keeper. Runs in the forked process and never returns."""
    status = 1
    try:
        mounts.adopt_orphans()
        mounts.die_with_parent(signal.SIGTERM)
        if os.getppid() != guard:
            os.kill(os.getpid(), signal.SIGTERM)  # it went before we asked to be told
        answer = memoryview(work())
        while answer:
            answer = answer[os.write(writer, answer) :]
        status = 0
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        pass  # nobody is left to hear it
    finally:
        os._exit(status)


def _wait(keeper: int, reader: int, lease: int, lost: Callable[[], None]) -> bytes:
    """Read the answer to its end, watching the lease meanwhile."""
    answer = bytearray()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(lease, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == lease:  # nobody writes there: it has ended
                poll.unregister(lease)
                lost()
                os.kill(keeper, signal.SIGTERM)
                continue
            part = os.read(reader, 65536)
            if not part:
                return bytes(answer)
            answer += part


@contextmanager
def _forwarding(keeper: int) -> Iterator[None]:
    """Pass signals on to the keeper; Ctrl-C on a terminal has reached it already."""

    def forward(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT or not os.isatty(0):
            with suppress(ProcessLookupError):
                os.kill(keeper, number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children() -> Iterator[int]:
    """Yield the processes whose parent we are, adopted ones included."""
    me = os.getpid()
    for listing in Path(f"/proc/{me}/task").glob("*/children"):
        yield from map(int, listing.read_text(encoding="ascii").split())
