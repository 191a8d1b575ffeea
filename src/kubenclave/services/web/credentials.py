# SPDX-License-Identifier: Apache-2.0
"""Who may do what: tokens and client certificates, each with roles, in the database of a service.

A token is ``kubenclave_<id>_<secret>``: 8 bytes of id in hex, 32 random bytes of secret in base64url. The id finds the
row, so that a check costs one scrypt however many tokens there are; the secret is kept only as scrypt's output. Who
knows an id and sends secrets that are wrong gets few of those a second, else they could take the processor. A
client certificate is known by the SHA-256 of its public key (SubjectPublicKeyInfo): renewed with the same key it stays
known.

Every check reads the row: what is revoked, in whatever process, is refused from then on.
"""

import datetime as dt
import enum
import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.database import Database
from kubenclave.services.web.limits import Buckets, Rate

MIGRATIONS: Final = (
    """CREATE TABLE credentials (
        name TEXT PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        salt BLOB NOT NULL,
        digest BLOB NOT NULL,
        roles TEXT NOT NULL,
        created TEXT NOT NULL,
        expires TEXT
    );""",
)

_TOKEN: Final = re.compile(r"kubenclave_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_SCRYPT: Final = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 32 << 20, "dklen": 32}  # 16 MiB, some 50 ms
_TRIES: Final = Rate(per_second=1.0, burst=10)  # of one id, for secrets that were not good before
_REMEMBERED: Final = 1024  # tokens that were good, by keyed digest: the next check needs no scrypt


class Role(enum.StrEnum):
    """What a credential allows. None includes another."""

    ATTEST = "attest"  # attest and verify, where that is not open to all
    REGISTER = "register"  # add platforms to the registration queue
    COLLATERAL_ADMIN = "collateral-admin"  # read the queue, put, refresh and import collateral
    POLICY_ADMIN = "policy-admin"  # set and reset policies, add and remove policy signers
    KEY_ADMIN = "key-admin"  # rotate and revoke signing keys
    RELEASE_ADMIN = "release-admin"  # put and delete the secrets that enclaves get


class CredentialKind(enum.StrEnum):
    """How somebody shows who they are."""

    TOKEN = "token"  # noqa: S105 - a word
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks; ``name`` is what the log and histories call them, empty for anybody."""

    name: str
    roles: frozenset[Role]


ANYBODY: Final = Principal("", frozenset())


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential as it is kept, without what it is checked against."""

    name: str
    id: str
    kind: CredentialKind
    roles: frozenset[Role]
    created: dt.datetime
    expires: dt.datetime | None


class Credentials:
    """The credentials of a service; ``now`` returns the time in UTC. For any thread and any number of processes.

    A first check of a token takes 50 ms of a processor: call it in a thread (``asyncio.to_thread``).
    """

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        database.migrate("credentials", MIGRATIONS)
        self._database: Final = database
        self._now: Final = now
        self._key: Final = secrets.token_bytes(32)
        self._tries: Final = Buckets(_TRIES, time.monotonic)
        self._good: Final[OrderedDict[bytes, bytes]] = OrderedDict()  # keyed digest of a token: digest of its row

    def create(self, name: str, roles: Iterable[Role], *, expires: dt.datetime | None = None) -> str:
        """Make a token and return it: this is the only time that anybody sees it.

        Raises UsageError ``credentials.name``, ``credentials.roles`` or ``credentials.taken``.
        """
        token = new_token()
        self.adopt(name, roles, token, expires=expires)
        return token

    def adopt(
        self,
        name: str,
        roles: Iterable[Role],
        token: str,
        *,
        expires: dt.datetime | None = None,
        replace: bool = False,
    ) -> None:
        """Take a token that ``new_token`` has made elsewhere; ``replace`` takes the place of one of the same name.

        Raises FormatError ``credentials.token`` for anything that is no such token, and what ``create`` raises.
        """
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise FormatError(
                "not a token of kubenclave",
                code="credentials.token",
                expected="kubenclave_<16 hex digits>_<43 characters of base64url>",
                hint="kubenclave attest credential new",
            )
        salt = secrets.token_bytes(16)
        made = Credential(name, parts[1], CredentialKind.TOKEN, frozenset(roles), self._now(), expires)
        self._insert(made, salt, _scrypt(parts[2], salt), replace=replace)

    def trust(
        self, name: str, roles: Iterable[Role], certificate: bytes, *, expires: dt.datetime | None = None
    ) -> None:
        """Know the key of a client certificate (DER). Raises FormatError ``credentials.certificate``, and as create."""
        digest = spki_digest(certificate)
        made = Credential(name, digest.hex(), CredentialKind.CERTIFICATE, frozenset(roles), self._now(), expires)
        self._insert(made, b"", digest, replace=False)

    def revoke(self, name: str) -> None:
        """Forget a credential. Raises UsageError ``credentials.unknown-name``."""
        with self._database.transaction() as connection:
            if connection.execute("DELETE FROM credentials WHERE name = ?", (name,)).rowcount == 0:
                raise UsageError("no credential has this name", code="credentials.unknown-name", found=name)

    def list(self) -> list[Credential]:
        """Return all credentials by name, those that have ended too."""
        return [_credential(row) for row in self._database.read("SELECT * FROM credentials ORDER BY name")]

    def check(self, role: Role, presented: str | None) -> Principal:
        """Return whose token this is, if it allows ``role``.

        Raises TrustError ``credentials.missing`` or ``credentials.unknown`` (HTTP 401; what is malformed, revoked,
        wrong and expired is not told apart for whoever asks), ``credentials.role`` (HTTP 403), and TooFastError.
        """
        if not presented:
            raise TrustError(
                "this needs a token or a client certificate",
                code="credentials.missing",
                expected=f"one with the role {role}",
                hint="send it as: Authorization: Bearer TOKEN",
            )
        parts = _TOKEN.fullmatch(presented)
        row = None if parts is None else self._row(parts[1], CredentialKind.TOKEN)
        if parts is None or row is None or not self._matches(presented, parts[2], row):
            raise _unknown()
        return _allowed(row, role)

    def check_certificate(self, role: Role, certificate: bytes) -> Principal:
        """Return whose client certificate (DER; TLS has verified it) this is, if it allows ``role``; as ``check``."""
        row = self._row(spki_digest(certificate).hex(), CredentialKind.CERTIFICATE)
        if row is None:
            raise _unknown()
        return _allowed(row, role)

    def _row(self, identity: str, kind: CredentialKind) -> sqlite3.Row | None:
        """Return the row of an id that has not ended."""
        rows = self._database.read("SELECT * FROM credentials WHERE id = ? AND kind = ?", (identity, kind.value))
        if not rows or (
            rows[0]["expires"] is not None and dt.datetime.fromisoformat(rows[0]["expires"]) <= self._now()
        ):
            return None
        return rows[0]

    def _matches(self, presented: str, secret: str, row: sqlite3.Row) -> bool:
        """Tell whether this is the token of the row, in the same time wherever they differ."""
        remembered = hmac.digest(self._key, presented.encode(), "sha256")
        if (known := self._good.get(remembered)) is not None and hmac.compare_digest(known, row["digest"]):
            return True
        self._tries.take(row["id"])
        if not hmac.compare_digest(_scrypt(secret, row["salt"]), row["digest"]):
            return False
        self._good[remembered] = row["digest"]
        while len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)
        return True

    def _insert(self, credential: Credential, salt: bytes, digest: bytes, *, replace: bool) -> None:
        name, ends = credential.name, credential.expires
        if not _NAME.fullmatch(name):
            raise UsageError("not a name", code="credentials.name", expected="letters, digits and . _ @ -", found=name)
        if not credential.roles:
            raise UsageError("a credential without a role allows nothing", code="credentials.roles")
        with self._database.transaction() as connection:
            if replace:
                connection.execute("DELETE FROM credentials WHERE name = ?", (name,))
            try:
                connection.execute(
                    "INSERT INTO credentials VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        name,
                        credential.id,
                        credential.kind.value,
                        salt,
                        digest,
                        " ".join(sorted(credential.roles)),
                        credential.created.isoformat(),
                        None if ends is None else ends.isoformat(),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise UsageError(
                    "there is a credential of this name or key",
                    code="credentials.taken",
                    found=name,
                    hint="revoke that one first, or take another name",
                ) from error


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One credential of a file."""

    name: str
    roles: list[Role]
    token: str
    expires: dt.datetime | None = None


def adopt_file(credentials: Credentials, content: bytes) -> None:
    """Take the tokens of a JSON document: a list of ``{"name", "roles", "token"}``, and ``expires`` where wanted.

    They take the place of those of the same names. Raises FormatError ``credentials.file``, and what ``adopt`` raises.
    """
    try:
        entries = msgspec.json.decode(content, type=list[_Entry])
    except msgspec.MsgspecError as error:
        raise FormatError(
            "not a list of credentials",
            code="credentials.file",
            expected='[{"name": "ops", "roles": ["policy-admin"], "token": "kubenclave_..."}]',
            found=str(error),
        ) from error
    for each in entries:
        credentials.adopt(each.name, each.roles, each.token, expires=each.expires, replace=True)


def new_token() -> str:
    """Return a token that nobody else has."""
    return f"kubenclave_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


def spki_digest(certificate: bytes) -> bytes:
    """Return SHA-256 of a certificate's public key (DER, SubjectPublicKeyInfo).

    Raises FormatError ``credentials.certificate``.
    """
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    except Exception as error:  # whatever the library says of bytes that are none
        raise FormatError("not a certificate", code="credentials.certificate", expected="X.509 in DER") from error


def _scrypt(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, **_SCRYPT)


def _credential(row: sqlite3.Row) -> Credential:
    return Credential(
        name=row["name"],
        id=row["id"],
        kind=CredentialKind(row["kind"]),
        roles=frozenset(map(Role, row["roles"].split())),
        created=dt.datetime.fromisoformat(row["created"]),
        expires=None if row["expires"] is None else dt.datetime.fromisoformat(row["expires"]),
    )


def _allowed(row: sqlite3.Row, role: Role) -> Principal:
    found = _credential(row)
    if role not in found.roles:
        raise TrustError(
            "this credential does not allow that",
            code="credentials.role",
            expected=str(role),
            found=" ".join(sorted(found.roles)),
        )
    return Principal(found.name, found.roles)


def _unknown() -> TrustError:
    return TrustError("this credential is not known here, or has ended", code="credentials.unknown")
