# SPDX-License-Identifier: Apache-2.0
"""Revocation lists. As with chains nothing here looks at a clock."""

from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from kubenclave.dcap import der
from kubenclave.dcap.chain import Certificate, Dated, bad_signature, common_name_of, malformed_as, verify_signature
from kubenclave.errors import TrustError

_PARTIAL: Final = frozenset({x509.DeltaCRLIndicator.oid, x509.IssuingDistributionPoint.oid})


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A CRL that its issuer signed."""

    raw: x509.CertificateRevocationList = field(repr=False)
    dated: Dated

    def refuse(self, certificate: Certificate, code: str) -> None:
        """Raise TrustError when the certificate is on the list, whatever date stands there.

        Intel dates every entry with the list itself, so the date says nothing about when trust ended.
        """
        if self.raw.get_revoked_certificate_by_serial_number(certificate.raw.serial_number) is not None:
            raise TrustError(
                f"{certificate.dated.what} is revoked",
                code=code,
                field=certificate.dated.what,
                expected=f"not on {self.dated.what}",
                found=f"serial number {certificate.raw.serial_number:x}",
                hint="the platform's owner must have it certified anew after a TCB recovery",
            )


def verify_crl(data: bytes, what: str, issuer: bytes, issuer_key: ec.EllipticCurvePublicKey) -> RevocationList:
    """Check a CRL (DER) against the issuer it has to come from, ``issuer`` being its name in DER.

    Raises TrustError; the codes begin with ``crl``.
    """
    with malformed_as(what, "crl.malformed"):
        return _verify_crl(data, what, issuer, issuer_key)


def _verify_crl(data: bytes, what: str, issuer: bytes, issuer_key: ec.EllipticCurvePublicKey) -> RevocationList:
    crl, parts = x509.load_der_x509_crl(data), der.crl(data)
    if parts.issuer != issuer:
        raise TrustError(
            f"{what} comes from somebody else",
            code="crl.issuer",
            expected=common_name_of(issuer),
            found=crl.issuer.rfc4514_string()[:200],
        )
    extensions = list(crl.extensions)
    present = {extension.oid for extension in extensions}
    # A list that covers only some certificates has to say so critically; one that says so at all is refused.
    partial = any(extension.critical or extension.oid in _PARTIAL for extension in extensions)
    if partial or not {x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid} <= present or crl.next_update_utc is None:
        raise TrustError(
            f"{what} is not of the kind Intel issues",
            code="crl.extensions",
            expected="CRL number, authority key identifier, next update, all certificates, no critical extension",
            found=", ".join(sorted(oid.dotted_string for oid in present))[:200] or "no extension",
        )
    if crl.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise bad_signature(what, "crl.signature")
    verify_signature(issuer_key, crl.signature, parts.tbs, what, "crl.signature")
    return RevocationList(crl, Dated(what, crl.last_update_utc, crl.next_update_utc, is_collateral=True))
