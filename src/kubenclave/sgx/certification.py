# SPDX-License-Identifier: Apache-2.0
"""Certification data: how a quote says which PCK certificate vouches for its quoting enclave.

Sizes and types: Intel DCAP, sgx_quote_3.h (types 1 to 5), sgx_quote_4.h (type 6) and sgx_ql_lib_common.h (7).
"""

import enum
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from kubenclave.errors import FormatError
from kubenclave.sgx.layout import Layout


class CertificationType(enum.IntEnum):
    """Kind of certification data."""

    PPID_CLEARTEXT = 1
    PPID_RSA2048_ENCRYPTED = 2
    PPID_RSA3072_ENCRYPTED = 3
    PCK_LEAF_CERT = 4
    PCK_CERT_CHAIN = 5
    QE_REPORT_CERT = 6
    PLATFORM_MANIFEST = 7


_PPID_SIZES: Final = {
    CertificationType.PPID_CLEARTEXT: 16,
    CertificationType.PPID_RSA2048_ENCRYPTED: 256,
    CertificationType.PPID_RSA3072_ENCRYPTED: 384,
}


@dataclass(frozen=True, slots=True)
class Ppid:
    """Content of types 1 to 3: names a platform whose PCK certificate must be looked up elsewhere.

    ``ppid`` is 16 bytes in clear or 256 or 384 bytes of RSA-OAEP ciphertext.
    """

    LAYOUTS: ClassVar[dict[int, Layout]] = {
        kind: Layout(
            "PPID certification data",
            size + 20,
            [(0, "ppid", size), (size, "cpu_svn", 16), (size + 16, "pce_svn", "H"), (size + 18, "pce_id", "H")],
        )
        for kind, size in _PPID_SIZES.items()
    }

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: int

    @classmethod
    def parse(cls, kind: int, data: bytes) -> Self:
        """Read the content of certification data of type 1, 2 or 3. Raises FormatError for another length."""
        return cls(**cls.LAYOUTS[kind].parse(data))

    def build(self) -> bytes:
        """Return the content; the type follows from the size of ``ppid``."""
        layout = next((each for each in self.LAYOUTS.values() if each.size == len(self.ppid) + 20), None)
        if layout is None:
            raise FormatError(
                "PPID has the wrong size",
                code="format.size",
                field="ppid",
                expected="16, 256 or 384 bytes",
                found=f"{len(self.ppid)} bytes",
            )
        return layout.build({name: getattr(self, name) for name in layout.names})


@dataclass(frozen=True, slots=True)
class CertificationData:
    """Certification data as it stands in a quote: a type and its bytes."""

    kind: CertificationType
    data: bytes

    @property
    def ppid(self) -> Ppid | None:
        """Content of types 1 to 3; None for other types, and where it has not the size of its type.

        Nobody verifies a quote by it, and one of Intel's own samples ends before the PCE id.
        """
        layout = Ppid.LAYOUTS.get(self.kind)
        return Ppid.parse(self.kind, self.data) if layout and layout.size == len(self.data) else None

    @property
    def pck_chain(self) -> bytes | None:
        """PEM text of type 5 without the NUL that Intel's library appends, None for the others."""
        return self.data.rstrip(b"\0") if self.kind is CertificationType.PCK_CERT_CHAIN else None


def certification_type(number: int) -> CertificationType:
    """Return the type of that number. Raises FormatError for one that is not defined."""
    try:
        return CertificationType(number)
    except ValueError:
        raise FormatError(
            "certification data has an unknown type",
            code="quote.certification-type",
            field="certification data type",
            expected="1 to 7",
            found=str(number),
        ) from None
