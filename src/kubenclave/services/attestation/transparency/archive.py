# SPDX-License-Identifier: Apache-2.0
"""Collateral that verdicts rested on, by digest: whoever has a token can have it, and judge the quote once more.

It is kept for good, as the log is: what clients send adds nothing to it, only what signers publish does (some 10 kB for
each family of platforms and day).
"""

import asyncio
import datetime as dt
import zlib
from collections.abc import Callable
from typing import Final

from kubenclave.dcap.cache import Cache
from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import UsageError
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    "CREATE TABLE archived_collateral (digest BLOB PRIMARY KEY, body BLOB NOT NULL, first TEXT NOT NULL);",
)
_KNOWN: Final = 1024  # digests that this worker need not ask the database about


class CollateralArchive:
    """The collateral of all verdicts of a service, shared by its workers."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        database.migrate("archive", MIGRATIONS)
        self._database: Final = database
        self._now: Final = now
        self._known: Final = Cache(_KNOWN)

    async def keep(self, collateral: Collateral) -> None:
        """Keep it, on disk when this returns; nothing happens where it was kept before."""
        if self._known.get(collateral.digest) is None:
            await asyncio.to_thread(self._store, collateral)
            self._known.get_or_check(collateral.digest, lambda: True)

    def get(self, digest: bytes) -> str:
        """Return it as the flat JSON object of ``Collateral.to_json``. Raises UsageError ``archive.unknown``."""
        rows = self._database.read("SELECT body FROM archived_collateral WHERE digest = ?", (digest,))
        if not rows:
            raise UsageError(
                "no verdict of this service rested on that collateral",
                code="archive.unknown",
                field="digest",
                found=digest.hex(),
                hint="the digest is kubenclave.collateral.digest of a token, or collateral of an entry of the log",
            )
        return zlib.decompress(rows[0]["body"]).decode()

    def _store(self, collateral: Collateral) -> None:
        row = (collateral.digest, zlib.compress(collateral.to_json().encode()), self._now().isoformat())
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO archived_collateral VALUES (?, ?, ?)", row)
