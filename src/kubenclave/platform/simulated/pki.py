# SPDX-License-Identifier: Apache-2.0
"""The simulation's own public key infrastructure, in the shape of Intel's (Intel SGX PCK Certificate specification).

A root, the two PCK CAs and a TCB signer, all derived from one seed; signatures are deterministic (RFC 6979), so that
the same inputs give the same bytes. Common names are Intel's, because verifiers go by them; the organisation says
SIMULATED. Nothing here looks at a clock.

A certificate is issued from a ``CertificateTemplate``. What a test wants broken it changes in the template
(``dataclasses.replace``), or it has another role sign it.
"""

import datetime as dt
import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kubenclave.dcap.pckext import SGX_EXTENSION, PckCa, PckExtension
from kubenclave.errors import UsageError
from kubenclave.platform.simulated.der import boolean, enumerated, integer, octets, sequence_of_entries

ORGANISATION: Final = "kubenclave SIMULATED"
NOT_BEFORE: Final = dt.datetime(2018, 5, 21, 10, 45, 10, tzinfo=dt.UTC)
NOT_AFTER: Final = dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""All certificates last as long as Intel's root: a simulation has no reason to stop in between."""

SEED_SIZE: Final = 32
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
_SHA256: Final = hashes.SHA256()
_DETERMINISTIC: Final = ec.ECDSA(_SHA256, deterministic_signing=True)
_HOST: Final = "https://simulated.invalid"  # RFC 6761: resolves nowhere, so nobody fetches Intel's list by mistake
_ROOT_CRL: Final = f"{_HOST}/IntelSGXRootCA.der"
_SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1


class Role(enum.StrEnum):
    """Who holds a key. The value is the common name of the certificate, in Intel's words."""

    ROOT = "Intel SGX Root CA"
    PROCESSOR_CA = "Intel SGX PCK Processor CA"
    PLATFORM_CA = "Intel SGX PCK Platform CA"
    TCB_SIGNER = "Intel SGX TCB Signing"

    @classmethod
    def of(cls, ca: PckCa) -> "Role":
        """Return the role of a PCK CA."""
        return cls.PLATFORM_CA if ca is PckCa.PLATFORM else cls.PROCESSOR_CA


PCK_NAME: Final = "Intel SGX PCK Certificate"
_CA_ROLES: Final = frozenset({Role.ROOT, Role.PROCESSOR_CA, Role.PLATFORM_CA})


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateTemplate:
    """What a certificate is going to say. ``serial`` is at most 159 bits.

    ``sgx`` is the DER value of the SGX extension, None for none. ``without`` names standard extensions to leave out,
    ``extra`` adds others as (value, critical): both only for tests of verifiers.
    """

    subject: str
    issuer: str
    public_key: ec.EllipticCurvePublicKey
    serial: int
    crl_url: str
    ca: bool
    path_length: int | None = None
    not_before: dt.datetime = NOT_BEFORE
    not_after: dt.datetime = NOT_AFTER
    sgx: bytes | None = None
    without: frozenset[x509.ObjectIdentifier] = frozenset()
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Pki:
    """Keys and certificates of one simulated world. Made by ``from_seed``."""

    seed: bytes = field(repr=False)
    keys: Mapping[Role, ec.EllipticCurvePrivateKey] = field(repr=False)
    certificates: Mapping[Role, x509.Certificate]

    @classmethod
    def from_seed(cls, seed: bytes) -> "Pki":
        """Derive everything from 32 bytes. Raises UsageError for another length."""
        if len(seed) != SEED_SIZE:
            raise UsageError(
                "seed of the simulated PKI has the wrong size",
                code="simulated.seed",
                expected=f"{SEED_SIZE} bytes",
                found=f"{len(seed)} bytes",
            )
        keys = {role: derive_key(seed, f"key of {role}") for role in Role}
        pki = cls(seed, keys, {})
        return cls(seed, keys, {role: pki.issue(pki.template(role)) for role in Role})

    @property
    def root_der(self) -> bytes:
        """The root certificate in DER: what a verifier has to be given to accept anything simulated."""
        return self.certificates[Role.ROOT].public_bytes(Encoding.DER)

    def template(self, role: Role, **changes: Any) -> CertificateTemplate:
        """Return what the certificate of a role says, with ``changes`` to fields of the template."""
        template = CertificateTemplate(
            subject=role,
            issuer=Role.ROOT,
            public_key=self.keys[role].public_key(),
            serial=self.serial(role.encode()),
            crl_url=_ROOT_CRL,
            ca=role in _CA_ROLES,
            path_length={Role.ROOT: 1, Role.TCB_SIGNER: None}.get(role, 0),
        )
        return replace(template, **changes)

    def pck_template(
        self, public_key: ec.EllipticCurvePublicKey, extension: PckExtension, ca: PckCa, **changes: Any
    ) -> CertificateTemplate:
        """Return what a PCK leaf says, with ``changes`` to fields of the template.

        Its serial number follows from the key and the extension: a re-issued leaf for another TCB has another one.
        """
        sgx = sgx_extension(sgx_entries(extension))
        point = _point(public_key)
        template = CertificateTemplate(
            subject=PCK_NAME,
            issuer=Role.of(ca),
            public_key=public_key,
            serial=self.serial(point + sgx + ca.encode()),
            crl_url=f"{_HOST}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der",
            ca=False,
            sgx=sgx,
        )
        return replace(template, **changes)

    def issue(
        self,
        template: CertificateTemplate,
        *,
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        """Sign a template with the key of the role it names as issuer, or with ``signer``."""
        key = signer or self.keys[Role(template.issuer)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(distinguished_name(template.subject))
            .issuer_name(distinguished_name(template.issuer))
            .public_key(template.public_key)
            .serial_number(template.serial)
            .not_valid_before(template.not_before)
            .not_valid_after(template.not_after)
        )
        for extension, critical in _extensions(template, key.public_key()):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key, _SHA256, ecdsa_deterministic=True)

    def crl(
        self,
        role: Role,
        this_update: dt.datetime,
        next_update: dt.datetime,
        *,
        revoked: Iterable[int] = (),
        number: int | None = 1,
        authority_key: bool = True,
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """Return the DER of the list of a CA; ``revoked`` are serial numbers.

        As with Intel each entry is dated like the list, the reason is keyCompromise, and the CRL number stays 1.
        None or False leave out the number or the authority key identifier; ``signer`` signs in the CA's place.
        """
        key = signer or self.keys[role]
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(distinguished_name(role))
            .last_update(this_update)
            .next_update(next_update)
        )
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        if authority_key:
            builder = builder.add_extension(_authority(key.public_key()), critical=False)
        for serial in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(this_update)
                .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
                .build()
            )
        return builder.sign(key, _SHA256, ecdsa_deterministic=True).public_bytes(Encoding.DER)

    def sign(self, role: Role, message: bytes) -> bytes:
        """Return the raw signature r‖s, 64 bytes, of a message by the key of a role."""
        return raw_signature(self.keys[role], message)

    def serial(self, content: bytes) -> int:
        """Return a serial number of 159 bits that follows from the seed and ``content``."""
        digest = hashlib.sha256(b"kubenclave simulated serial number\0" + self.seed + content).digest()
        return int.from_bytes(digest[:20], "big") >> 1 | 1 << 158  # 20 octets in DER, positive


