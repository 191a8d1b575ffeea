# SPDX-License-Identifier: Apache-2.0
"""Appraisal policies that Intel's quote verification asks the cache for: signed tokens, handed out as they came in.

Nothing in here judges by them, and their signatures are for whoever does.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Self

import msgspec

from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError, PlatformError
from kubenclave.services.database import Database
from kubenclave.wire import pcs

MIGRATIONS: Final = (
    """CREATE TABLE appraisal_policies (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        fmspc TEXT NOT NULL,
        is_default INTEGER NOT NULL,
        policy TEXT NOT NULL
    );""",
)

CAPACITY: Final = 10_000
MAX_POLICY: Final = 64 * 1024
_TDQE: Final = "3769258c-75e6-4bc7-8d72-d2b0e224cad2"  # may stand beside any other, and tells no kind
_KINDS: Final = {
    "3123ec35-8d38-4ea5-87a5-d6c48b567570": "sgx",
    "9eec018b-7481-4b1c-8e1a-9f7c0c8c777f": "tdx10",
    "f708b97f-0fb2-4e6b-8b03-8a5bcd1221d3": "tdx15",
}


class _Put(msgspec.Struct, frozen=True):
    policy: Annotated[str, msgspec.Meta(max_length=MAX_POLICY)]
    fmspc: str
    is_default: bool = False


class _Environment(msgspec.Struct, frozen=True):
    class_id: str


class _Rule(msgspec.Struct, frozen=True):
    environment: _Environment


class _Payload(msgspec.Struct, frozen=True):
    policy_array: tuple[_Rule, ...]


@dataclass(frozen=True, slots=True)
class AppraisalPolicy:
    """A policy. ``kind`` is the TEE that its classes name; ``fmspc`` in lower-case hex; ``id`` SHA-384 in hex."""

    kind: str
    fmspc: str
    is_default: bool
    policy: str

    @property
    def id(self) -> str:
        """What PCCS calls the policy by: SHA-384 of its text."""
        return hashlib.sha384(self.policy.encode()).hexdigest()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read what ``PUT appraisalpolicy`` takes.

        Raises FormatError (``appraisal.malformed``, ``json.*``, ``pcs.parameter``) and nothing else.
        """
        try:
            put = msgspec.convert(load_json(body, "appraisal policy"), _Put)
        except ValueError as error:  # of msgspec, or half a surrogate pair where text should be
            raise _malformed(str(error)) from None
        return cls(_kind(put.policy), pcs.parse_fmspc(put.fmspc), put.is_default, put.policy)


class AppraisalPolicies:
    """The policies in the database of the collateral service."""

    def __init__(self, database: Database) -> None:
        database.migrate("appraisal", MIGRATIONS)
        self._database: Final = database

    def put(self, policy: AppraisalPolicy) -> None:
        """Keep a policy; a default takes the place of the one before it. Raises PlatformError ``appraisal.full``."""
        with self._database.transaction() as connection:
            if policy.is_default:
                connection.execute(
                    "UPDATE appraisal_policies SET is_default = 0 WHERE fmspc = ? AND kind = ?",
                    (policy.fmspc, policy.kind),
                )
            (count,) = connection.execute("SELECT count(*) FROM appraisal_policies").fetchone()
            if count >= CAPACITY:
                raise PlatformError("there are too many appraisal policies", code="appraisal.full", found=str(count))
            connection.execute(
                "INSERT OR REPLACE INTO appraisal_policies VALUES (?, ?, ?, ?, ?)",
                (policy.id, policy.kind, policy.fmspc, policy.is_default, policy.policy),
            )

    def defaults(self, fmspc: str) -> list[str]:
        """Return the default policies of an FMSPC, one for each TEE at most."""
        rows = self._database.read(
            "SELECT policy FROM appraisal_policies WHERE fmspc = ? AND is_default ORDER BY kind", (fmspc,)
        )
        return [row["policy"] for row in rows]


def _kind(token: str) -> str:
    """Return which TEE a policy is for, by the classes it names."""
    parts = token.split(".")
    if len(parts) != 3:
        raise _malformed(f"{len(parts)} parts between dots")
    try:
        text = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(str(error)) from None
    payload = load_json(text, "payload of the appraisal policy")
    inner = payload.get("policy_payload") if isinstance(payload, dict) else None
    if not isinstance(inner, str):
        raise _malformed("no policy_payload")
    try:
        rules = msgspec.convert(load_json(inner, "policy_payload"), _Payload).policy_array
    except msgspec.ValidationError as error:
        raise _malformed(str(error)) from None
    kind = next(_kinds(rules), None)
    if kind is None:
        raise _malformed("no class that says which TEE it is for")
    return kind


def _kinds(rules: tuple[_Rule, ...]) -> Iterator[str]:
    for rule in rules:
        name = rule.environment.class_id.lower()
        if name in _KINDS:
            yield _KINDS[name]
        elif name != _TDQE:
            raise _malformed(f"class {name[:40]!r}")


def _malformed(found: str) -> FormatError:
    return FormatError(
        "not an appraisal policy",
        code="appraisal.malformed",
        expected='{"policy": a JWT of Intel\'s appraisal policy tool, "fmspc": 12 hex digits, "is_default": bool}',
        found=found[:200],
    )
