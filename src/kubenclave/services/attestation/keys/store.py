# SPDX-License-Identifier: Apache-2.0
"""Signing keys of the service, shared by its workers through the database.

A key is *next* (published, not yet used), then *active*, then *retired* (published as long as tokens it signed are
good). The states follow from each key's ``active_from`` and the clock, so that all workers change over at the same
moment and none has to do anything for it. A key is made where there never was one; one that should be there and is not
is an error, never replaced in silence.
"""

import datetime as dt
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import structlog
from joserfc.jwk import ECKey, RSAKey

from kubenclave.errors import PlatformError, UsageError
from kubenclave.services.attestation.keys import keyfiles
from kubenclave.services.attestation.keys.certificates import PrivateKey, issuer_certificate
from kubenclave.services.attestation.keys.signing import Algorithm, KeySettings, SigningKey, State
from kubenclave.services.database import Database

__all__ = ["Algorithm", "KeyRing", "KeySettings", "SigningKey", "State"]

MIGRATIONS: Final = (
    """
    CREATE TABLE signing_keys (
        number INTEGER PRIMARY KEY,
        kid TEXT NOT NULL UNIQUE,
        algorithm TEXT NOT NULL CHECK (algorithm IN ('RS256', 'ES256')),
        private BLOB, -- PKCS #8 in PEM; NULL where it lies in a file
        file TEXT, -- the file then
        public TEXT NOT NULL, -- JWK with the certificate, as it was when the key came here
        created REAL NOT NULL, -- Unix time, as the two below
        active_from REAL NOT NULL,
        revoked REAL
    );
    CREATE TABLE signing_key_changes (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL);
    INSERT INTO signing_key_changes VALUES (1, 0);
    CREATE TABLE signing_key_settings (one INTEGER PRIMARY KEY CHECK (one = 1), settings TEXT NOT NULL);
    """,
)
_ROOM: Final = "signing-keys"
SIMULATED_PREFIX: Final = "simulated-"
_log = structlog.get_logger()


