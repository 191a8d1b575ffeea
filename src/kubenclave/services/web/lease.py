# SPDX-License-Identifier: Apache-2.0
"""Work that exactly one of several processes does: whoever holds a row of the database, for as long as it renews it."""

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from kubenclave.errors import PlatformError
from kubenclave.services.database import Database

MIGRATIONS: Final = ("CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until TEXT NOT NULL);",)

_log = structlog.get_logger()


class Lease:
    """The right to do the work called ``name``, for ``seconds`` at a time; ``now`` returns the time in UTC.

    A process that is killed keeps others from the work for so long at most.
    """

    def __init__(self, database: Database, name: str, now: Callable[[], dt.datetime], *, seconds: float = 15.0) -> None:
        database.migrate("leases", MIGRATIONS)
        self._database: Final = database
        self._name: Final = name
        self._now: Final = now
        self._seconds: Final = seconds
        self._holder: Final = secrets.token_hex(8)

    def take(self) -> bool:
        """Take or renew the lease; tell whether it is ours now. Raises PlatformError."""
        now = self._now()
        until = now + dt.timedelta(seconds=self._seconds)
        with self._database.transaction() as connection:
            changed = connection.execute(
                "INSERT INTO leases VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET holder = ?2, until = ?3"
                " WHERE holder = ?2 OR until <= ?4 OR until > ?5",
                (
                    self._name,
                    self._holder,
                    until.isoformat(timespec="microseconds"),
                    now.isoformat(timespec="microseconds"),
                    # Nobody takes it for longer: the clock was set back, and waiting would take as long as that.
                    (until + dt.timedelta(seconds=self._seconds)).isoformat(timespec="microseconds"),
                ),
            )
            return changed.rowcount == 1

    def give(self) -> None:
        """Let the next one have it at once. Raises PlatformError."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE name = ? AND holder = ?", (self._name, self._holder))

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work whenever the lease is ours, for ever; raises what the work raises."""
        running: asyncio.Future[None] | None = None
        try:
            while True:
                ours = await self._try()
                if ours and running is None:
                    _log.info("lease.taken", lease=self._name)
                    running = asyncio.ensure_future(work())
                elif not ours and running is not None:
                    _log.warning("lease.lost", lease=self._name)
                    await _end(running)
                    running = None
                if running is None:
                    await asyncio.sleep(self._seconds / 3)
                    continue
                await asyncio.wait((running,), timeout=self._seconds / 3)
                if running.done():
                    running.result()
                    running = None
        finally:
            if running is not None:
                await _end(running)
            with contextlib.suppress(PlatformError):  # it ends by itself
                await asyncio.to_thread(self.give)  # waits for who is writing, as requests that are under way do

    async def _try(self) -> bool:
        """Take the lease; a database that cannot be written just now is one more reason not to have it."""
        try:
            return await asyncio.to_thread(self.take)
        except PlatformError as error:
            _log.warning("lease.not-taken", lease=self._name, error=str(error), code=error.code, hint=error.hint)
            return False


async def _end(running: "asyncio.Future[None]") -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
