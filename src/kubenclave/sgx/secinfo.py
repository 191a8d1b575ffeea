# SPDX-License-Identifier: Apache-2.0
"""SECINFO: access rights and type of one enclave page (SDM vol. 3D, SECINFO and EADD)."""

import enum
from dataclasses import dataclass
from typing import Final, Self

from kubenclave.errors import FormatError
from kubenclave.sgx.layout import Layout

SECINFO_SIZE: Final = 64
_LAYOUT: Final = Layout("SECINFO", SECINFO_SIZE, [(0, "flags", "Q")])


class SecInfoFlags(enum.IntFlag):
    """The low byte of SECINFO.FLAGS."""

    R = 0x01
    W = 0x02
    X = 0x04
    PENDING = 0x08
    MODIFIED = 0x10
    PR = 0x20


class PageType(enum.IntEnum):
    """Bits 15:8 of SECINFO.FLAGS."""

    SECS = 0
    TCS = 1
    REG = 2
    VA = 3
    TRIM = 4
    SS_FIRST = 5
    SS_REST = 6


_ACCESS: Final = int(SecInfoFlags.R | SecInfoFlags.W | SecInfoFlags.X)  # a number: ~ on a flag forgets unnamed bits
_ADDABLE: Final = (PageType.TCS, PageType.REG)


@dataclass(frozen=True, slots=True)
class SecInfo:
    """What a page is: FLAGS, 64 bits. In practice TCS 0x100, REG R 0x201, RW 0x203, RX 0x205, RWX 0x207."""

    flags: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 64 bytes. Raises FormatError for another length or reserved bytes that are not zero."""
        return cls(**_LAYOUT.parse(data))

    def build(self) -> bytes:
        """Return the 64 bytes. Raises FormatError when the flags do not fit 64 bits."""
        return _LAYOUT.build({"flags": self.flags})

    def as_added(self) -> "SecInfo":
        """Return what EADD makes of it: a TCS loses its access bits. Raises FormatError for pages it refuses.

        Hardware answers those with #GP: another type than TCS and REG, W without R, state bits that only later
        instructions may set, undefined bits.
        """
        page_type, low = self.flags >> 8, self.flags & 0xFF
        if page_type not in _ADDABLE:
            raise _refused("page type 1 (TCS) or 2 (REG)", str(page_type))
        if low & ~_ACCESS:
            raise _refused("none of PENDING, MODIFIED, PR and undefined bits", hex(self.flags))
        if page_type == PageType.TCS:
            return SecInfo(PageType.TCS << 8)
        if low & SecInfoFlags.W and not low & SecInfoFlags.R:
            raise _refused("R beside W", hex(self.flags))
        return self


def _refused(expected: str, found: str) -> FormatError:
    return FormatError(
        "a page with this SECINFO cannot be added", code="secinfo.flags", field="FLAGS", expected=expected, found=found
    )
