# SPDX-License-Identifier: Apache-2.0
"""DCAP quotes of version 3, 4 and 5 (Intel DCAP, sgx_quote_3.h, sgx_quote_4.h, sgx_quote_5.h).

A quote is a header, a report body, and a signature section. The attestation key signs header and body
(version 5: with the 6-byte body descriptor between them); the rest vouches for that key.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Final, Self

from kubenclave.errors import FormatError
from kubenclave.sgx.certification import CertificationData, CertificationType, certification_type
from kubenclave.sgx.cursor import Cursor
from kubenclave.sgx.layout import Layout
from kubenclave.sgx.report import REPORT_BODY_SIZE, ReportBody
from kubenclave.sgx.tdreport import TdReport10, TdReport15, TdReport15Ex

INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER: Final = Layout(
    "quote header",
    48,
    [
        (0, "version", "H"),
        (2, "attestation_key_type", "H"),
        (4, "tee_type", "I"),
        (8, "qe_svn", "H"),
        (10, "pce_svn", "H"),
        (12, "qe_vendor_id", 16),
        (28, "user_data", 20),
    ],
)
_DESCRIPTOR: Final = struct.Struct("<HI")


class TeeType(enum.IntEnum):
    """What kind of trusted execution environment a quote speaks of."""

    SGX = 0x00
    TDX = 0x81


class AttestationKeyType(enum.IntEnum):
    """Algorithm of the attestation key; only P-256 is in use."""

    ECDSA_P256 = 2
    ECDSA_P384 = 3


class BodyType(enum.IntEnum):
    """Body type word of a version 5 quote."""

    SGX_REPORT = 1
    TD_REPORT_10 = 2
    TD_REPORT_15 = 3
    TD_REPORT_15_EX = 4


Body = ReportBody | TdReport10

_BODIES: Final[dict[BodyType, tuple[type[Body], int, TeeType]]] = {
    BodyType.SGX_REPORT: (ReportBody, REPORT_BODY_SIZE, TeeType.SGX),
    BodyType.TD_REPORT_10: (TdReport10, TdReport10.LAYOUT.size, TeeType.TDX),
    BodyType.TD_REPORT_15: (TdReport15, TdReport15.LAYOUT.size, TeeType.TDX),
    BodyType.TD_REPORT_15_EX: (TdReport15Ex, TdReport15Ex.LAYOUT.size, TeeType.TDX),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes. ``qe_svn`` and ``pce_svn`` inform only; no TCB rule looks at them."""

    version: int
    attestation_key_type: AttestationKeyType = AttestationKeyType.ECDSA_P256
    tee_type: TeeType
    qe_svn: int = 0
    pce_svn: int = 0
    qe_vendor_id: bytes = INTEL_QE_VENDOR_ID
    user_data: bytes = bytes(20)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the header at the start of ``data``.

        Raises FormatError when version, key type or TEE type are none this parser knows the sequel of.
        """
        version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.values(data)
        if version not in (3, 4, 5):
            raise _unknown("version", "3, 4 or 5", version)
        if key_type != AttestationKeyType.ECDSA_P256:
            raise _unknown("attestation_key_type", "2 (ECDSA with P-256)", key_type)
        if tee_type not in (TeeType.SGX, TeeType.TDX) or (version == 3 and tee_type != TeeType.SGX):
            raise _unknown("tee_type", "0 (SGX)" if version == 3 else "0 (SGX) or 129 (TDX)", tee_type)
        return cls(
            version=version,
            attestation_key_type=AttestationKeyType.ECDSA_P256,
            tee_type=TeeType.SGX if tee_type == 0 else TeeType.TDX,
            qe_svn=qe_svn,
            pce_svn=pce_svn,
            qe_vendor_id=vendor,
            user_data=user_data,
        )

    def build(self) -> bytes:
        """Return the 48 bytes."""
        return _HEADER.build({name: getattr(self, name) for name in _HEADER.names})


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """The signature section: the quote's signature, and everything that vouches for its key.

    ``signature`` and ``qe_report_signature`` are 64 bytes r‖s, ``attestation_key`` 64 bytes x‖y, all big-endian.
    ``qe_report`` are the 384 raw bytes that the PCK key signed. ``rest`` are bytes behind it all, still inside the
    section: nobody signs or reads them, and other verifiers let them pass as well.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_data: CertificationData
    rest: bytes = b""

    @classmethod
    def parse(cls, data: bytes, version: int) -> Self:
        """Read a whole signature section.

        Raises FormatError, also for bytes left over inside the QE report certification data of versions 4 and 5.
        """
        section = cursor = Cursor(data, "quote signature")
        signature = section.take(64, "signature")
        attestation_key = section.take(64, "attestation_key")
        if version > 3:
            outer = section.u16("certification data type")
            if outer != CertificationType.QE_REPORT_CERT:
                raise _unknown("certification data type", "6 (QE report)", outer, code="quote.certification-type")
            inner = section.take(section.u32("certification data size"), "certification data")
            cursor = Cursor(inner, "QE report certification data")
        qe_report = cursor.take(REPORT_BODY_SIZE, "qe_report")
        qe_report_signature = cursor.take(64, "qe_report_signature")
        qe_auth_data = cursor.take(cursor.u16("qe_auth_data size"), "qe_auth_data")
        kind = certification_type(cursor.u16("certification data type"))
        if kind is CertificationType.QE_REPORT_CERT:
            raise _unknown("certification data type", "not 6 again", 6, code="quote.certification-type")
        certification = cursor.take(cursor.u32("certification data size"), "certification data")
        if cursor is not section:
            cursor.finish()
        return cls(
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            CertificationData(kind, certification),
            section.take(section.left, "rest"),
        )

    def build(self, version: int) -> bytes:
        """Return the section's bytes in the nesting of that quote version."""
        vouching = b"".join(
            (
                self.qe_report,
                self.qe_report_signature,
                struct.pack("<H", len(self.qe_auth_data)),
                self.qe_auth_data,
                _DESCRIPTOR.pack(self.certification_data.kind, len(self.certification_data.data)),
                self.certification_data.data,
            )
        )
        if version > 3:
            vouching = _DESCRIPTOR.pack(CertificationType.QE_REPORT_CERT, len(vouching)) + vouching
        return self.signature + self.attestation_key + vouching + self.rest


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed quote. ``signed`` are the very bytes that the attestation key signed."""

    header: QuoteHeader
    body_type: BodyType
    body: Body
    signature: QuoteSignature
    signed: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the quote at the start of ``data``; bytes behind it (real quotes come padded) are not looked at.

        Raises FormatError when the bytes are not a quote.
        """
        header = QuoteHeader.parse(data)
        cursor = Cursor(data, "quote")
        cursor.offset = _HEADER.size
        body_type = _body_type(header, cursor)
        kind, size, _ = _BODIES[body_type]
        body = kind.parse(cursor.take(size, "report body"))
        signed = data[: cursor.offset]
        section = cursor.take(cursor.u32("signature size"), "signature")
        return cls(header, body_type, body, QuoteSignature.parse(section, header.version), signed)

    def build(self) -> bytes:
        """Return the quote's bytes, ``signed`` verbatim."""
        section = self.signature.build(self.header.version)
        return self.signed + struct.pack("<I", len(section)) + section


def signed_part(header: QuoteHeader, body_type: BodyType, body: Body) -> bytes:
    """Return the bytes an attestation key has to sign for a quote of that header and body."""
    encoded = body.build()
    descriptor = _DESCRIPTOR.pack(body_type, len(encoded)) if header.version == 5 else b""
    return header.build() + descriptor + encoded


def _body_type(header: QuoteHeader, cursor: Cursor) -> BodyType:
    if header.version < 5:
        return BodyType.SGX_REPORT if header.tee_type is TeeType.SGX else BodyType.TD_REPORT_10
    number, size = cursor.u16("body type"), cursor.u32("body size")
    if number not in _BODIES:
        raise _unknown("body type", "1 to 4", number)
    _, wanted, tee_type = _BODIES[BodyType(number)]
    if tee_type is not header.tee_type:
        raise _unknown("body type", f"one that fits TEE type {header.tee_type.name}", number)
    if size != wanted:
        raise _unknown("body size", str(wanted), size)
    return BodyType(number)


def _unknown(field: str, expected: str, found: int, code: str = "quote.unsupported") -> FormatError:
    return FormatError("not a quote this version can read", code=code, field=field, expected=expected, found=str(found))
