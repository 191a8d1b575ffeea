# SPDX-License-Identifier: Apache-2.0
"""The root of trust: a name, a key and a lifetime. It comes from configuration, never from evidence."""

import datetime as dt
import functools
import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubenclave.errors import FormatError

# Intel issued its root certificate twice under this key (notAfter 2033, then 2049), and real quotes carry either,
# so the key is pinned, not a certificate.
_INTEL_ROOT_POINT: Final = bytes.fromhex(
    "04"
    "0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
_INTEL_ROOT_NAME: Final = (
    (NameOID.COMMON_NAME, "Intel SGX Root CA"),
    (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
    (NameOID.LOCALITY_NAME, "Santa Clara"),
    (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
    (NameOID.COUNTRY_NAME, "US"),
)


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """Whom everything else must chain up to. ``point`` is the 65-byte uncompressed P-256 point of its key."""

    name: x509.Name
    key: ec.EllipticCurvePublicKey = field(repr=False)
    point: bytes
    not_before: dt.datetime
    not_after: dt.datetime

    @classmethod
    def from_certificate(cls, der: bytes) -> Self:
        """Read a root certificate in DER. Raises FormatError when it is none, or its key is not P-256."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
        except ValueError as error:
            raise _not_a_root(str(error)) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _not_a_root("key is not P-256")
        return cls(
            certificate.subject,
            key,
            uncompressed_point(key),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )

    @property
    def is_intel(self) -> bool:
        """Whether this is the root of genuine hardware; any other one marks results as simulated."""
        return self.point == _INTEL_ROOT_POINT

    @property
    def digest(self) -> str:
        """SHA-256 of the root's name and key in hex: what caches and results call the root by."""
        return hashlib.sha256(self.name.public_bytes() + self.point).hexdigest()


@functools.cache
def intel_root() -> TrustAnchor:
    """Return the pinned root of Intel's SGX and TDX certificates."""
    return TrustAnchor(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in _INTEL_ROOT_NAME]),
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _INTEL_ROOT_POINT),
        _INTEL_ROOT_POINT,
        dt.datetime(2018, 5, 21, 10, 45, 10, tzinfo=dt.UTC),
        dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
    )


def uncompressed_point(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return 04 ‖ x ‖ y of a P-256 key, 65 bytes."""
    numbers = key.public_numbers()
    return b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _not_a_root(why: str) -> FormatError:
    return FormatError(
        "not a root certificate",
        code="root.malformed",
        expected="an X.509 certificate in DER with a P-256 key",
        found=why,
    )