def pem_chain(*certificates: x509.Certificate) -> bytes:
    """Return the certificates in PEM, in the given order (Intel's: signer first, root last)."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def derive_key(secret: bytes, purpose: str) -> ec.EllipticCurvePrivateKey:
    """Derive a P-256 key from a secret: HKDF-SHA256 to 384 bits, then modulo the order (FIPS 186-5, A.2.1)."""
    info = b"kubenclave simulated " + purpose.encode()
    wide = HKDF(algorithm=_SHA256, length=48, salt=None, info=info).derive(secret)
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return the deterministic ECDSA signature r‖s (64 bytes, big-endian) over the message's SHA-256."""
    r, s = utils.decode_dss_signature(key.sign(message, _DETERMINISTIC))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def distinguished_name(common_name: str) -> x509.Name:
    """Return the name of a certificate: Intel's form, another organisation."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def sgx_entries(extension: PckExtension) -> dict[int, bytes]:
    """Return the DER values of the SGX extension by the last number of their OIDs: 5 entries or 7.

    ``components`` and ``cpu_svn`` are written as given, even where they contradict each other.
    """
    tcb = {number: integer(svn) for number, svn in enumerate(extension.components, 1)}
    tcb |= {17: integer(extension.pce_svn), 18: octets(extension.cpu_svn)}
    entries = {
        1: octets(extension.ppid),
        2: sequence_of_entries(_SGX_ARC + b"\x02", tcb),
        3: octets(extension.pce_id),
        4: octets(extension.fmspc),
        5: enumerated(extension.sgx_type),
    }
    if extension.platform_instance_id is not None:
        flags = (extension.dynamic_platform, extension.cached_keys, extension.smt_enabled)
        configuration = {number: boolean(bool(flag)) for number, flag in enumerate(flags, 1)}
        entries[6] = octets(extension.platform_instance_id)
        entries[7] = sequence_of_entries(_SGX_ARC + b"\x07", configuration)
    return entries


def sgx_extension(entries: Mapping[int, bytes]) -> bytes:
    """Return the DER value of the SGX extension from its entries (numbers below 128)."""
    return sequence_of_entries(_SGX_ARC, entries)


def _extensions(
    template: CertificateTemplate, issuer_key: ec.EllipticCurvePublicKey
) -> list[tuple[x509.ExtensionType, bool]]:
    name = x509.UniformResourceIdentifier(template.crl_url)
    point = x509.DistributionPoint([name], relative_name=None, reasons=None, crl_issuer=None)
    standard: list[tuple[x509.ExtensionType, bool]] = [
        (_authority(issuer_key), False),
        (x509.CRLDistributionPoints([point]), False),
        (x509.SubjectKeyIdentifier.from_public_key(template.public_key), False),
        (_key_usage(ca=template.ca), True),
        (x509.BasicConstraints(ca=template.ca, path_length=template.path_length), True),
    ]
    if template.sgx is not None:
        standard.append((x509.UnrecognizedExtension(SGX_EXTENSION, template.sgx), False))
    return [each for each in standard if each[0].oid not in template.without] + list(template.extra)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
