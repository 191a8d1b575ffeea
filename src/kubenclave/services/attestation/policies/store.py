# SPDX-License-Identifier: Apache-2.0
"""Policies of the service, per TEE type: every version that ever was in force, who set it, when and signed by whom.

Nothing is changed or deleted (the database itself refuses to); a reset is a version like any other. Who may set one is
decided above; here only the trust model speaks: an isolated service takes nothing but what a registered signer signed.
"""

import dataclasses
import datetime as dt
import enum
import functools
import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kubenclave.dcap.azurepolicy import DEFAULT_POLICIES, AzurePolicy, azure_policy_digest, parse
from kubenclave.dcap.describe import zulu
from kubenclave.dcap.judgement import PolicyReference
from kubenclave.dcap.policy import Policy
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.attestation.policies.signers import Signers
from kubenclave.services.database import Database

TEE_TYPES: Final = tuple(DEFAULT_POLICIES)
MAX_SIZE: Final = 64 << 10  # bytes of a policy, in whichever format
MIGRATIONS: Final = (
    """
    CREATE TABLE policies (
        tee_type TEXT NOT NULL,
        version INTEGER NOT NULL,
        format TEXT NOT NULL,
        text TEXT NOT NULL,
        signer TEXT,
        token TEXT,
        is_default INTEGER NOT NULL,
        created TEXT NOT NULL,
        by TEXT NOT NULL,
        PRIMARY KEY (tee_type, version)
    );
    CREATE TRIGGER policies_are_kept BEFORE DELETE ON policies BEGIN SELECT RAISE(ABORT, 'append only'); END;
    CREATE TRIGGER policies_stay BEFORE UPDATE ON policies BEGIN SELECT RAISE(ABORT, 'append only'); END;
    """,
)
BUILT_IN: Final = "built in"  # who set version 0
_NEVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class PolicyFormat(enum.StrEnum):
    """In which language a policy is written."""

    KUBENCLAVE = "kubenclave"  # the typed document, JSON or TOML
    AZURE = "azure"  # Azure's grammar, 1.0 to 1.2


