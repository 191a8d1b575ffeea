# SPDX-License-Identifier: Apache-2.0
"""Signing keys of the service, shared by its workers through the database.

A key is *next* (published, not yet used), then *active*, then *retired* (published as long as tokens it signed are
good). The states follow from each key's ``active_from`` and the clock, so that all workers change over at the same
moment and none has to do anything for it. A key is made where there never was one; one that should be there and is not
is an error, never replaced in silence.
"""

import base64
import datetime as dt
import enum
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from kubenclave.errors import PlatformError, UsageError
from kubenclave.services.attestation import keyfiles
from kubenclave.services.attestation.certificates import PrivateKey, issuer_certificate
from kubenclave.services.database import Database

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
_SKEW: Final = dt.timedelta(minutes=5)
_CACHE: Final = dt.timedelta(hours=1)  # jose keeps a key set for 10 minutes, PyJWT for 5


class Algorithm(enum.StrEnum):
    """Signature algorithms (RFC 7518): RS256 for the Azure dialect, ES256 for everything else."""

    RS256 = keyfiles.RS256
    ES256 = keyfiles.ES256


class State(enum.StrEnum):
    """What a key is for at a moment."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"  # not published: its time is over, or it was revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """How keys are made and for how long they are seen.

    ``publish_ahead``: how long a key is published before it signs; no less than clients keep a key set.
    ``files``: keys that lie in files of the operator's instead of the database.
    """

    issuer_url: str
    simulated: bool
    token_lifetime: dt.timedelta = dt.timedelta(hours=8)
    publish_ahead: dt.timedelta = dt.timedelta(minutes=15)
    rsa_bits: int = 2048
    files: Mapping[Algorithm, Path] = field(default_factory=dict)

    @property
    def overlap(self) -> dt.timedelta:
        """How long a retired key stays published: lifetime of its tokens, skew of clocks, caches."""
        return self.token_lifetime + _SKEW + _CACHE

    def to_json(self) -> str:
        """Return the settings as the database keeps them, for tools that change keys while the service runs."""
        members = {
            "issuer_url": self.issuer_url,
            "simulated": self.simulated,
            "token_lifetime": self.token_lifetime.total_seconds(),
            "publish_ahead": self.publish_ahead.total_seconds(),
            "rsa_bits": self.rsa_bits,
            "files": {str(algorithm): str(path) for algorithm, path in self.files.items()},
        }
        return json.dumps(members, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what ``to_json`` wrote."""
        members = json.loads(text)
        return cls(
            issuer_url=members["issuer_url"],
            simulated=members["simulated"],
            token_lifetime=dt.timedelta(seconds=members["token_lifetime"]),
            publish_ahead=dt.timedelta(seconds=members["publish_ahead"]),
            rsa_bits=members["rsa_bits"],
            files={Algorithm(algorithm): Path(path) for algorithm, path in members["files"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key and its public face. ``kid`` is the RFC 7638 thumbprint, ``certificate`` DER."""

    kid: str
    algorithm: Algorithm
    jwk: Mapping[str, Any]
    number: int
    created: dt.datetime
    active_from: dt.datetime
    revoked: dt.datetime | None
    file: str | None
    private: RSAKey | ECKey | None = field(repr=False)  # None: revoked, or its file cannot be read

    @cached_property
    def certificate(self) -> bytes:
        """The certificate of ``x5c``, DER."""
        return base64.b64decode(self.jwk["x5c"][0])

    def sign(self, payload: bytes, header: Mapping[str, Any]) -> str:
        """Return a JWS in compact form (RFC 7515); ``alg`` and ``kid`` are added to its header."""
        if self.private is None:
            raise keyfiles.missing(self.file or self.kid, "no private key")
        protected = {"alg": self.algorithm.value, "kid": self.kid, **header}
        return jws.serialize_compact(protected, payload, self.private, algorithms=[self.algorithm.value])


class KeyRing:
    """All keys of a service. Reading is quick enough for an event loop; what changes keys belongs into a thread.

    Raises PlatformError (codes ``signing-key.*``, ``database.*``) where a key that should be there cannot be used, and
    UsageError ``signing-key.other-root`` where the database belongs to a service for another kind of root.
    """

    def __init__(self, database: Database, now: Callable[[], dt.datetime], settings: KeySettings) -> None:
        self.settings: Final = settings
        self._database: Final = database
        self._now: Final = now
        self._lock: Final = threading.Lock()
        self._seen = -1
        self._keys: tuple[SigningKey, ...] = ()
        database.migrate(_ROOM, MIGRATIONS)
        for algorithm in Algorithm:
            self._begin(algorithm)
            self.active(algorithm)
        with database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO signing_key_settings VALUES (1, ?)", (settings.to_json(),))

    @classmethod
    def existing(cls, database: Database, now: Callable[[], dt.datetime]) -> Self:
        """Return the key ring of a service that has run, with the settings it ran with.

        Raises PlatformError ``signing-key.missing`` where none has.
        """
        database.migrate(_ROOM, MIGRATIONS)
        rows = database.read("SELECT settings FROM signing_key_settings")
        if not rows:
            raise keyfiles.missing(database.path, "no service has run with this database")
        return cls(database, now, KeySettings.from_json(rows[0]["settings"]))

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
            connection.execute("UPDATE signing_keys SET revoked = ? WHERE kid = ?", (now.timestamp(), kid))
            waiting = next((each for each in siblings if self._is_next(each) and each is not key), None)
            if was_active and waiting is not None:
                moment = now.timestamp()
                connection.execute("UPDATE signing_keys SET active_from = ? WHERE kid = ?", (moment, waiting.kid))
            elif was_active:
                self._insert(connection, keyfiles.generate(key.algorithm, self.settings.rsa_bits), at_once=True)
            _count_change(connection)
        return self.active(key.algorithm)

    def _begin(self, algorithm: Algorithm) -> None:
        """Make or read the first key; in one transaction, so that of several workers one does it."""
        path = self.settings.files.get(algorithm)
        given = None if path is None else keyfiles.read(path, algorithm)
        with self._database.transaction() as connection:
            present = self._of(algorithm)
            self._check_root(present)
            if given is not None:
                self._adopt(connection, given, str(path), present)
            elif not present:
                self._insert(connection, keyfiles.generate(algorithm, self.settings.rsa_bits), at_once=True)

    def _adopt(
        self, connection: sqlite3.Connection, given: PrivateKey, path: str, present: Sequence[SigningKey]
    ) -> None:
        """Take note of a key in a file; a new one waits for its turn where another can still sign until then."""
        kid = self._kid(keyfiles.to_jose(given))
        known = next((key for key in present if key.kid == kid), None)
        if known is None:
            self._insert(connection, given, at_once=all(key.private is None for key in present), file=path)
        elif known.revoked is not None:
            raise UsageError(
                "the file holds a signing key that was revoked",
                code="signing-key.revoked",
                field=path,
                found=kid,
                hint="put a new key into the file",
            )
        elif known.file != path:
            connection.execute("UPDATE signing_keys SET file = ?, private = NULL WHERE kid = ?", (path, kid))
            _count_change(connection)

    def _insert(
        self, connection: sqlite3.Connection, private: PrivateKey, *, at_once: bool, file: str | None = None
    ) -> str:
        """Add a key and return its ``kid``."""
        now, jose, algorithm = self._now(), keyfiles.to_jose(private), keyfiles.algorithm_of(private)
        kid = self._kid(jose)
        if any(key.kid == kid for key in self._current()):
            raise UsageError("this signing key was here before", code="signing-key.known", field=kid)
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
                privates = {key.kid: key.private for key in self._keys}
                rows = self._database.read("SELECT * FROM signing_keys ORDER BY active_from, number")
                self._keys = tuple(self._key(each, privates.get(each["kid"])) for each in rows)
                self._seen = row["number"]
        return self._keys

    def _key(self, row: sqlite3.Row, private: RSAKey | ECKey | None) -> SigningKey:
        """Return the key of a row. ``private`` is the key object made earlier, which is dear to make."""
        algorithm, created = Algorithm(row["algorithm"]), _moment(row["created"])
        jwk = json.loads(row["public"])
        if row["revoked"] is not None:
            private = None
        elif private is None and (loaded := _load(row)) is not None:
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
        raise PlatformError("no signing key is left", code="signing-key.missing", hint="rotate makes one")
    return next((key for key in reversed(good) if key.active_from <= now), good[0])


def _load(row: sqlite3.Row) -> PrivateKey | None:
    """Return the private key of a row; None where it lies in a file that holds it no more."""
    if row["private"] is not None:
        return keyfiles.parse(row["private"])
    try:
        key = keyfiles.read(Path(row["file"]), row["algorithm"])
    except PlatformError:
        return None
    return key if row["kid"].endswith(keyfiles.thumbprint(keyfiles.to_jose(key))) else None


def _count_change(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE signing_key_changes SET number = number + 1")


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
