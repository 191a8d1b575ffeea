# SPDX-License-Identifier: Apache-2.0
"""Claims as a policy sees them, and the names that no policy may speak under."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Scalar = str | int | bool

_INTEGER_BITS: Final = 64
# Old names of incoming claims, which published policies still ask for (Azure: claim sets, deprecated claims).
OLD_NAMES: Final = {
    "$is-debuggable": "x-ms-sgx-is-debuggable",
    "$sgx-mrsigner": "x-ms-sgx-mrsigner",
    "$sgx-mrenclave": "x-ms-sgx-mrenclave",
    "$product-id": "x-ms-sgx-product-id",
    "$svn": "x-ms-sgx-svn",
    "$tee": "x-ms-attestation-type",
    "$maa-ehd": "x-ms-sgx-ehd",
    "$aas-ehd": "x-ms-sgx-ehd",
    "$maa-attestationcollateral": "x-ms-sgx-collateral",
}
# What a token says of itself, not of the evidence: a policy that saw it would not be a function of the evidence.
_NOT_INCOMING: Final = frozenset({"iss", "iat", "nbf", "exp", "jti", "x-ms-policy"})
_RESERVED: Final = frozenset(
    {"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", "nonce", "submods", "dbgstat", "intuse"}
    | {"ver", "rp_data", "policy_hash", "policy_signer", "maa-policyhash", "maa-ehd", "aas-ehd"}
    | {"maa-attestationcollateral"}
)
_RESERVED_PREFIXES: Final = ("x-ms-", "kubenclave", "eat_", "ear_", "ear.", "attester_", "tdx_", "$")


class ClaimIssuer(enum.StrEnum):
    """Where a claim comes from; CustomClaim, which Azure knows for other TEEs, has no source here."""

    SERVICE = "AttestationService"
    POLICY = "AttestationPolicy"
    CUSTOM = "CustomClaim"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim. Several of the same type are a set; ``value`` is a text, a signed 64-bit integer or a boolean."""

    type: str
    value: Scalar
    issuer: ClaimIssuer = ClaimIssuer.SERVICE

    @property
    def value_type(self) -> str:
        """``String``, ``Integer`` or ``Boolean``."""
        return value_type_of(self.value)


def value_type_of(value: Scalar) -> str:
    """Return the language's name for the type of a value; a boolean is no integer."""
    if isinstance(value, bool):
        return "Boolean"
    return "Integer" if isinstance(value, int) else "String"


def is_integer(value: object) -> bool:
    """Whether the language has this integer: signed, 64 bits."""
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and -(1 << _INTEGER_BITS - 1) <= value < 1 << _INTEGER_BITS - 1
    )


def same(one: Scalar, other: Scalar) -> bool:
    """Whether two values are equal in type and value; in Python alone ``True == 1``."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def is_reserved(name: str) -> bool:
    """Whether only the service speaks under this name, so that no policy can put words into its mouth.

    Case does not count: to readers of JSON such as Go's it makes no difference.
    """
    folded = name.casefold()
    return folded in _RESERVED or folded.startswith(_RESERVED_PREFIXES)


def claims_of(token_claims: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Return what a policy sees of the claims that the service is going to write, under old names as well.

    Objects, lists and numbers that the language lacks become the text of their JSON, as Azure's functions expect it
    (sorted, compact). Members that speak of the token and not of the evidence are left out, and so is null.
    """
    incoming = {name: value for name, value in token_claims.items() if name not in _NOT_INCOMING and value is not None}
    incoming |= {old: incoming[name] for old, name in OLD_NAMES.items() if name in incoming}
    return tuple(Claim(name, _scalar(value)) for name, value in incoming.items())


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str | bool) or is_integer(value):
        scalar: Scalar = value
        return scalar
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
