# SPDX-License-Identifier: Apache-2.0
"""Waking up when something may have changed, and looking again at whatever it is.

Nothing here says what changed: waiters look at the state itself and so cannot miss or misread an event. inotify makes
them quick; a waiter's own timeout makes them right where inotify is not to be had.
"""

import asyncio
import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

# linux/inotify.h
_ATTRIB: Final = 0x004
_MOVED_FROM: Final = 0x040
_MOVED_TO: Final = 0x080
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_ONLY_DIRECTORIES: Final = 0x0100_0000
_MASK: Final = _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_DIRECTORIES


class Signal:
    """A counter to wait on. Note ``generation``, look at the state, then wait for another generation."""

    def __init__(self) -> None:
        self.generation = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        self.generation += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int, timeout: float | None = None) -> None:  # noqa: ASYNC109  # running out is normal
        """Return once the generation is not ``seen``, at once if it is not already, or after ``timeout`` seconds."""
        if self.generation != seen:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()


@contextmanager
def watch_directories(directories: Iterable[Path], signal: Signal) -> Iterator[None]:
    """Notify ``signal`` of every name made, removed, renamed or changed in mode inside the directories.

    A directory that is not there yet is watched from the next event elsewhere on. Without inotify nothing is ever
    notified. Needs a running event loop.
    """
    libc = ctypes.CDLL(None)
    paths = [os.fsencode(directory) for directory in directories]
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        yield
        return

    def arm() -> None:
        for path in paths:  # again each time: a directory may be new; the same one is not watched twice
            libc.inotify_add_watch(descriptor, path, _MASK)

    def drain() -> None:
        with suppress(BlockingIOError):
            while os.read(descriptor, 4096):
                pass
        arm()
        signal.notify()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, drain)
    arm()
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
