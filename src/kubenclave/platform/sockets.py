# SPDX-License-Identifier: Apache-2.0
"""Unix sockets by path: where they are, made without a moment in which they are absent or too open, and recognised."""

import functools
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kubenclave.errors import PlatformError

if TYPE_CHECKING:
    import asyncio

# Where programs look for the sockets of a node: the same on the node, in containers and in sandboxes. Containers are
# given the folder, for a socket that is mounted itself is dead for ever once its server has restarted.
AESM_FOLDER: Final = "/var/run/aesmd"
AESM_NAME: Final = "aesm.socket"
AESM_SOCKET: Final = f"{AESM_FOLDER}/{AESM_NAME}"
"""Compiled into every client of the AESM protocol."""

SIMULATED_FOLDER: Final = "/run/kubenclave"
"""Everything of a SIMULATED platform."""

CPU_FOLDER: Final = f"{SIMULATED_FOLDER}/cpu"
CPU_SOCKET: Final = f"{CPU_FOLDER}/cpu.sock"
CPU_SOCKET_VARIABLE: Final = "KUBENCLAVE_SIM_CPU"
"""Environment variable that names another CPU socket."""

PROVISION_FOLDER: Final = f"{SIMULATED_FOLDER}/provision"
PROVISION_SOCKET: Final = f"{PROVISION_FOLDER}/cpu.sock"
PROVISION_SOCKET_VARIABLE: Final = "KUBENCLAVE_SIM_PROVISION"
"""Environment variable that names another socket for enclaves with the provisioning key."""

_SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, Linux 6.5
_BEYOND_PROCESS_IDS: Final = 1 << 32
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred

Identity = tuple[int, int, int]
"""Device, inode and time of making: tells a socket from one made anew at the same place. Modes do not matter."""

_STEPS_OF_ACCEPTING: Final = 5


def listen(path: Path, mode: int, backlog: int = 128, *, owner: tuple[int, int] | None = None) -> socket.socket:
    """Return the socket of ``take``, for those who do not ask later whether it is still theirs."""
    return take(path, mode, backlog, owner=owner)[0]


def take(
    path: Path, mode: int, backlog: int = 128, *, owner: tuple[int, int] | None = None
) -> tuple[socket.socket, Identity]:
    """Listen at ``path``, whatever was there before, with ``owner`` (user id, group id; -1: ours).

    It is bound beside ``path`` and renamed over it, so a client meets either the old or the new one, and never one
    with other permissions. Returns the socket and who it is; asking the path for that would be too late, for somebody
    else may take it meanwhile. Raises PlatformError when the place cannot be used.
    """
    beside = path.with_name(f".{path.name}.{os.urandom(2).hex()[:3]}")  # of its own: two may start at the same time
    listener = None
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        beside.unlink(missing_ok=True)
        listener.bind(os.fspath(beside))
        if owner is not None:
            os.chown(beside, *owner)
        beside.chmod(mode)
        listener.listen(backlog)
        who = _identity(beside.lstat())
        beside.rename(path)
    except OSError as error:
        if listener is not None:
            listener.close()
            with suppress(OSError):
                beside.unlink()
        raise PlatformError(
            f"cannot listen at {path}: {error.strerror or error}",
            code="socket.listen",
            hint="the folder has to exist and be writable; a path may have 100 characters at most",
        ) from error
    return listener, who


def identity(path: Path) -> Identity | None:
    """Return who is at ``path``, None if it is no socket."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        return None
    return _identity(status)


def answers(path: Path) -> bool:
    """Tell whether somebody listens at ``path``, without waiting: one who is only busy counts too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(os.fspath(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def remove(path: Path, who: Identity | None) -> None:
    """Remove the socket at ``path`` if it still is the one named, so that a successor keeps its own.

    One that cannot be removed any more, as on a disk that has become read-only, stays: whoever comes next replaces it.
    """
    if who is not None and identity(path) == who:
        with suppress(OSError):
            path.unlink()


async def close(server: "asyncio.Server") -> None:
    """Close a server of asyncio's without losing whom it is just accepting.

    asyncio makes a connection in steps, one in a turn of the loop, and forgets one whose server is closed between them:
    nobody serves or closes it. So it stops accepting first, and closes when what has begun is done.
    """
    import asyncio  # noqa: PLC0415  # programs without a loop read this module too, and start sooner without it

    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(_STEPS_OF_ACCEPTING):
        await asyncio.sleep(0)
    server.close()


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return process id and user id at the other end, as of when it connected (``man 7 unix``, SO_PEERCRED).

    The process id is 0 when the process is outside of our PID namespace. Raises OSError.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(data)
    return pid, uid


def process(connection: socket.socket) -> int:
    """Return a number for the process at the other end, 0 where it cannot be told from others. Raises OSError.

    It is the process id; for a process outside of our PID namespace, as in another container, it is a number that no
    process id is, by its pidfd. That needs Linux 6.9, before which all pidfds look the same.
    """
    pid, _uid = peer(connection)
    return pid or _outside(connection)


def _outside(connection: socket.socket) -> int:
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return 0
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return 0 if status.st_dev == _anonymous_device() else _BEYOND_PROCESS_IDS + status.st_ino


@functools.cache
def _anonymous_device() -> int:
    """Return the device of descriptors that have no inode of their own."""
    descriptor = os.eventfd(0)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)
