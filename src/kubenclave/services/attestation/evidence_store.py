# SPDX-License-Identifier: Apache-2.0
"""Evidence kept for dry runs of policies: off unless the operator says how many pieces to keep.

Kept are genuine quotes, whatever the policy said of them, with the collateral and time of their judgement; of runtime
data the digest alone. A quote names its platform (by the PCK certificate), so what is kept is bounded in
number, age and size.
"""

import datetime as dt
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kubenclave.dcap.collateral import Collateral
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE kept_collateral (digest BLOB PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE kept_evidence (
        number INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        tee_type TEXT NOT NULL,
        quote BLOB NOT NULL,
        pck_chain BLOB,
        collateral BLOB NOT NULL REFERENCES kept_collateral (digest),
        runtime_digest BLOB,
        at TEXT NOT NULL,
        size INTEGER NOT NULL
    );
    CREATE INDEX kept_evidence_by_time ON kept_evidence (at);
    """,
)
_SAME_EVIDENCE: Final = {"OpenEnclave": "SgxEnclave"}


@dataclass(frozen=True, slots=True)
class EvidenceLimits:
    """Bounds of what is kept: ``count`` of pieces (0: nothing is), ``age``, and ``size`` in bytes.

    Collateral is counted with each piece that rests on it though it is kept once, so less is kept than ``size`` says.
    """

    count: int = 0
    age: dt.timedelta = dt.timedelta(days=30)
    size: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvidence:
    """One piece; ``digest``: SHA-256 of the quote, 32 bytes; ``pck_chain``: PEM; ``at``: when it was judged, UTC."""

    tee_type: str
    quote: bytes = field(repr=False)
    pck_chain: bytes | None = field(default=None, repr=False)
    collateral: Collateral = field(repr=False)
    runtime_digest: bytes | None = None
    at: dt.datetime

    @property
    def digest(self) -> bytes:
        """SHA-256 of the quote, 32 bytes: what logs and tokens call the evidence."""
        return hashlib.sha256(self.quote).digest()


class EvidenceStore:
    """The kept pieces, shared by all workers of a service; a quote is kept once, with its latest judgement."""

    def __init__(
        self, database: Database, now: Callable[[], dt.datetime], limits: EvidenceLimits = EvidenceLimits()
    ) -> None:
        self.limits: Final = limits
        self._database = database
        self._now = now
        database.migrate("kept-evidence", MIGRATIONS)

    def keep(self, evidence: StoredEvidence) -> bool:
        """Keep a piece and drop what is beyond the limits, the oldest first. False where nothing is kept at all."""
        if not self.limits.count:
            return False
        body = evidence.collateral.to_json().encode()
        collateral = evidence.collateral.digest
        size = len(evidence.quote) + len(evidence.pck_chain or b"") + len(body)
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO kept_collateral VALUES (?, ?)", (collateral, body))
            connection.execute(
                "INSERT OR REPLACE INTO kept_evidence"
                " (digest, tee_type, quote, pck_chain, collateral, runtime_digest, at, size)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    evidence.digest,
                    _SAME_EVIDENCE.get(evidence.tee_type, evidence.tee_type),
                    evidence.quote,
                    evidence.pck_chain,
                    collateral,
                    evidence.runtime_digest,
                    _text(evidence.at),
                    size,
                ),
            )
            self._prune(connection)
        return True

    def prune(self) -> None:
        """Drop what has become too old, or is beyond limits that were lowered."""
        with self._database.transaction() as connection:
            self._prune(connection)

    def latest(self, tee_type: str | None = None, count: int = 1000) -> list[StoredEvidence]:
        """Return pieces, the latest first, of one TEE type or of all; Open Enclave's are quotes of SGX enclaves."""
        rows = self._database.read(
            "SELECT * FROM kept_evidence JOIN kept_collateral ON kept_collateral.digest = collateral"
            " WHERE coalesce(?, tee_type) = tee_type ORDER BY at DESC, number DESC LIMIT ?",
            (_SAME_EVIDENCE.get(tee_type or "", tee_type), count),
        )
        documents: dict[bytes, Collateral] = {}
        for row in rows:
            if row["collateral"] not in documents:
                documents[row["collateral"]] = Collateral.from_json(row["body"])
        return [_stored(row, documents[row["collateral"]]) for row in rows]

    def _prune(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM kept_evidence WHERE at < ?", (_text(self._now() - self.limits.age),))
        connection.execute(
            "DELETE FROM kept_evidence WHERE number IN (SELECT number FROM (SELECT number,"
            " row_number() OVER latest AS place, sum(size) OVER latest AS total FROM kept_evidence"
            " WINDOW latest AS (ORDER BY at DESC, number DESC)) WHERE place > ? OR total > ?)",
            (self.limits.count, self.limits.size),
        )
        connection.execute("DELETE FROM kept_collateral WHERE digest NOT IN (SELECT collateral FROM kept_evidence)")


def _text(moment: dt.datetime) -> str:
    """Return a time whose order as text is that in time: always UTC, always with microseconds."""
    return moment.astimezone(dt.UTC).isoformat(timespec="microseconds")


def _stored(row: sqlite3.Row, collateral: Collateral) -> StoredEvidence:
    return StoredEvidence(
        tee_type=row["tee_type"],
        quote=row["quote"],
        pck_chain=row["pck_chain"],
        collateral=collateral,
        runtime_digest=row["runtime_digest"],
        at=dt.datetime.fromisoformat(row["at"]),
    )
