# SPDX-License-Identifier: Apache-2.0
"""Strict reading of DER (ITU-T X.690): one element after the other, each length in its shortest form.

The X.509 library reads certificates and lists. This is for what it has no type for (the SGX extension), and for what
is needed as the very bytes that stand there: what was signed, and names, which are compared octet by octet.
"""

from typing import Final, NamedTuple

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OID: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
_STRINGS: Final = frozenset({0x0C, 0x13})  # UTF8String, PrintableString
_VERSION: Final = 0xA0  # [0] EXPLICIT


class DerError(ValueError):
    """Bytes that are not the DER expected."""


class CertificateParts(NamedTuple):
    """What was signed, the names and the public key of a certificate, each the element that stands there."""

    tbs: bytes
    issuer: bytes
    subject: bytes
    public_key_info: bytes


class CrlParts(NamedTuple):
    """What was signed and the name of the issuer of a revocation list, each the element that stands there."""

    tbs: bytes
    issuer: bytes


def element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at ``at``. Raises DerError.

    Tags take one octet; lengths at most four behind the first.
    """
    try:
        tag, size = data[at], data[at + 1]
    except IndexError:
        raise DerError("ends within an element's header") from None
    start = at + 2
    if size >= 0x80:
        count = size - 0x80
        octets = data[start : start + count]
        size = int.from_bytes(octets, "big")
        if not 0 < count <= 4 or len(octets) < count or size < 0x80 or octets[0] == 0:
            raise DerError("length is not in its shortest form")
        start += count
    end = start + size
    if end > len(data):
        raise DerError(f"an element of {size} bytes where {len(data) - start} are left")
    return tag, start, end


def certificate(data: bytes) -> CertificateParts:
    """Return the parts of an X.509 certificate (RFC 5280, section 4.1). Raises DerError."""
    tbs, at = _signed(data)
    if data[at] == _VERSION:
        at = element(data, at)[2]
    issuer = _skip(data, at, 2)  # serial number, algorithm
    validity = _skip(data, issuer, 1)
    subject = _skip(data, validity, 1)
    key = _skip(data, subject, 1)
    return CertificateParts(tbs, data[issuer:validity], data[subject:key], data[key : element(data, key)[2]])


def crl(data: bytes) -> CrlParts:
    """Return the parts of a certificate revocation list (RFC 5280, section 5.1). Raises DerError."""
    tbs, at = _signed(data)
    issuer = _skip(data, at, 2 if data[at] == INTEGER else 1)  # version, algorithm
    return CrlParts(tbs, data[issuer : element(data, issuer)[2]])


def attributes(name: bytes, oid: bytes) -> list[bytes]:
    """Return the values in a name (RFC 5280, section 4.1.2.4) of the attributes of one type. Raises DerError.

    Only strings in UTF-8 or of its printable part count: Intel writes no others.
    """
    found = []
    _, at, end = element(name, 0)
    while at < end:
        _, inner, at = element(name, at)  # RelativeDistinguishedName
        while inner < at:
            _, start, inner = element(name, inner)  # AttributeTypeAndValue
            _, start, value = element(name, start)
            if name[start:value] == oid:
                tag, start, stop = element(name, value)
                found.append(name[start:stop] if tag in _STRINGS else b"")
    return found


def _signed(data: bytes) -> tuple[bytes, int]:
    """Return the first element within the one that ``data`` is, and where its content starts."""
    tag, start, end = element(data, 0)
    inner_tag, at, inner_end = element(data, start)
    if (tag, inner_tag, end) != (SEQUENCE, SEQUENCE, len(data)) or at == inner_end:
        raise DerError("not one SEQUENCE that begins with a SEQUENCE")
    return data[start:inner_end], at


def _skip(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at = element(data, at)[2]
    return at
