# SPDX-License-Identifier: Apache-2.0
"""The root of trust: a name, a key and a lifetime. It comes from configuration, never from evidence."""

import datetime as dt
import functools
import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubenclave.errors import FormatError

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    LookupError,  # a number that has no name there, as an unknown TLS feature
    OverflowError,
    UserWarning,  # odd serial numbers and names, where a program has made warnings errors
)
"""What the X.509 library raises of garbage, some of it only on a closer look."""

# Intel issued its root certificate twice under this key (notAfter 2033, then 2049), and real quotes carry either,
# so the key is pinned, not a certificate.
_INTEL_ROOT_POINT: Final = bytes.fromhex(
    "04"
    "0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
_P256_KEY_INFO: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")  # all but the point
_INTEL_ROOT_NAME: Final = (
    (NameOID.COMMON_NAME, "Intel SGX Root CA"),
    (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
    (NameOID.LOCALITY_NAME, "Santa Clara"),
    (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
    (NameOID.COUNTRY_NAME, "US"),
)


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """Whom everything else must chain up to. ``point`` is the 65-byte uncompressed P-256 point of its key.

    ``subject`` is its name in DER, by which others name it as their issuer. ``digest`` (SHA-256 of name and key in hex)
    is what results call the root by; ``identity`` (32 bytes) covers its lifetime as well and keys what caches keep
    under it.
    """

    name: x509.Name
    key: ec.EllipticCurvePublicKey = field(repr=False)
    point: bytes
    not_before: dt.datetime
    not_after: dt.datetime
    subject: bytes = field(init=False, repr=False)
    digest: str = field(init=False)
    identity: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        subject = self.name.public_bytes()
        digest = hashlib.sha256(subject + self.point)
        lifetime = f"{self.not_before.isoformat()}/{self.not_after.isoformat()}"
        object.__setattr__(self, "subject", subject)
        object.__setattr__(self, "digest", digest.hexdigest())
        object.__setattr__(self, "identity", hashlib.sha256(digest.digest() + lifetime.encode()).digest())

    @classmethod
    def from_certificate(cls, der: bytes) -> Self:
        """Read a root certificate in DER: a CA with a P-256 key that signed itself. Raises FormatError otherwise."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
                raise _not_a_root("another kind of key")
            if not is_ca:
                raise _not_a_root("a certificate that is no CA")
            certificate.verify_directly_issued_by(certificate)
            return cls(
                certificate.subject,
                key,
                uncompressed_point(key),
                certificate.not_valid_before_utc,
                certificate.not_valid_after_utc,
            )
        except InvalidSignature:
            raise _not_a_root("a certificate that somebody else signed") from None
        except UNREADABLE as error:
            raise _not_a_root("PEM" if der[:10] == b"-----BEGIN" else unreadable(error)) from None

    @property
    def public_key_info(self) -> bytes:
        """SubjectPublicKeyInfo of the key, in DER, as every certificate of it has it."""
        return _P256_KEY_INFO + self.point

    @property
    def is_intel(self) -> bool:
        """Whether this is the root of genuine hardware; any other one marks results as simulated."""
        return self.point == _INTEL_ROOT_POINT


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


def unreadable(error: Exception) -> str:
    """Return what the X.509 library says of garbage, without the innards of its parser."""
    text = str(error).partition("ParseError")[0].strip(" :")
    text = text.replace("error parsing asn1 value", "other bytes than DER of that kind")
    return text[:200] or type(error).__name__


def _not_a_root(why: str) -> FormatError:
    return FormatError(
        "not a root certificate",
        code="root.malformed",
        expected="an X.509 certificate in DER of a CA with a P-256 key, signed by itself",
        found=why,
    )