class TrustModel(enum.StrEnum):
    """Whose word a policy needs, in Azure's spelling."""

    AAD = "AAD"  # that of an administrator; a signature is kept if there is one
    ISOLATED = "Isolated"  # the signature of a registered signer


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """One version of the policy for a TEE type.

    ``version``: from 1; 0 is the default that nobody set. ``signer``: the JWK it was signed with. ``token``: the JWT it
    came in, as it came. ``created``: aware UTC. ``by``: who set it, a name that may be shown.
    """

    tee_type: str
    version: int
    format: PolicyFormat
    text: str = field(repr=False)
    signer: Mapping[str, Any] | None = None
    token: str | None = field(default=None, repr=False)
    is_default: bool = False
    created: dt.datetime
    by: str

    @property
    def digest(self) -> bytes:
        """32 bytes: SHA-256 of a typed document, of an Azure one what ``x-ms-policy-hash`` holds."""
        if self.format is PolicyFormat.AZURE:
            return azure_policy_digest(self.text)
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def name(self) -> str:
        """The name that a typed document gives itself, else the TEE type."""
        return (self.parsed.name if isinstance(self.parsed, Policy) else "") or self.tee_type

    @property
    def parsed(self) -> Policy | AzurePolicy:
        """The policy to judge with."""
        return read_policy(self.text, self.format)

    def reference(self) -> PolicyReference:
        """Return what tokens, receipts and answers say of it."""
        return PolicyReference(
            self.name, self.format.value, self.version, self.digest, self.signer, is_default=self.is_default
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but the text as JSON values: one line of a history."""
        return {
            "tee_type": self.tee_type,
            "version": self.version,
            "format": self.format.value,
            "name": self.name,
            "digest": self.digest.hex(),
            "signer": None if self.signer is None else dict(self.signer),
            "default": self.is_default,
            "created": None if not self.version else zulu(self.created.replace(microsecond=0)),
            "by": self.by,
        }


@functools.lru_cache(maxsize=64)
def read_policy(text: str, format: PolicyFormat) -> Policy | AzurePolicy:  # noqa: A002 - the name of the member
    """Read a policy in the language it is said to be in; a typed document that begins with { is JSON, else TOML.

    Raises FormatError (codes ``azure-policy.*``, ``policy.malformed``, ``json.*``).
    """
    if format is PolicyFormat.AZURE:
        return parse(text)
    if len(text.encode("utf-8", "replace")) > MAX_SIZE:
        raise FormatError("the policy is too long", code="policy.malformed", expected=f"{MAX_SIZE} bytes at most")
    return Policy.from_json(text) if text.lstrip().startswith("{") else Policy.from_toml(text)


class PolicyStore:
    """The policies in the database; any number of processes may use it at once.

    Raises UsageError (codes ``policy-store.*``) for what cannot be done, TrustError for what the trust model refuses.
    """

    def __init__(
        self, database: Database, now: Callable[[], dt.datetime], *, trust_model: TrustModel = TrustModel.AAD
    ) -> None:
        self.trust_model: Final = trust_model
        self.signers: Final = Signers(database, now)
        self._database = database
        self._now = now
        database.migrate("policies", MIGRATIONS)

    def current(self, tee_type: str) -> StoredPolicy:
        """Return the policy in force."""
        return next(iter(self._rows(tee_type, "ORDER BY version DESC LIMIT 1")), _built_in(tee_type))

    def get(self, tee_type: str, version: int) -> StoredPolicy:
        """Return one version; 0 is the default. Raises UsageError ``policy-store.unknown-version``."""
        if version == 0:
            return _built_in(tee_type)
        for policy in self._rows(tee_type, "AND version = ?", version):
            return policy
        raise UsageError("there is no such version", code="policy-store.unknown-version", found=str(version))

    def history(self, tee_type: str, limit: int = 100) -> list[StoredPolicy]:
        """Return the latest versions, the one in force first."""
        return self._rows(tee_type, "ORDER BY version DESC LIMIT ?", limit)

    def put(
        self,
        tee_type: str,
        text: str,
        format: PolicyFormat | str,  # noqa: A002 - the name of the member
        *,
        by: str,
        signer: Mapping[str, Any] | None = None,
        token: str | None = None,
        expected_version: int | None = None,
    ) -> StoredPolicy:
        """Put a policy in force as the next version.

        ``signer``: JWK whose signature over it the caller has verified. ``expected_version``: what is in force as the
        caller knows it; UsageError ``policy-store.conflict`` when somebody was faster. Raises FormatError for a text
        that is no policy.
        """
        kind = _format(format)
        read_policy(text, kind)
        default = _built_in(tee_type)
        policy = dataclasses.replace(
            default, format=kind, text=text, signer=signer, token=token, is_default=False, created=self._now(), by=by
        )
        return self._append(policy, expected_version)

    def reset(
        self,
        tee_type: str,
        *,
        by: str,
        signer: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StoredPolicy:
        """Put the default in force again, as the next version."""
        default = dataclasses.replace(_built_in(tee_type), signer=signer, created=self._now(), by=by)
        return self._append(default, expected_version)

    def _append(self, policy: StoredPolicy, expected_version: int | None) -> StoredPolicy:
        with self._database.transaction() as connection:
            self._check_signer(policy.signer, connection)
            (last,) = connection.execute(
                "SELECT coalesce(max(version), 0) FROM policies WHERE tee_type = ?", (policy.tee_type,)
            ).fetchone()
            if expected_version is not None and expected_version != last:
                raise UsageError(
                    "the policy was changed meanwhile",
                    code="policy-store.conflict",
                    field=policy.tee_type,
                    expected=f"version {expected_version}",
                    found=f"version {last}",
                    hint="read the policy in force and decide again",
                )
            policy = dataclasses.replace(policy, version=last + 1)
            connection.execute("INSERT INTO policies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(policy))
        return policy

    def _check_signer(self, signer: Mapping[str, Any] | None, connection: sqlite3.Connection) -> None:
        if self.trust_model is TrustModel.AAD:
            return
        if signer is None:
            raise TrustError(
                "the policy is not signed",
                code="policy-store.unsigned",
                expected="the signature of a registered signer",
                found="none",
                hint="the trust model of this service is Isolated: sign policies and resets",
            )
        if not self.signers.is_registered(signer, connection):
            raise TrustError(
                "the policy is signed by somebody who is not registered",
                code="policy-store.unknown-signer",
                hint="register the signer's certificate first",
            )

    def _rows(self, tee_type: str, rest: str, *parameters: object) -> list[StoredPolicy]:
        _built_in(tee_type)
        sql = f"SELECT * FROM policies WHERE tee_type = ? {rest}"  # noqa: S608 - the rest is ours
        return [_stored(row) for row in self._database.read(sql, (tee_type, *parameters))]


def _built_in(tee_type: str) -> StoredPolicy:
    """Return the default of a TEE type. Raises UsageError ``policy-store.unknown-tee``."""
    if tee_type not in DEFAULT_POLICIES:
        raise UsageError(
            "there is no policy for this TEE type",
            code="policy-store.unknown-tee",
            expected=", ".join(TEE_TYPES),
            found=tee_type[:40],
        )
    return StoredPolicy(
        tee_type=tee_type,
        version=0,
        format=PolicyFormat.AZURE,
        text=DEFAULT_POLICIES[tee_type],
        is_default=True,
        created=_NEVER,
        by=BUILT_IN,
    )


def _format(name: str) -> PolicyFormat:
    try:
        return PolicyFormat(name)
    except ValueError:
        known = ", ".join(PolicyFormat)
        raise UsageError("not a format of policies", code="policy-store.format", expected=known, found=name) from None


def _row(policy: StoredPolicy) -> tuple[Any, ...]:
    return (
        policy.tee_type,
        policy.version,
        policy.format.value,
        policy.text,
        None if policy.signer is None else json.dumps(dict(policy.signer), sort_keys=True),
        policy.token,
        int(policy.is_default),
        policy.created.isoformat(),
        policy.by,
    )


def _stored(row: sqlite3.Row) -> StoredPolicy:
    return StoredPolicy(
        tee_type=row["tee_type"],
        version=row["version"],
        format=PolicyFormat(row["format"]),
        text=row["text"],
        signer=None if row["signer"] is None else json.loads(row["signer"]),
        token=row["token"],
        is_default=bool(row["is_default"]),
        created=dt.datetime.fromisoformat(row["created"]),
        by=row["by"],
    )
