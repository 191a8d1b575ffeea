# SPDX-License-Identifier: Apache-2.0
"""RA-TLS: a certificate whose key a quote vouches for, with the quote in an extension of it.

Two forms are in use, and a certificate may have both:

- TCG DICE tagged evidence (2.23.133.5.4.9): CBOR tag 60000 over ``[quote, claims]``. Report data begins with the
  SHA-256 of the claims; those hold ``pubkey-hash``, in CBOR ``[algorithm id of IANA's named information, hash]``.
- Legacy: the quote as it is. Report data begins with the SHA-256 of the certificate's SubjectPublicKeyInfo in DER.

Where there is DICE evidence it alone counts: what fails as one form is never tried as the other, else whoever breaks
the one could choose.
"""

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kubenclave.dcap import cbor
from kubenclave.dcap.anchor import UNREADABLE, unreadable
from kubenclave.dcap.describe import zulu
from kubenclave.errors import FormatError, TrustError

MAX_SIZE: Final = 96 * 1024
TAGGED_EVIDENCE: Final = x509.ObjectIdentifier("2.23.133.5.4.9")
LEGACY: Final = (
    x509.ObjectIdentifier("1.2.840.113741.1337.6"),
    x509.ObjectIdentifier("0.6.9.42.840.113741.1337.6"),  # as Gramine writes it: the DER of an OID within an OID
)
_TEE_EVIDENCE: Final = 60000
_HASHES: Final = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
"""Those of IANA's registry "Named Information Hash Algorithm" that are long enough."""
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class RaTlsCertificate:
    """A certificate with evidence in it. Nothing binds the two before ``check_binding`` has returned.

    - ``quote``: to be verified by the caller.
    - ``public_key_info``: SubjectPublicKeyInfo in DER.
    - ``bound``: the bytes whose SHA-256 report data has to begin with: claims in CBOR, or the public key.
    - ``nonce``: what DICE claims hold under that name, None where they do not.
    """

    form: Literal["dice", "legacy"]
    quote: bytes = field(repr=False)
    public_key_info: bytes = field(repr=False)
    bound: bytes = field(repr=False)
    nonce: bytes | None
    not_before: dt.datetime
    not_after: dt.datetime

    @classmethod
    def parse(cls, data: bytes) -> "RaTlsCertificate":
        """Read a certificate in PEM or DER, one that signed itself.

        Raises FormatError (codes ``ra-tls.*`` and ``cbor.malformed``) and nothing else.
        """
        if len(data) > MAX_SIZE:
            raise _malformed(f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
        try:
            certificate = _load(data)
            certificate.verify_directly_issued_by(certificate)
            extensions = {
                each.oid: each.value.value
                for each in certificate.extensions
                if isinstance(each.value, x509.UnrecognizedExtension)
            }
            key_info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except InvalidSignature:
            raise _malformed("a certificate that signed itself", "one with another signature") from None
        except UNREADABLE as error:
            raise _malformed("an X.509 certificate that signed itself", unreadable(error)) from None
        if (tagged := extensions.get(TAGGED_EVIDENCE)) is not None:
            quote, claims, nonce = _dice(tagged, key_info)
            return cls("dice", quote, key_info, claims, nonce, *dates)
        for oid in LEGACY:
            if (raw := extensions.get(oid)) is not None:
                return cls("legacy", raw, key_info, key_info, None, *dates)
        raise FormatError(
            "the certificate holds no evidence",
            code="ra-tls.no-evidence",
            expected=f"extension {TAGGED_EVIDENCE.dotted_string} or {LEGACY[0].dotted_string}",
            hint="send the certificate of the enclave itself, not one of an authority",
        )

    def check_binding(self, report_data: bytes) -> None:
        """Refuse a quote that does not vouch for the certificate's key. Raises TrustError ``ra-tls.binding``."""
        digest = hashlib.sha256(self.bound).digest()
        if not hmac.compare_digest(digest, report_data[: len(digest)]):
            what = "claims" if self.form == "dice" else "public key"
            raise TrustError(
                f"the quote does not vouch for the certificate's {what}",
                code="ra-tls.binding",
                field="REPORTDATA[0:32]",
                expected=digest.hex(),
                found=report_data[: len(digest)].hex(),
            )

    def check_dates(self, now: dt.datetime) -> None:
        """Refuse a certificate that is not valid now. Raises TrustError ``ra-tls.dates``."""
        if not self.not_before <= now <= self.not_after:
            raise TrustError(
                "the RA-TLS certificate is not valid at this time",
                code="ra-tls.dates",
                expected=f"{zulu(self.not_before)} to {zulu(self.not_after)}",
                found=zulu(now),
            )


def _load(data: bytes) -> x509.Certificate:
    if not data.lstrip().startswith(_BEGIN):
        return x509.load_der_x509_certificate(data)
    if data.count(_BEGIN) != 1:
        raise _malformed("one certificate", "several")
    return x509.load_pem_x509_certificate(data)


def _dice(data: bytes, key_info: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Return quote, claims and nonce of tagged evidence whose claims speak of that public key."""
    match cbor.decode(data):
        case cbor.Tagged(tag=tag, value=[bytes(quote), bytes(claims)]) if tag == _TEE_EVIDENCE:
            pass
        case _:
            raise _malformed(f"CBOR tag {_TEE_EVIDENCE} over [quote, claims]", "other CBOR", TAGGED_EVIDENCE)
    members = cbor.decode(claims)
    if not isinstance(members, dict):
        raise _malformed("claims in a CBOR map", type(members).__name__, TAGGED_EVIDENCE)
    nonce = members.get("nonce")
    if nonce is not None and not isinstance(nonce, bytes):
        raise _malformed("a byte string as nonce", type(nonce).__name__, TAGGED_EVIDENCE)
    _check_key_hash(members.get("pubkey-hash"), key_info)
    return quote, claims, nonce


def _check_key_hash(said: Any, key_info: bytes) -> None:
    """Refuse claims that speak of another key than the certificate's."""
    match cbor.decode(said) if isinstance(said, bytes) else None:
        case [int(algorithm), bytes(digest)] if algorithm in _HASHES:
            found = _HASHES[algorithm](key_info).digest()
        case _:
            raise _malformed("pubkey-hash: [1, 7 or 8, hash], serialised", "something else", TAGGED_EVIDENCE)
    if not hmac.compare_digest(found, digest):
        raise FormatError(
            "the claims speak of another public key than the certificate's",
            code="ra-tls.key-hash",
            field="pubkey-hash",
            expected=found.hex(),
            found=digest.hex()[:128],
        )


def _malformed(expected: str, found: str, oid: x509.ObjectIdentifier | None = None) -> FormatError:
    return FormatError(
        "not an RA-TLS certificate",
        code="ra-tls.malformed",
        field=oid.dotted_string if oid else None,
        expected=expected,
        found=found,
    )
