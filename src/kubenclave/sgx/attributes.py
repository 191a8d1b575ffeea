# SPDX-License-Identifier: Apache-2.0
"""ATTRIBUTES and MISCSELECT of an enclave (SDM vol. 3D, SECS.ATTRIBUTES and SECS.MISCSELECT)."""

import enum
import struct
from dataclasses import dataclass
from typing import Final, Self

from kubenclave.errors import FormatError
from kubenclave.sgx.layout import wrong_size

_STRUCT: Final = struct.Struct("<QQ")


class AttributeFlags(enum.IntFlag):
    """FLAGS, the first 8 bytes of ATTRIBUTES."""

    INIT = 0x01
    DEBUG = 0x02
    MODE64BIT = 0x04
    PROVISION_KEY = 0x10
    EINITTOKEN_KEY = 0x20
    CET = 0x40
    KSS = 0x80
    AEX_NOTIFY = 0x400


class Xfrm(enum.IntFlag):
    """XFRM, the second 8 bytes of ATTRIBUTES: processor state components, bits as in XCR0."""

    X87 = 0x1
    SSE = 0x2
    AVX = 0x4
    BNDREGS = 0x8
    BNDCSR = 0x10
    OPMASK = 0x20
    ZMM_HI256 = 0x40
    HI16_ZMM = 0x80
    PKRU = 0x200
    TILECFG = 0x20000
    TILEDATA = 0x40000


class MiscSelect(enum.IntFlag):
    """MISCSELECT: which extra data an asynchronous exit stores."""

    EXINFO = 0x1
    CPINFO = 0x2


_DEBUG: Final = AttributeFlags.DEBUG.value  # arithmetic on the enum itself takes ten times as long


@dataclass(frozen=True, slots=True)
class Attributes:
    """ATTRIBUTES, 16 bytes: u64 FLAGS and u64 XFRM. Unknown bits are kept."""

    flags: int
    xfrm: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 16 bytes. Raises FormatError for another length."""
        if len(data) != _STRUCT.size:
            raise wrong_size("ATTRIBUTES", _STRUCT.size, len(data))
        return cls(*_STRUCT.unpack(data))

    def build(self) -> bytes:
        """Return the 16 bytes. Raises FormatError when a half does not fit 64 bits."""
        try:
            return _STRUCT.pack(self.flags, self.xfrm)
        except struct.error:
            raise FormatError("a value does not fit ATTRIBUTES", code="format.value") from None

    @property
    def debug(self) -> bool:
        """Whether the enclave's memory can be read from outside."""
        return self.flags & _DEBUG != 0

    def names(self) -> list[str]:
        """Names of the FLAGS bits that are set, unknown ones in hex, lowest first."""
        return _bit_names(AttributeFlags, self.flags)


def _bit_names(kind: type[enum.IntFlag], value: int) -> list[str]:
    bits = (1 << position for position in range(value.bit_length()))
    known = {flag.value: flag.name for flag in kind}
    return [str(known.get(bit, hex(bit))) for bit in bits if value & bit]
