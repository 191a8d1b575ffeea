# SPDX-License-Identifier: Apache-2.0
"""The little DER that the SGX extension of a PCK certificate is written in (ITU-T X.690, section 8)."""

from collections.abc import Mapping


def integer(value: int) -> bytes:
    """Encode an INTEGER, not negative: a leading zero octet where the top bit is set."""
    return _element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    """Encode an OCTET STRING."""
    return _element(0x04, value)


def enumerated(value: int) -> bytes:
    """Encode an ENUMERATED, 0 to 127."""
    return _element(0x0A, bytes([value]))


def boolean(value: bool) -> bytes:
    """Encode a BOOLEAN in its distinguished form."""
    return _element(0x01, b"\xff" if value else b"\x00")


def sequence_of_entries(arc: bytes, entries: Mapping[int, bytes]) -> bytes:
    """Encode SEQUENCE OF SEQUENCE {OID, value}: OIDs are ``arc`` (content octets) and a number below 128."""
    return _element(
        0x30,
        b"".join([_element(0x30, _element(0x06, arc + bytes([number])) + value) for number, value in entries.items()]),
    )


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
