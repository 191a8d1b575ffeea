# SPDX-License-Identifier: Apache-2.0
"""The kernel's word to a process whose parent has died. Linux only; ``man 2 prctl``."""

import ctypes
from typing import Final

_SET_PARENT_DEATH_SIGNAL: Final = 1


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this signal to the calling process when its parent dies, stopped or busy as it may be."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal_number, 0, 0, 0)
