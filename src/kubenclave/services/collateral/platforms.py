# SPDX-License-Identifier: Apache-2.0
"""Which platforms there are, as far as anybody has shown: by PCK certificates that were served, or by evidence.

What is kept tells a TCB and a family, not a machine: the PPID goes through a keyed hash whose key never leaves the
database.
"""

import datetime as dt
import hashlib
import hmac
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from kubenclave.dcap.pckext import PckExtension
from kubenclave.dcap.verify import Verified
from kubenclave.errors import KubenclaveError
from kubenclave.services.batches import Batches
from kubenclave.services.database import Database
from kubenclave.sgx.report import ReportBody

MIGRATIONS: Final = (
    """
CREATE TABLE platform_key (id INTEGER PRIMARY KEY CHECK (id = 1), key BLOB NOT NULL);
CREATE TABLE platforms (
    platform TEXT PRIMARY KEY, fmspc TEXT NOT NULL, pce_id TEXT NOT NULL, ca TEXT NOT NULL, cpu_svn BLOB NOT NULL,
    components BLOB NOT NULL, pce_svn INTEGER NOT NULL, tdx_svns BLOB, origin TEXT NOT NULL,
    first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL
) WITHOUT ROWID;
""",
)

CERTIFICATE: Final = "certificate"
EVIDENCE: Final = "evidence"

_GRAIN: Final = 3600  # seconds: seeing the same again is noted once an hour
_DIGITS: Final = 32
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownPlatform:
    """A platform with its TCB as it was seen last.

    ``platform`` is a keyed hash, 32 hexadecimal digits. ``components`` are 16 SVNs, ``tdx_svns`` 16 more of a platform
    that has shown a TDX quote. ``origin`` is ``certificate`` or ``evidence``.
    """

    platform: str
    fmspc: str
    pce_id: str
    ca: str
    components: tuple[int, ...]
    pce_svn: int
    tdx_svns: tuple[int, ...] | None
    origin: str
    first_seen: dt.datetime
    last_seen: dt.datetime


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A platform as one certificate or quote shows it."""

    extension: PckExtension
    ca: str
    origin: str
    tdx_svns: bytes | None


class KnownPlatforms:
    """The table of platforms; several services may share it."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        self._database: Final = database
        self._now: Final = now
        self._batches: Final = Batches(self._note)
        database.migrate("platforms", MIGRATIONS)
        with database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO platform_key VALUES (1, ?)", (os.urandom(32),))
        self._key: Final[bytes] = database.read("SELECT key FROM platform_key")[0]["key"]

    def name_of(self, identifier: bytes) -> str:
        """Return what a platform is called here: a keyed hash of whatever identifies it, 32 hexadecimal digits."""
        return hmac.new(self._key, identifier, hashlib.sha256).hexdigest()[:_DIGITS]

    def saw(self, extension: PckExtension, ca: str, origin: str = EVIDENCE, *, tdx_svns: bytes | None = None) -> None:
        """Note a platform: what a PCK certificate that holds says of it. Blocks for a moment where that is new."""
        if self._is_news(extension, tdx_svns):
            self._note([_Sighting(extension, ca, origin, tdx_svns)])

    async def saw_evidence(self, verified: Verified) -> None:
        """Note the platform of a quote that is genuine; where that cannot be noted the log tells, and nothing fails."""
        body, extension = verified.quote.body, verified.chain.extension
        tdx_svns = None if isinstance(body, ReportBody) else body.tee_tcb_svn
        try:
            if self._is_news(extension, tdx_svns):
                await self._batches.add(_Sighting(extension, verified.chain.ca_kind.value, EVIDENCE, tdx_svns))
        except KubenclaveError as error:
            _log.warning("platform.not-noted", code=error.code, error=str(error), hint=error.hint or "")

    def all(self, *, seen_since: dt.datetime | None = None) -> list[KnownPlatform]:
        """Return the platforms seen since then, by family and name."""
        since = 0 if seen_since is None else int(seen_since.timestamp())
        rows = self._database.read("SELECT * FROM platforms WHERE last_seen >= ? ORDER BY fmspc, platform", (since,))
        return [_platform(row) for row in rows]

    def _note(self, sightings: Sequence[_Sighting]) -> Sequence[None]:
        """Write down all of them in one transaction."""
        now = int(self._now().timestamp())
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO platforms VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (platform) DO UPDATE SET"
                " fmspc = excluded.fmspc, ca = excluded.ca, cpu_svn = excluded.cpu_svn,"
                " components = excluded.components, pce_svn = excluded.pce_svn, origin = excluded.origin,"
                " tdx_svns = coalesce(excluded.tdx_svns, tdx_svns), last_seen = excluded.last_seen",
                [self._row(each, now) for each in sightings],
            )
        return [None] * len(sightings)

    def _row(self, seen: _Sighting, now: int) -> tuple[object, ...]:
        extension = seen.extension
        return (
            self.name_of(b"PPID\0" + extension.ppid),
            extension.fmspc.hex(),
            extension.pce_id.hex(),
            seen.ca,
            extension.cpu_svn,
            bytes(extension.components),
            extension.pce_svn,
            seen.tdx_svns,
            seen.origin,
            now,
            now,
        )

    def _is_news(self, extension: PckExtension, tdx_svns: bytes | None) -> bool:
        """Tell whether there is something to note: another TCB, or the same as an hour ago or before."""
        name = self.name_of(b"PPID\0" + extension.ppid)
        rows = self._database.read("SELECT * FROM platforms WHERE platform = ?", (name,))
        if not rows or not _same_tcb(rows[0], extension, tdx_svns):
            return True
        return bool(rows[0]["last_seen"] + _GRAIN <= self._now().timestamp())


def _same_tcb(row: sqlite3.Row, extension: PckExtension, tdx_svns: bytes | None) -> bool:
    return (
        row["cpu_svn"] == extension.cpu_svn
        and row["pce_svn"] == extension.pce_svn
        and tdx_svns in (None, row["tdx_svns"])
    )


def _platform(row: sqlite3.Row) -> KnownPlatform:
    return KnownPlatform(
        row["platform"],
        row["fmspc"],
        row["pce_id"],
        row["ca"],
        tuple(row["components"]),
        row["pce_svn"],
        None if row["tdx_svns"] is None else tuple(row["tdx_svns"]),
        row["origin"],
        dt.datetime.fromtimestamp(row["first_seen"], dt.UTC),
        dt.datetime.fromtimestamp(row["last_seen"], dt.UTC),
    )
