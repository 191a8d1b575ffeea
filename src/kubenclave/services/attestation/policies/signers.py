# SPDX-License-Identifier: Apache-2.0
"""Who may sign policies: public keys by their RFC 7638 thumbprint, with who registered and who removed them."""

import datetime as dt
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.errors import FormatError, UsageError
from kubenclave.services.attestation.keys.jwk import PRIVATE, REQUIRED, thumbprint
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE policy_signers (
        number INTEGER PRIMARY KEY,
        thumbprint TEXT NOT NULL,
        jwk TEXT NOT NULL,
        added TEXT NOT NULL,
        added_by TEXT NOT NULL,
        removed TEXT,
        removed_by TEXT
    );
    CREATE UNIQUE INDEX policy_signers_once ON policy_signers (thumbprint) WHERE removed IS NULL;
    """,
)


@dataclass(frozen=True, slots=True)
class PolicySigner:
    """A registered signer; ``jwk`` as it was given, ``thumbprint`` in base64url."""

    thumbprint: str
    jwk: Mapping[str, Any]
    added: dt.datetime
    by: str


def thumbprint_of(jwk: Mapping[str, Any]) -> str:
    """Return the RFC 7638 thumbprint of a public RSA or EC key, base64url.

    Raises FormatError (``policy-signer.malformed``) for anything else, a private key above all.
    """
    names = REQUIRED.get(str(jwk.get("kty")))
    if names is None or not all(isinstance(jwk.get(name), str) for name in names) or not PRIVATE.isdisjoint(jwk):
        raise FormatError(
            "not the public key of a policy signer",
            code="policy-signer.malformed",
            expected="a JWK of kty RSA or EC with its public members only",
            found=", ".join(sorted(map(str, jwk)))[:100] or "no members",
        )
    return thumbprint(jwk)


class Signers:
    """The signers in the database. Removed ones stay on record; the last one cannot be removed."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._now = now
        database.migrate("policy-signers", MIGRATIONS)

    def all(self) -> list[PolicySigner]:
        """Return the registered signers, the oldest first."""
        rows = self._database.read("SELECT * FROM policy_signers WHERE removed IS NULL ORDER BY number")
        return [_signer(row) for row in rows]

    def find(self, jwk: Mapping[str, Any]) -> PolicySigner | None:
        """Return the signer with this key, if it is registered."""
        sql = "SELECT * FROM policy_signers WHERE thumbprint = ? AND removed IS NULL"
        return next(iter(map(_signer, self._database.read(sql, (thumbprint_of(jwk),)))), None)

    def is_registered(self, jwk: Mapping[str, Any], connection: sqlite3.Connection) -> bool:
        """Whether this key is registered, within a transaction of the caller's."""
        sql = "SELECT 1 FROM policy_signers WHERE thumbprint = ? AND removed IS NULL"
        return connection.execute(sql, (thumbprint_of(jwk),)).fetchone() is not None

    def add(self, jwk: Mapping[str, Any], *, by: str) -> PolicySigner:
        """Register a key; one that is registered already stays as it is."""
        thumbprint, text = thumbprint_of(jwk), json.dumps(dict(jwk), sort_keys=True)
        with self._database.transaction() as connection:
            if not self.is_registered(jwk, connection):
                connection.execute(
                    "INSERT INTO policy_signers (thumbprint, jwk, added, added_by) VALUES (?, ?, ?, ?)",
                    (thumbprint, text, self._now().isoformat(), by),
                )
            row = connection.execute(
                "SELECT * FROM policy_signers WHERE thumbprint = ? AND removed IS NULL", (thumbprint,)
            ).fetchone()
        return _signer(row)

    def remove(self, jwk: Mapping[str, Any], *, by: str) -> bool:
        """Remove a key; False when it was not registered. Raises UsageError ``policy-signer.last`` for the last one."""
        with self._database.transaction() as connection:
            if not self.is_registered(jwk, connection):
                return False
            (count,) = connection.execute("SELECT count(*) FROM policy_signers WHERE removed IS NULL").fetchone()
            if count == 1:
                raise UsageError(
                    "the last policy signer cannot be removed",
                    code="policy-signer.last",
                    hint="register another one first",
                )
            connection.execute(
                "UPDATE policy_signers SET removed = ?, removed_by = ? WHERE thumbprint = ? AND removed IS NULL",
                (self._now().isoformat(), by, thumbprint_of(jwk)),
            )
        return True


def _signer(row: sqlite3.Row) -> PolicySigner:
    return PolicySigner(
        thumbprint=row["thumbprint"],
        jwk=json.loads(row["jwk"]),
        added=dt.datetime.fromisoformat(row["added"]),
        by=row["added_by"],
    )