class KeyRing:
    """All keys of a service. Reading is quick enough for an event loop; what changes keys belongs into a thread.

    Raises PlatformError (codes ``signing-key.*``, ``database.*``) where a key that should be there cannot be used, and
    UsageError ``signing-key.other-root`` where the database belongs to a service for another kind of root.
    """

    def __init__(
        self, database: Database, now: Callable[[], dt.datetime], settings: KeySettings, *, begin: bool = True
    ) -> None:
        self.settings: Final = settings
        self._database: Final = database
        self._now: Final = now
        self._lock: Final = threading.Lock()
        self._seen = -1
        self._keys: tuple[SigningKey, ...] = ()
        database.migrate(_ROOM, MIGRATIONS)
        if begin:
            self._begin()

    @classmethod
    def existing(cls, database: Database, now: Callable[[], dt.datetime]) -> Self:
        """Return the key ring of a service that has run, with the settings it ran with; no key is made or read anew.

        Raises PlatformError ``signing-key.missing`` where none has.
        """
        database.migrate(_ROOM, MIGRATIONS)
        rows = database.read("SELECT settings FROM signing_key_settings")
        if not rows:
            raise keyfiles.missing(database.path, "no service has run with this database")
        return cls(database, now, KeySettings.from_json(rows[0]["settings"]), begin=False)

    def active(self, algorithm: Algorithm) -> SigningKey:
        """Return the key that signs now; what another worker changed counts at once."""
        key = _active(self._of(algorithm), self._now())
        if key.private is None:
            raise keyfiles.missing(key.file or key.kid, "no private key")
        return key

    def states(self) -> list[tuple[State, SigningKey]]:
        """Return all keys that ever were, oldest first, and what each is for now."""
        return [(self._state(key, self._of(key.algorithm)), key) for key in self._current()]

    def published(self, algorithm: Algorithm) -> list[SigningKey]:
        """Return the keys whose signatures count: the active one first, then the next, then retired ones."""
        siblings = self._of(algorithm)
        states = [(self._state(key, siblings), key) for key in siblings]
        order = (State.ACTIVE, State.NEXT, State.RETIRED)
        return [key for wanted in order for state, key in states if state is wanted]

    def jwks(self, algorithm: Algorithm) -> dict[str, Any]:
        """Return the key set of one algorithm (RFC 7517)."""
        return {"keys": [dict(key.jwk) for key in self.published(algorithm)]}

    def rotate(self, algorithm: Algorithm) -> SigningKey:
        """Make the key that signs after ``publish_ahead``; where one is waiting already, that one is returned."""
        with self._database.transaction() as connection:
            kid = next((key.kid for key in self._of(algorithm) if self._is_next(key)), None)
            if kid is None:
                kid = self._insert(connection, keyfiles.generate(algorithm, self.settings.rsa_bits), at_once=False)
        return self._by_kid(kid)

    def import_pem(self, pem: bytes) -> SigningKey:
        """Take a private key in PEM into the database; it signs after ``publish_ahead``.

        Raises FormatError ``signing-key.malformed`` or ``signing-key.kind``, UsageError ``signing-key.known``.
        """
        private = keyfiles.parse(pem)
        with self._database.transaction() as connection:
            kid = self._insert(connection, private, at_once=False)
        return self._by_kid(kid)

    def revoke(self, kid: str) -> SigningKey:
        """Withdraw a key this instant and return the one that signs in its place.

        Its tokens stop counting as soon as clients fetch the key set again. The next key, or else a new one, takes over
        at once, before clients that keep key sets know it. Raises UsageError ``signing-key.unknown``.
        """
        with self._database.transaction() as connection:
            key = self._by_kid(kid)
            siblings, now = self._of(key.algorithm), self._now()
            was_active = key is _active(siblings, now)
            connection.execute(
                "UPDATE signing_keys SET revoked = ?, private = NULL WHERE kid = ? AND revoked IS NULL",
                (now.timestamp(), kid),
            )
            waiting = next((each for each in siblings if self._is_next(each) and each is not key), None)
            if was_active and waiting is not None:
                moment = now.timestamp()
                connection.execute("UPDATE signing_keys SET active_from = ? WHERE kid = ?", (moment, waiting.kid))
            elif was_active:
                self._insert(connection, keyfiles.generate(key.algorithm, self.settings.rsa_bits), at_once=True)
            _count_change(connection)
        return self.active(key.algorithm)

    def _begin(self) -> None:
        """See that there is a key for each algorithm, and leave the settings for tools."""
        for algorithm in Algorithm:
            self._begin_one(algorithm)
            self.active(algorithm)
        with self._database.transaction() as connection:
            text = self.settings.to_json()
            connection.execute("INSERT OR REPLACE INTO signing_key_settings VALUES (1, ?)", (text,))

    def _begin_one(self, algorithm: Algorithm) -> None:
        """Make or read the first key; in one transaction, so that of several workers one does it."""
        path = self.settings.files.get(algorithm)
        given = None if path is None else keyfiles.read(path, algorithm)
        with self._database.transaction() as connection:
            present, made = self._of(algorithm), None
            self._check_root(present)
            if given is not None:
                made = self._adopt(connection, given, str(path), present)
            elif not present:
                made = self._insert(connection, keyfiles.generate(algorithm, self.settings.rsa_bits), at_once=True)
        if made is not None:
            _log.info("key.added", kid=made, algorithm=algorithm.value, file=str(path) if path else None)

    def _adopt(
        self, connection: sqlite3.Connection, given: PrivateKey, path: str, present: Sequence[SigningKey]
    ) -> str | None:
        """Take note of a key in a file and return its ``kid`` if it is new.

        A new one waits for its turn where another can still sign until then.
        """
        kid = self._kid(keyfiles.to_jose(given))
        known = next((key for key in present if key.kid == kid), None)
        if known is None:
            return self._insert(connection, given, at_once=all(key.private is None for key in present), file=path)
        if known.revoked is not None:
            raise UsageError(
                "the file holds a signing key that was revoked",
                code="signing-key.revoked",
                field=path,
                found=kid,
                hint="put a new key into the file",
            )
        if known.file != path:
            connection.execute("UPDATE signing_keys SET file = ?, private = NULL WHERE kid = ?", (path, kid))
            _count_change(connection)
        return None

    def _insert(
        self, connection: sqlite3.Connection, private: PrivateKey, *, at_once: bool, file: str | None = None
    ) -> str:
        """Add a key and return its ``kid``; private halves that nothing is signed with any more are let go of."""
        now, jose, algorithm = self._now(), keyfiles.to_jose(private), keyfiles.algorithm_of(private)
        kid = self._kid(jose)
        if any(key.kid == kid for key in self._current()):
            raise UsageError("this signing key was here before", code="signing-key.known", field=kid)
        ended = [(key.kid,) for state, key in self.states() if state is State.WITHDRAWN]
        connection.executemany("UPDATE signing_keys SET private = NULL WHERE kid = ?", ended)
        certificate = self._certificate(private, now)
        jwk = keyfiles.public_jwk(jose, kid, algorithm, certificate)
        active_from = now if at_once else now + self.settings.publish_ahead
        connection.execute(
            "INSERT INTO signing_keys (kid, algorithm, private, file, public, created, active_from)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                kid,
                algorithm,
                None if file else keyfiles.to_pem(private),
                file,
                json.dumps(jwk),
                now.timestamp(),
                active_from.timestamp(),
            ),
        )
        _count_change(connection)
        return kid

    def _current(self) -> tuple[SigningKey, ...]:
        """Return the keys as the database has them, read again only when one of the workers changed something."""
        (row,) = self._database.read("SELECT number FROM signing_key_changes")
        if row["number"] != self._seen:
            with self._lock:
                known = {key.kid: key for key in self._keys}
                rows = self._database.read("SELECT * FROM signing_keys ORDER BY active_from, number")
                self._keys = tuple(self._key(each, known.get(each["kid"])) for each in rows)
                self._seen = row["number"]
        return self._keys

    def _key(self, row: sqlite3.Row, before: SigningKey | None) -> SigningKey:
        """Return the key of a row; from ``before``, the same key as read earlier, comes what is dear to make."""
        algorithm, created = Algorithm(row["algorithm"]), _moment(row["created"])
        jwk, private = json.loads(row["public"]), None
        if row["revoked"] is None and before is not None and before.private is not None:
            jwk, private = before.jwk, before.private
        elif row["revoked"] is None and (loaded := _load(row)) is not None:
            private = keyfiles.to_jose(loaded)
            # The issuer's URL may be another than when the key came here.
            jwk = keyfiles.public_jwk(private, row["kid"], algorithm, self._certificate(loaded, created))
        return SigningKey(
            kid=row["kid"],
            algorithm=algorithm,
            jwk=jwk,
            number=row["number"],
            created=created,
            active_from=_moment(row["active_from"]),
            revoked=None if row["revoked"] is None else _moment(row["revoked"]),
            file=row["file"],
            private=private,
        )

    def _of(self, algorithm: Algorithm) -> list[SigningKey]:
        return [key for key in self._current() if key.algorithm is algorithm]

    def _by_kid(self, kid: str) -> SigningKey:
        for key in self._current():
            if key.kid == kid:
                return key
        raise UsageError("no such signing key", code="signing-key.unknown", field=kid)

    def _is_next(self, key: SigningKey) -> bool:
        return key.revoked is None and key.active_from > self._now()

    def _state(self, key: SigningKey, siblings: Sequence[SigningKey]) -> State:
        now = self._now()
        if key.revoked is not None:
            return State.WITHDRAWN
        if key is _active(siblings, now):
            return State.ACTIVE
        if key.active_from > now:
            return State.NEXT
        place = siblings.index(key)
        ended = next(each.active_from for each in siblings[place + 1 :] if each.revoked is None)
        return State.RETIRED if now < ended + self.settings.overlap else State.WITHDRAWN

    def _kid(self, key: RSAKey | ECKey) -> str:
        return (SIMULATED_PREFIX if self.settings.simulated else "") + keyfiles.thumbprint(key)

    def _certificate(self, private: PrivateKey, created: dt.datetime) -> bytes:
        settings = self.settings
        return issuer_certificate(private, settings.issuer_url, simulated=settings.simulated, created=created)

    def _check_root(self, present: Sequence[SigningKey]) -> None:
        """Refuse a database whose keys vouched for the other kind of root."""
        if any(key.kid.startswith(SIMULATED_PREFIX) is not self.settings.simulated for key in present):
            kinds = ("a SIMULATED root", "Intel's root")
            raise UsageError(
                "the database holds signing keys of a service for another root",
                code="signing-key.other-root",
                expected=kinds[0] if self.settings.simulated else kinds[1],
                found=kinds[1] if self.settings.simulated else kinds[0],
                hint="give each its own state directory",
            )


def _active(siblings: Sequence[SigningKey], now: dt.datetime) -> SigningKey:
    """Return the last key whose time has come; the first of all where a clock was set back. Oldest come first."""
    good = [key for key in siblings if key.revoked is None]
    if not good:
        raise PlatformError("no signing key is left", code="signing-key.missing", hint="restore the database")
    return next((key for key in reversed(good) if key.active_from <= now), good[0])


def _load(row: sqlite3.Row) -> PrivateKey | None:
    """Return the private key of a row; None where it was let go of, or its file holds it no more."""
    if row["private"] is not None:
        return keyfiles.parse(row["private"])
    if row["file"] is None:
        return None
    try:
        key = keyfiles.read(Path(row["file"]), row["algorithm"])
    except PlatformError:
        return None
    return key if row["kid"].endswith(keyfiles.thumbprint(keyfiles.to_jose(key))) else None


def _count_change(connection: sqlite3.Connection) -> None:
    """Tell every worker to read the keys again; last in a transaction, which may still be undone."""
    connection.execute("UPDATE signing_key_changes SET number = number + 1")


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
