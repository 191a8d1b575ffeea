# SPDX-License-Identifier: Apache-2.0
"""Unix sockets by path: made without a moment in which they are absent or too open, and recognised again."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from kubenclave.errors import PlatformError

Identity = tuple[int, int, int]
"""Device, inode and time of making: tells a socket from one made anew at the same place. Modes do not matter."""


def listen(path: Path, mode: int, backlog: int = 128, *, owner: tuple[int, int] | None = None) -> socket.socket:
    """Return a listening socket at ``path``, whatever was there before, with ``owner`` (user id, group id; -1: ours).

    It is bound beside ``path`` and renamed over it, so a client meets either the old or the new one, and never one
    with other permissions. Raises PlatformError when the place cannot be used.
    """
    beside = path.with_name(f".{path.name}.{os.urandom(2).hex()[:3]}")  # of its own: two may start at the same time
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        beside.unlink(missing_ok=True)
        listener.bind(os.fspath(beside))
        if owner is not None:
            os.chown(beside, *owner)
        beside.chmod(mode)
        listener.listen(backlog)
        beside.rename(path)
    except OSError as error:
        listener.close()
        with suppress(OSError):
            beside.unlink()
        raise PlatformError(
            f"cannot listen at {path}: {error.strerror or error}",
            code="socket.listen",
            hint="the folder has to exist and be writable; a path may have 100 characters at most",
        ) from error
    return listener


def identity(path: Path) -> Identity | None:
    """Return who is at ``path``, None if it is no socket."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def remove(path: Path, who: Identity | None) -> None:
    """Remove the socket at ``path`` if it still is the one named, so that a successor keeps its own."""
    if who is not None and identity(path) == who:
        path.unlink(missing_ok=True)
