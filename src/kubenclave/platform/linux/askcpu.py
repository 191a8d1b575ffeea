# SPDX-License-Identifier: Apache-2.0
"""Ask the processor itself: the CPUID instruction, which every process may execute.

A program apart, run by path: it executes machine code, and where a sandbox traps that instruction or forbids such
memory it dies alone; what it loads is gone with it. It reads questions (leaf and sub-leaf, unsigned 32-bit numbers,
little-endian) and writes an answer to each (EAX, EBX, ECX, EDX, likewise).
"""

import ctypes
import mmap
import platform
import struct
import sys
from typing import Final

_CODE: Final = bytes.fromhex(
    "53"  # push rbx, which belongs to the caller
    "4989d0"  # mov r8, rdx: where the answer goes
    "89f8"  # mov eax, edi: leaf
    "89f1"  # mov ecx, esi: sub-leaf
    "0fa2"  # cpuid
    "418900"  # mov [r8], eax
    "41895804"  # mov [r8+4], ebx
    "41894808"  # mov [r8+8], ecx
    "4189500c"  # mov [r8+12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
"""x86-64, System V calling convention: void (uint32_t leaf, uint32_t sub_leaf, uint32_t answer[4])."""


def main() -> int:
    """Answer all questions; 1 on a processor of another kind. Raises OSError where memory may not be executed."""
    if platform.machine() != "x86_64":
        return 1
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ask = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(address)
    answer = (ctypes.c_uint32 * 4)()
    for leaf, sub_leaf in struct.iter_unpack("<2I", sys.stdin.buffer.read()):
        ask(leaf, sub_leaf, ctypes.addressof(answer))
        sys.stdout.buffer.write(bytes(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
