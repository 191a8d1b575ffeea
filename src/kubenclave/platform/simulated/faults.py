# SPDX-License-Identifier: Apache-2.0
"""How the SIMULATED CPU says no."""

from typing import Final

from kubenclave.errors import PlatformError
from kubenclave.wire.simcpu import Code


class CpuError(PlatformError):
    """A leaf function refused: ``answer`` is the code it returns, the message the reason for people."""

    def __init__(self, answer: Code, reason: str) -> None:
        super().__init__(reason, code=f"simcpu.{answer.slug}")
        self.answer: Final = answer


def general_protection(reason: str) -> CpuError:
    """Return the fault for a wrong state or operand: #GP on hardware."""
    return CpuError(Code.GENERAL_PROTECTION, reason)
