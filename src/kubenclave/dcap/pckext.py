# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of a PCK certificate, OID 1.2.840.113741.1.13.1 (Intel SGX PCK Certificate specification).

The value is SEQUENCE OF SEQUENCE {OID, value}, nested once more for the TCB and the configuration. The declarative
ASN.1 of the cryptography library has no root of that shape and no open value type in it, hence the few lines of
strict DER here.
"""

import enum
from dataclasses import dataclass
from typing import Final

from cryptography.x509 import ObjectIdentifier

from kubenclave.errors import FormatError

SGX_EXTENSION: Final = ObjectIdentifier("1.2.840.113741.1.13.1")
_ARC: Final = bytes.fromhex("2a864886f84d010d01")  # the same as DER content octets
_BOOLEAN, _INTEGER, _OCTET_STRING, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30


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
    def parse(cls, der: bytes, ca: PckCa) -> "PckExtension":
        """Read the extension's value. Raises FormatError for anything but the entries that CA's leaves have."""
        outer = _elements(der)
        if len(outer) != 1:
            raise _malformed("structure", "one SEQUENCE", f"{len(outer)} elements")
        entries = _entries(_content(outer[0], _SEQUENCE, "structure"), _ARC, 7 if ca is PckCa.PLATFORM else 5)
        tcb = _entries(_content(entries[2], _SEQUENCE, "TCB"), _ARC + b"\x02", 18)
        configuration = {}
        if ca is PckCa.PLATFORM:
            configuration = _entries(_content(entries[7], _SEQUENCE, "configuration"), _ARC + b"\x07", 3)
        return cls(
            ppid=_octets(entries[1], 16, "PPID"),
            components=tuple([_integer(tcb[number], 0xFF) for number in range(1, 17)]),
            pce_svn=_integer(tcb[17], 0xFFFF),
            cpu_svn=_octets(tcb[18], 16, "CPUSVN"),
            pce_id=_octets(entries[3], 2, "PCE-ID"),
            fmspc=_octets(entries[4], 6, "FMSPC"),
            sgx_type=_sgx_type(entries[5]),
            platform_instance_id=_octets(entries[6], 16, "platform instance id") if 6 in entries else None,
            dynamic_platform=_boolean(configuration.get(1)),
            cached_keys=_boolean(configuration.get(2)),
            smt_enabled=_boolean(configuration.get(3)),
        )


def _entries(content: bytes, arc: bytes, count: int) -> dict[int, tuple[int, bytes]]:
    """Return the values of a SEQUENCE OF SEQUENCE {OID, value} as (tag, content) by the last number of their OIDs.

    The OIDs must be ``arc`` followed by each of 1 to ``count`` (all below 128: one octet), in any order.
    """
    found: dict[int, tuple[int, bytes]] = {}
    oid = bytes((_OID, len(arc) + 1)) + arc
    start = len(oid) + 1
    for tag, entry in _elements(content):
        values = _elements(entry[start:])
        if tag != _SEQUENCE or len(values) != 1 or not entry.startswith(oid) or entry[start - 1] in found:
            raise _malformed(
                "entry", "SEQUENCE {OID, value}, one for each number of the specification", entry[:24].hex()
            )
        found[entry[start - 1]] = values[0]
    if found.keys() != set(range(1, count + 1)):
        raise _malformed("entries", f"numbers 1 to {count}", str(sorted(found)))
    return found


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return the DER elements that ``data`` consists of as (tag, content). Lengths take at most two octets."""
    size = len(data)
    if size > 1 and data[1] == size - 2 < 0x80:  # one short element, as most values are
        return [(data[0], data[2:])]
    elements: list[tuple[int, bytes]] = []
    at = 0
    while at < size:
        header = data[at : at + 4] + bytes(4)  # padded: what is missing is caught below as content that is missing
        tag, length, start = header[0], header[1], at + 2
        if length == 0x81 and header[2] >= 0x80:
            length, start = header[2], at + 3
        elif length == 0x82 and header[2]:
            length, start = header[2] << 8 | header[3], at + 4
        elif length >= 0x80:
            raise _malformed("length", "the shortest definite form", header[:4].hex())
        at = start + length
        if at > size:
            raise _malformed("length", f"at most {max(0, size - start)}", str(length))
        elements.append((tag, data[start:at]))
    return elements


def _content(element: tuple[int, bytes], tag: int, name: str) -> bytes:
    if element[0] != tag:
        raise _malformed(name, f"ASN.1 tag {tag:#04x}", f"{element[0]:#04x}")
    return element[1]


def _octets(element: tuple[int, bytes], size: int, name: str) -> bytes:
    content = _content(element, _OCTET_STRING, name)
    if len(content) != size:
        raise _malformed(name, f"{size} bytes", f"{len(content)} bytes")
    return content


def _integer(element: tuple[int, bytes], most: int) -> int:
    content = _content(element, _INTEGER, "SVN")
    number = int.from_bytes(content, "big", signed=True)
    # Intel's library cuts silently (a signed 263 would be read as 7); here out of range is an error.
    if not content or not 0 <= number <= most or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise _malformed("SVN", f"INTEGER from 0 to {most}", content[:8].hex())
    return number


def _sgx_type(element: tuple[int, bytes]) -> SgxType:
    content = _content(element, _ENUMERATED, "SGX type")
    if len(content) != 1 or content[0] > max(SgxType):
        raise _malformed("SGX type", "0, 1 or 2", content[:8].hex())
    return SgxType(content[0])


def _boolean(element: tuple[int, bytes] | None) -> bool | None:
    if element is None:
        return None
    content = _content(element, _BOOLEAN, "configuration flag")
    if content not in (b"\x00", b"\xff"):
        raise _malformed("configuration flag", "00 or ff", content[:8].hex())
    return content == b"\xff"


def _malformed(field: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "SGX extension of the PCK certificate is malformed",
        code="pck.extension",
        field=field,
        expected=expected,
        found=found,
    )
