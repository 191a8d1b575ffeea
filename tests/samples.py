# SPDX-License-Identifier: Apache-2.0
"""Structures put together byte by byte, from the offsets of the specification and without the code under test.

Contents are different in every byte, so that a field read from a wrong place is never right by chance.
"""

import hashlib
import struct
from typing import Final

_P: Final = int(
    "f3bcccef664ae2ae14104145cae1828947828e03217033cfacbb32018acc6919d48b5ba88888e9afb4ef9e9d2a01359bc2eae581"
    "3b4048dd5a38e1a6e2936d4586ea9ab76fde9ed3b2ef6007fe40ad0b1b180e40118331909b8782dc008fa823f38b6034c3f6f9ed"
    "008417923dd57c1ae15af4a512f75e6fe6777232eb69ea5adddbfe759148cc620deb3d8ca1ec22a9e36ddb817f03e4350ba03778"
    "6eea3b2bacd086790adcb83cc30e2d3db5b14cd58cf119c32b3e05198bca5e5ce89f6aa3",
    16,
)
_Q: Final = int(
    "e3143ab26507be8a26df785de1bf80a801d2b83c663109991efba6b56fd01e2123560eae08b07e2ab9706d70447e206bff65fc76"
    "9d3144d85e5daf13a48ef6b2f6e4d50234ef79d9503343b8c7f6674caf7e852de87e79606f934c1698ae403ecb3eede32e534668"
    "652de086f6ad2872e123c461b61b5b82da8cc76cec9c51f8471b5cdba95704184fba5e94d0193516d75af0454257d02cf7308ef9"
    "384953183f4dd59ecb522e83eebc419f25a01a8a0a3f873ebe651b77b6d80b26ce745abf",
    16,
)
# An RSA-3072 key with exponent 3 that everybody may know: it signs nothing but test enclaves.
MODULUS: Final = _P * _Q
PRIVATE_EXPONENT: Final = pow(3, -1, (_P - 1) * (_Q - 1))

INTEL_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX_BODY, TD_10, TD_15, TD_15_EX = 1, 2, 3, 4
BODY_SIZES: Final = {SGX_BODY: 384, TD_10: 584, TD_15: 648, TD_15_EX: 885}
SGX_RESERVED: Final = ((21, 11), (96, 32), (160, 32), (262, 42))


def pattern(name: str, size: int) -> bytes:
    """Bytes that look random and are the same each time."""
    return hashlib.shake_256(name.encode()).digest(size)


def sgx_body(name: str = "body", *, reserved: bool = False) -> bytes:
    """384 bytes, with zeros where the specification reserves them unless told otherwise."""
    body = bytearray(pattern(name, 384))
    if not reserved:
        for offset, size in SGX_RESERVED:
            body[offset : offset + size] = bytes(size)
    return bytes(body)


def body_of(body_type: int) -> bytes:
    """A body of that type in the numbers of version 5."""
    return sgx_body() if body_type == SGX_BODY else pattern(f"td {body_type}", BODY_SIZES[body_type])


def header(version: int, tee_type: int, *, key_type: int = 2, vendor: bytes = INTEL_VENDOR) -> bytes:
    """48 bytes."""
    return struct.pack("<HHIHH", version, key_type, tee_type, 9, 13) + vendor + pattern("user data", 20)


def signature_section(
    version: int,
    kind: int = 5,
    certification: bytes = b"-----BEGIN CERTIFICATE-----\n\0",
    auth: bytes = bytes(range(32)),
    *,
    outer_kind: int = 6,
    inside: bytes = b"",
    rest: bytes = b"",
) -> bytes:
    """Everything behind the length word; ``inside`` and ``rest`` are bytes too many in the blob and behind it."""
    vouching = sgx_body("qe report") + pattern("qe signature", 64)
    vouching += struct.pack("<H", len(auth)) + auth
    vouching += struct.pack("<HI", kind, len(certification)) + certification + inside
    if version > 3:
        vouching = struct.pack("<HI", outer_kind, len(vouching)) + vouching
    return pattern("signature", 64) + pattern("attestation key", 64) + vouching + rest


def quote(version: int, body_type: int = SGX_BODY, section: bytes | None = None, *, body: bytes | None = None) -> bytes:
    """A whole quote; nothing in it is signed."""
    body = body or body_of(body_type)
    signed = header(version, 0 if body_type == SGX_BODY else 0x81)
    if version == 5:
        signed += struct.pack("<HI", body_type, len(body))
    section = signature_section(version) if section is None else section
    return signed + body + struct.pack("<I", len(section)) + section


QUOTES: Final = {
    "v3": (3, SGX_BODY),
    "v4-sgx": (4, SGX_BODY),
    "v4-tdx": (4, TD_10),
    "v5-sgx": (5, SGX_BODY),
    "v5-tdx-1.0": (5, TD_10),
    "v5-tdx-1.5": (5, TD_15),
    "v5-tdx-1.5-ex": (5, TD_15_EX),
}
"""Every kind of quote: version and body type."""


def elf(*segments: tuple[int, int, int, int, int], machine: int = 62, entry: int = 0x1010, size: int = 0x400) -> bytes:
    """An ELF file with (flags, offset, address, bytes in file, bytes in memory) as its PT_LOADs, and one PT_NOTE."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, entry, 64, 0, 0, 64, 56, len(segments) + 1, 0, 0, 0)
    table = struct.pack("<IIQQQQQQ", 4, 4, 0, 0, 0, 8, 8, 4)
    for flags, offset, address, in_file, in_memory in segments:
        table += struct.pack("<IIQQQQQQ", 1, flags, offset, address, 0, in_file, in_memory, 4096)
    return (header + table).ljust(size, b"\x90")


PAL: Final = elf((5, 0, 0x1000, 0x200, 0x1800), (6, 0x200, 0x4010, 0x10, 0x20), (4, 0, 0x9000, 0, 0))
"""A PAL of three segments, one of them empty."""
