# SPDX-License-Identifier: Apache-2.0
"""The path of the AESM socket: who serves it, taking it over, keeping it, leaving it (aesm.md section 7)."""

import asyncio
import socket
from enum import Enum
from pathlib import Path
from typing import Final

import structlog

from kubenclave.errors import PlatformError
from kubenclave.platform import sockets
from kubenclave.wire import aesm

BACKLOG: Final = 1024
PROBE_SECONDS: Final = 2.0
_PROBES: Final = 3

_log = structlog.get_logger()


class Occupant(Enum):
    """Who answers at a path."""

    NOBODY = "nobody"
    HELPER = "helper"
    FOREIGN = "foreign"


class TakeOver(Enum):
    """From whom the path may be taken while somebody serves it."""

    HELPER = "helper"
    ANYBODY = "anybody"
    NOBODY = "nobody"

    def permits(self, occupant: Occupant) -> bool:
        """Whether that one may be replaced."""
        return occupant is Occupant.NOBODY or self is TakeOver.ANYBODY or self.value == occupant.value


async def occupant(path: Path) -> Occupant:
    """Find out who serves ``path`` by a request that only a helper of ours answers."""
    who = Occupant.FOREIGN
    for _ in range(_PROBES):  # under a flood a helper of ours may have no place in its line for us
        who = await _probe(path)
        if who is not Occupant.FOREIGN:
            break
    return who


async def _probe(path: Path) -> Occupant:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return Occupant.NOBODY
    except (OSError, TimeoutError):
        return Occupant.FOREIGN
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            writer.write(len(aesm.IDENTIFY).to_bytes(4, "little") + aesm.IDENTIFY)
            answer = await reader.read(len(aesm.IDENTITY))
    except (OSError, TimeoutError):
        answer = b""
    finally:
        writer.close()
    return Occupant.HELPER if answer == aesm.IDENTITY else Occupant.FOREIGN


class Place:
    """One path for our socket, with ``mode`` and, unless None, ``owner`` (user id, group id; -1: ours)."""

    def __init__(self, path: Path, mode: int, owner: tuple[int, int] | None, take_over: TakeOver) -> None:
        self._path: Final = path
        self._mode: Final = mode
        self._owner: Final = owner
        self._take_over: Final = take_over
        self._who: sockets.Identity | None = None

    @property
    def ours(self) -> bool:
        """Whether the path leads to our socket."""
        return self._who is not None and sockets.identity(self._path) == self._who

    async def check(self) -> Occupant:
        """Return who is there. Raises PlatformError ``quotehelper.occupied`` if we may not replace that one."""
        who = await occupant(self._path)
        if self._take_over.permits(who):
            return who
        name = "another quote helper" if who is Occupant.HELPER else "aesmd or some other program"
        raise PlatformError(
            f"{name} serves {self._path}",
            code="quotehelper.occupied",
            hint=f"stop it, use another path, or allow it: --take-over {_next(who).value}",
        )

    async def claim(self) -> socket.socket:
        """Return a listening socket to which the path leads from now on. Raises PlatformError if that cannot be."""
        before = await self.check()
        listener, self._who = sockets.take(self._path, self._mode, BACKLOG, owner=self._owner)
        _log.info("socket.listening", path=str(self._path), taken_over_from=before.value)
        return listener

    async def reclaim(self) -> socket.socket | None:
        """Return a new listening socket if the path has been lost to nobody, None if somebody else serves it."""
        if await occupant(self._path) is not Occupant.NOBODY:
            return None
        _log.warning("socket.restored", path=str(self._path))
        return await self.claim()

    def leave(self) -> None:
        """Remove our socket, unless somebody else's is there."""
        sockets.remove(self._path, self._who)


def _next(who: Occupant) -> TakeOver:
    return TakeOver.HELPER if who is Occupant.HELPER else TakeOver.ANYBODY
