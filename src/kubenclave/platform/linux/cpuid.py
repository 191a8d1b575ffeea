# SPDX-License-Identifier: Apache-2.0
"""SGX in CPUID: leaves 07H and 12H (Intel SDM volume 3D, section 36.7).

The decoder is pure. A section counts whatever its protection class: readers that knew only the classes of their
day reported 0 bytes of EPC on each newer processor.
"""

import functools
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubenclave.platform.base import CpuFacts

_MAX_SUB_LEAVES: Final = 64
_PAGES: Final = 0xFFFF_F000
_QUESTIONS: Final = ((0, 0), (7, 0), *((0x12, sub_leaf) for sub_leaf in range(2 + _MAX_SUB_LEAVES)))
"""Leaf and sub-leaf of all that `decode` may want to read."""
_ASKING: Final = Path(__file__).with_name("askcpu.py")
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Registers:
    """Answer to one CPUID instruction: four unsigned 32-bit numbers."""

    eax: int
    ebx: int
    ecx: int
    edx: int


@dataclass(frozen=True, slots=True)
class CpuidSection:
    """One EPC section in physical memory, in bytes; ``protection`` is the class as read, known or not."""

    base: int
    size: int
    protection: int


CpuidReader = Callable[[int, int], Registers]
"""Returns the registers for a leaf and a sub-leaf. Raises OSError where they cannot be read."""


def section(registers: Registers) -> CpuidSection | None:
    """Return the EPC section that a sub-leaf 12H.n (n >= 2) describes, None when it describes something else."""
    if registers.eax & 0xF != 1:
        return None
    return CpuidSection(
        base=(registers.ebx & 0xF_FFFF) << 32 | registers.eax & _PAGES,
        size=(registers.edx & 0xF_FFFF) << 32 | registers.ecx & _PAGES,
        protection=registers.ecx & 0xF,
    )


def sections(read: CpuidReader) -> tuple[CpuidSection, ...]:
    """Return the EPC sections of leaf 12H, which has to exist, up to the first sub-leaf that ends the list."""
    found = []
    for sub_leaf in range(2, 2 + _MAX_SUB_LEAVES):
        registers = read(0x12, sub_leaf)
        if registers.eax & 0xF == 0:
            break
        one = section(registers)
        if one is not None:
            found.append(one)
    return tuple(found)


def decode(read: CpuidReader) -> CpuFacts:
    """Return what CPUID says about SGX.

    Leaf 12H is read only if leaf 07H announces SGX: above its last leaf a processor repeats other data.
    """
    absent = CpuFacts(sgx=False, launch_control=False, sgx1=False, sgx2=False, sections=())
    if read(0, 0).eax < 7:
        return absent
    features = read(7, 0)
    if not features.ebx >> 2 & 1:
        return absent
    capabilities = read(0x12, 0)
    return CpuFacts(
        sgx=True,
        launch_control=bool(features.ecx >> 30 & 1),
        sgx1=bool(capabilities.eax & 1),
        sgx2=bool(capabilities.eax >> 1 & 1),
        sections=tuple((one.base, one.size) for one in sections(read)),
    )


@functools.cache
def ask() -> CpuFacts | None:
    """Return what the processor under us says, which a container without any permission may ask too.

    It says the same as long as the machine runs, so that it is asked once. None on a processor that is not x86-64,
    and where memory must not be executed (SELinux).
    """
    questions = b"".join(struct.pack("<2I", *question) for question in _QUESTIONS)
    command = [sys.executable, "-I", os.fspath(_ASKING)]
    try:
        done = subprocess.run(command, input=questions, capture_output=True, timeout=_PATIENCE, check=True)
        answers = dict(zip(_QUESTIONS, struct.iter_unpack("<4I", done.stdout), strict=True))
    except (OSError, subprocess.SubprocessError, struct.error, ValueError):
        return None
    return decode(lambda leaf, sub_leaf: Registers(*answers[leaf, sub_leaf]))


def read_device(path: Path) -> CpuFacts | None:
    """Return what the ``cpuid`` module's device (``/dev/cpu/0/cpuid``) says, None without module or permission."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return decode(lambda leaf, sub_leaf: read_registers(descriptor, leaf, sub_leaf))
        finally:
            os.close(descriptor)
    return None


def read_registers(descriptor: int, leaf: int, sub_leaf: int) -> Registers:
    """Read one leaf; the device takes leaf and sub-leaf as position. Raises OSError on a short answer too."""
    data = os.pread(descriptor, 16, sub_leaf << 32 | leaf)
    if len(data) != 16:
        raise OSError("CPUID device ends early")
    return Registers(*struct.unpack("<4I", data))
