# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of a PCK certificate, OID 1.2.840.113741.1.13.1 (Intel SGX PCK Certificate specification).

The value is SEQUENCE OF SEQUENCE {OID, value}, nested once more for the TCB and the configuration. The declarative
ASN.1 of the cryptography library has no root of that shape and no open value type in it, hence ``dcap.der``.
"""

import enum
import functools
from dataclasses import dataclass
from typing import Final

from cryptography.x509 import ObjectIdentifier

from kubenclave.dcap import der
from kubenclave.errors import FormatError

SGX_EXTENSION: Final = ObjectIdentifier("1.2.840.113741.1.13.1")
_ARC: Final = bytes.fromhex("2a864886f84d010d01")  # the same as DER content octets
_OIDS: Final = bytes((der.OID, len(_ARC) + 1)) + _ARC
_OIDS_OF_TCB: Final = bytes((der.OID, len(_ARC) + 2)) + _ARC + b"\x02"
_OIDS_OF_CONFIGURATION: Final = bytes((der.OID, len(_ARC) + 2)) + _ARC + b"\x07"
_COMPONENTS: Final = range(1, 17)

_Value = tuple[int, bytes]
"""Tag and content of an element."""


class SgxType(enum.IntEnum):
    """Kind of memory protection the platform has."""

    STANDARD = 0
    SCALABLE = 1
    SCALABLE_WITH_INTEGRITY = 2


class PckCa(enum.StrEnum):
    """Which of the two certificate authorities issues for the platform."""

    PROCESSOR = "processor"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """What a PCK certificate says of its platform.

    ``components`` are the 16 component SVNs (0 to 255) by which TCB levels are matched; ``cpu_svn`` (16 bytes) is
    the raw form of the same. The last four fields are None in certificates of the Processor CA.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: SgxType
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None

    @classmethod
    def parse(cls, data: bytes, ca: PckCa) -> "PckExtension":
        """Read the extension's value, in DER. Raises FormatError for anything but the entries that CA's leaves have."""
        try:
            return cls._parse(data, ca)
        except der.DerError as error:
            raise _malformed("structure", "DER", str(error)) from None

    @classmethod
    def _parse(cls, data: bytes, ca: PckCa) -> "PckExtension":
        tag, start, end = der.element(data, 0)
        if (tag, end) != (der.SEQUENCE, len(data)):
            raise _malformed("structure", "one SEQUENCE", f"tag {tag:#04x}, {len(data) - end} bytes behind it")
        entries = _entries(data[start:], _OIDS, 7 if ca is PckCa.PLATFORM else 5)
        components, pce_svn, cpu_svn = _tcb(_content(entries[2], der.SEQUENCE, "TCB"))
        configuration = {}
        if ca is PckCa.PLATFORM:
            content = _content(entries[7], der.SEQUENCE, "configuration")
            configuration = _entries(content, _OIDS_OF_CONFIGURATION, 3)
        return cls(
            ppid=_octets(entries[1], 16, "PPID"),
            components=components,
            pce_svn=pce_svn,
            cpu_svn=cpu_svn,
            pce_id=_octets(entries[3], 2, "PCE-ID"),
            fmspc=_octets(entries[4], 6, "FMSPC"),
            sgx_type=_sgx_type(entries[5]),
            platform_instance_id=_octets(entries[6], 16, "platform instance id") if 6 in entries else None,
            dynamic_platform=_boolean(configuration.get(1)),
            cached_keys=_boolean(configuration.get(2)),
            smt_enabled=_boolean(configuration.get(3)),
        )


@functools.lru_cache(maxsize=256)  # platforms are many, their TCBs are few
def _tcb(content: bytes) -> tuple[tuple[int, ...], int, bytes]:
    """Return component SVNs, PCE SVN and CPUSVN."""
    tcb = _entries(content, _OIDS_OF_TCB, 18)
    components = tuple([_integer(tcb[number], 0xFF) for number in _COMPONENTS])
    return components, _integer(tcb[17], 0xFFFF), _octets(tcb[18], 16, "CPUSVN")


def _entries(content: bytes, oids: bytes, count: int) -> dict[int, _Value]:
    """Return the values of a SEQUENCE OF SEQUENCE {OID, value} by the last number of their OIDs. Raises DerError.

    The OIDs must be ``oids`` followed by each of 1 to ``count`` (all below 128: one octet), in any order.
    """
    found: dict[int, _Value] = {}
    skip = len(oids) + 1
    at, size = 0, len(content)
    while at < size:
        tag, start, end = der.element(content, at)
        at = start + skip
        if tag != der.SEQUENCE or at >= end or not content.startswith(oids, start) or content[at - 1] in found:
            raise _malformed_entry(content[start:end])
        number = content[at - 1]
        tag, start, at = der.element(content, at)
        if at != end:
            raise _malformed_entry(content[start:end])
        found[number] = tag, content[start:at]
    if found.keys() != set(range(1, count + 1)):
        raise _malformed("entries", f"numbers 1 to {count}", str(sorted(found)))
    return found


def _content(element: _Value, tag: int, name: str) -> bytes:
    if element[0] != tag:
        raise _malformed(name, f"ASN.1 tag {tag:#04x}", f"{element[0]:#04x}")
    return element[1]


def _octets(element: _Value, size: int, name: str) -> bytes:
    content = _content(element, der.OCTET_STRING, name)
    if len(content) != size:
        raise _malformed(name, f"{size} bytes", f"{len(content)} bytes")
    return content


def _integer(element: _Value, most: int) -> int:
    content = _content(element, der.INTEGER, "SVN")
    if len(content) == 1 and content[0] < 0x80:  # as most of them are
        return content[0]
    number = int.from_bytes(content, "big", signed=True)
    # Intel's library cuts silently (a signed 263 would be read as 7); here out of range is an error.
    if not content or not 0 <= number <= most or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise _malformed("SVN", f"INTEGER from 0 to {most}", content[:8].hex())
    return number


def _sgx_type(element: _Value) -> SgxType:
    content = _content(element, der.ENUMERATED, "SGX type")
    if len(content) != 1 or content[0] > max(SgxType):
        raise _malformed("SGX type", "0, 1 or 2", content[:8].hex())
    return SgxType(content[0])


def _boolean(element: _Value | None) -> bool | None:
    if element is None:
        return None
    content = _content(element, der.BOOLEAN, "configuration flag")
    if content not in (b"\x00", b"\xff"):
        raise _malformed("configuration flag", "00 or ff", content[:8].hex())
    return content == b"\xff"


def _malformed_entry(found: bytes) -> FormatError:
    return _malformed("entry", "SEQUENCE {OID, value}, one for each number of the specification", found[:24].hex())


def _malformed(field: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "SGX extension of the PCK certificate is malformed",
        code="pck.extension",
        field=field,
        expected=expected,
        found=found,
    )
