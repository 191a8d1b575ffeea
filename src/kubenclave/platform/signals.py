# SPDX-License-Identifier: Apache-2.0
"""Being asked to end, for programs with an event loop."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for ``stop_signal``, which the loop that runs inside the block calls first.

    Between a loop's start and that moment Python would cancel whatever runs, and lose the signal where a library
    swallows that. For the main thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_signal() -> "asyncio.Future[str]":
    """Return what will hold the name of the first SIGINT or SIGTERM, whatever comes later. Needs a running loop."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()

    def arrived(name: str) -> None:
        if not stop.done():
            stop.set_result(name)

    for number in STOPPING:
        loop.add_signal_handler(number, arrived, number.name)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    return stop
