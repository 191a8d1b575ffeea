# SPDX-License-Identifier: Apache-2.0
"""States of the simulated platform, and the SVNs in which each shows.

The levels of the simulation's TCB info (``documents``) are these very SVNs, so that a platform in one state reaches
exactly the level of that state.
"""

import enum
from dataclasses import dataclass
from typing import Final

FMSPC: Final = b"SIM\0\0\0"
PCE_ID: Final = bytes(2)
PCE_SVN: Final = 13
"""ISVSVN of the simulated PCE, and PCE SVN of every PCK certificate."""


class PlatformTcb(enum.StrEnum):
    """What a verifier shall come to think of the platform. The last two are refusals for other reasons than SVNs."""

    UP_TO_DATE = "up-to-date"
    OUT_OF_DATE = "out-of-date"
    CONFIGURATION_NEEDED = "configuration-needed"
    SW_HARDENING_NEEDED = "sw-hardening-needed"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "configuration-and-sw-hardening-needed"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "out-of-date-configuration-needed"
    REVOKED = "revoked"
    EXPIRED = "expired"

    @property
    def svns(self) -> "PlatformSvns":
        """The SVNs of the platform in this state."""
        return _SVNS[self]


@dataclass(frozen=True, slots=True)
class PlatformSvns:
    """16 component SVNs (0 to 255) and the SVN of the PCE."""

    components: tuple[int, ...]
    pce_svn: int = PCE_SVN

    @property
    def cpu_svn(self) -> bytes:
        """CPUSVN, 16 bytes: as on all platforms seen, one byte for each component."""
        return bytes(self.components)


def svns(microcode: int, *, configured: bool, hardened: bool) -> PlatformSvns:
    """Return the SVNs of a platform with that microcode; what is lacking shows in the components 7 and 8."""
    return PlatformSvns((microcode, microcode, 3, 3, 255, 255, int(configured), int(hardened), *[0] * 8))


CURRENT_MICROCODE: Final = 14
OLD_MICROCODE: Final = 12
_SVNS: Final = {
    PlatformTcb.UP_TO_DATE: svns(CURRENT_MICROCODE, configured=True, hardened=True),
    PlatformTcb.SW_HARDENING_NEEDED: svns(CURRENT_MICROCODE, configured=True, hardened=False),
    PlatformTcb.CONFIGURATION_NEEDED: svns(CURRENT_MICROCODE, configured=False, hardened=True),
    PlatformTcb.CONFIGURATION_AND_SW_HARDENING_NEEDED: svns(CURRENT_MICROCODE, configured=False, hardened=False),
    PlatformTcb.OUT_OF_DATE: svns(OLD_MICROCODE, configured=True, hardened=False),
    PlatformTcb.OUT_OF_DATE_CONFIGURATION_NEEDED: svns(OLD_MICROCODE, configured=False, hardened=False),
    PlatformTcb.REVOKED: svns(CURRENT_MICROCODE, configured=True, hardened=True),
    PlatformTcb.EXPIRED: svns(CURRENT_MICROCODE, configured=True, hardened=True),
}
