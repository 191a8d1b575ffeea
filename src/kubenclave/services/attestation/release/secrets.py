# SPDX-License-Identifier: Apache-2.0
"""Secrets that enclaves are given: stored encrypted, each bound to the policy that an enclave has to meet.

They are sealed with AES-256-GCM under a key from a file of the operator's, best on another volume than the database.
The name, version, policy and mark of a secret are authenticated with it, so that no row passes for another.
"""

import datetime as dt
import json
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kubenclave.dcap.describe import zulu
from kubenclave.errors import PlatformError, UsageError
from kubenclave.services import private_files
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE secrets (
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        tee_type TEXT NOT NULL,
        policy BLOB NOT NULL,       -- digest of the policy
        simulated INTEGER NOT NULL,
        created TEXT NOT NULL,
        by TEXT NOT NULL,
        sealed BLOB NOT NULL        -- 12 bytes of nonce, then AES-256-GCM
    );
    CREATE TABLE secret_versions (name TEXT PRIMARY KEY, version INTEGER NOT NULL);
    """,
)

MAX_SECRET: Final = 64 << 10
_KEY: Final = 32
_NONCE: Final = 12
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """What may be said of a secret. ``policy``: digest of the one policy it is for, kept under ``tee_type``.

    ``version`` counts up with every value of that name, also after it was deleted.
    """

    name: str
    version: int
    tee_type: str
    policy: bytes
    simulated: bool
    created: dt.datetime
    by: str

    def as_dict(self) -> dict[str, Any]:
        """Shape in answers."""
        return {
            "name": self.name,
            "version": self.version,
            "tee_type": self.tee_type,
            "policy": self.policy.hex(),
            "simulated": self.simulated,
            "created": zulu(self.created),
            "by": self.by,
        }

    @property
    def context(self) -> bytes:
        """What is authenticated with the value."""
        return json.dumps(
            [self.name, self.version, self.tee_type, self.policy.hex(), self.simulated], separators=(",", ":")
        ).encode()


class SecretStore:
    """Secrets in the database of a service that is for a simulated root, or for Intel's.

    ``key`` (32 bytes) seals them; without one nothing can be stored or opened, only listed and deleted.
    """

    def __init__(
        self, database: Database, now: Callable[[], dt.datetime], *, key: bytes | None, simulated: bool
    ) -> None:
        database.migrate("secrets", MIGRATIONS)
        self._database: Final = database
        self._now: Final = now
        self._key: Final = None if key is None else AESGCM(key)
        self._simulated: Final = simulated

    def put(
        self, name: str, value: bytes, *, tee_type: str, policy: bytes, by: str, simulated: bool = False
    ) -> SecretInfo:
        """Store a secret for the enclaves that one policy (its digest) accepts; one of the same name is replaced.

        ``simulated`` marks it as fit for a simulated service, and has to agree with the service.
        Raises UsageError (codes ``secret.*``), PlatformError ``secret.no-key``.
        """
        cipher = self._cipher()
        self._check(name, value, simulated=simulated)
        with self._database.transaction() as connection:
            row = connection.execute("SELECT version FROM secret_versions WHERE name = ?", (name,)).fetchone()
            version = 1 if row is None else int(row["version"]) + 1
            info = SecretInfo(name, version, tee_type, policy, simulated, self._now(), by)
            nonce = os.urandom(_NONCE)
            sealed = nonce + cipher.encrypt(nonce, value, info.context)
            connection.execute("INSERT OR REPLACE INTO secret_versions VALUES (?, ?)", (name, version))
            connection.execute(
                "INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (name, version, tee_type, policy, simulated, info.created.isoformat(), by, sealed),
            )
        return info

    def delete(self, name: str) -> None:
        """Delete a secret; enclaves that have it keep it. Raises UsageError ``secret.unknown``."""
        with self._database.transaction() as connection:
            if connection.execute("DELETE FROM secrets WHERE name = ?", (name,)).rowcount == 0:
                raise _unknown(name)

    def list(self) -> list[SecretInfo]:
        """Return all secrets by name, without their values."""
        return [_info(row) for row in self._database.read("SELECT * FROM secrets ORDER BY name")]

    def info(self, name: str) -> SecretInfo:
        """Return what may be said of a secret. Raises UsageError ``secret.unknown``."""
        return _info(self._row(name))

    def open(self, info: SecretInfo) -> bytes:
        """Return the value of this version of a secret.

        Raises UsageError ``secret.unknown`` when it was changed meanwhile, PlatformError ``secret.no-key`` or
        ``secret.sealed`` when the key is another one than it was sealed with.
        """
        cipher, row = self._cipher(), self._row(info.name)
        if _info(row) != info:
            raise _unknown(info.name)
        sealed = bytes(row["sealed"])
        try:
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], info.context)
        except InvalidTag:
            raise PlatformError(
                "a secret cannot be opened with this key",
                code="secret.sealed",
                field=info.name,
                hint="start the service with the key file that was in use when the secret was stored",
            ) from None

    def _row(self, name: str) -> sqlite3.Row:
        rows = self._database.read("SELECT * FROM secrets WHERE name = ?", (name,))
        if not rows:
            raise _unknown(name)
        return rows[0]

    def _cipher(self) -> AESGCM:
        if self._key is None:
            raise PlatformError(
                "this service has no key for secrets",
                code="secret.no-key",
                hint="`kubenclave attest secret keygen FILE` makes one; give FILE to the service as its secrets key",
            )
        return self._key

    def _check(self, name: str, value: bytes, *, simulated: bool) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(
                "not the name of a secret",
                code="secret.name",
                expected="1 to 127 letters, digits and . _ -, the first no punctuation",
                found=name[:130],
            )
        if not 1 <= len(value) <= MAX_SECRET:
            raise UsageError(
                "a secret of this size cannot be stored",
                code="secret.size",
                field=name,
                expected=f"1 to {MAX_SECRET} bytes",
                found=f"{len(value)} bytes",
            )
        if simulated is not self._simulated:
            raise UsageError(
                "this service is for a SIMULATED root: whoever runs it can make any enclave up"
                if self._simulated
                else "a secret for simulated enclaves has no place in a service for Intel's root",
                code="secret.simulated",
                field=name,
                hint="mark secrets that are fit for that as simulated" if self._simulated else "leave the mark out",
            )


def load_key(path: Path) -> bytes:
    """Read the key for secrets. Raises PlatformError ``secret.key-file``: not there, too open, or no key."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_KEY * 2 + 2)
        key = bytes.fromhex(text.decode("ascii").strip())
    except OSError as error:
        raise _bad_key_file(path, error.strerror or str(error)) from None
    except ValueError:
        raise _bad_key_file(path, "something else") from None
    if not private_files.is_private(status):
        found = f"{stat.filemode(status.st_mode)}, owner {status.st_uid}"
        raise _bad_key_file(path, found, private_files.EXPECTED)
    if len(key) != _KEY:
        raise _bad_key_file(path, f"{len(key)} bytes")
    return key


def make_key(path: Path) -> None:
    """Write a new key for secrets, mode 0600. Raises UsageError ``secret.key-exists``, PlatformError."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise UsageError(
            "there is such a file: overwriting a key loses the secrets under it",
            code="secret.key-exists",
            field=str(path),
        ) from None
    except OSError as error:
        raise _bad_key_file(path, error.strerror or str(error)) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(os.urandom(_KEY).hex() + "\n")


def _info(row: sqlite3.Row) -> SecretInfo:
    created = dt.datetime.fromisoformat(row["created"])
    simulated = bool(row["simulated"])
    return SecretInfo(row["name"], row["version"], row["tee_type"], bytes(row["policy"]), simulated, created, row["by"])


def _unknown(name: str) -> UsageError:
    return UsageError("there is no such secret", code="secret.unknown", found=name[:130])


def _bad_key_file(path: Path, found: str, expected: str = "64 hex digits") -> PlatformError:
    return PlatformError(
        "the key for secrets cannot be used",
        code="secret.key-file",
        field=str(path),
        expected=expected,
        found=found,
        hint="restore the file or its mode; a new one from `kubenclave attest secret keygen` opens no older secret",
    )
