# SPDX-License-Identifier: Apache-2.0
"""MRENCLAVE of enclaves built with Intel's SDK: its loader's layout, read from their metadata, through our fold."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import Sigstruct

EADD, EEXTEND, GROUP = 1, 2, 0x1000
TCS = 0x100


def directory(metadata: bytes, number: int) -> list[int]:
    """Offsets of the 32-byte entries of a directory: 0 patches, 1 layout."""
    offset, size = struct.unpack_from("<II", metadata, 1872 + 8 * number)
    return list(range(offset, offset + size, 32))


def patched(elf: bytes, metadata: bytes) -> bytes:
    """The file as the SDK's loader changes it before it loads it."""
    changed = bytearray(elf)
    for entry in directory(metadata, 0):
        to, start, size = struct.unpack_from("<QII", metadata, entry)
        changed[to : to + size] = metadata[start : start + size]
    return bytes(changed)


def segments(elf: bytes) -> list[Pages]:
    table, entry_size, count = (*struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54))
    found = []
    for at in range(table, table + entry_size * count, entry_size):
        kind, flags, offset, address, _, in_file, in_memory = struct.unpack_from("<IIQQQQQ", elf, at)
        if kind == 1:
            start = address & ~0xFFF
            end = -(-(address + in_memory) // 4096) * 4096
            content = (bytes(address - start) + elf[offset : offset + in_file]).ljust(end - start, b"\0")
            rights = (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2
            found.append(Pages(start, SecInfo(0x200 | rights), len(content) // 4096, content))
    return found


def entry_pages(metadata: bytes, entry: bytes, shift: int) -> list[Pages]:
    """What one layout entry adds, ``shift`` bytes behind where it says."""
    _, attributes, count, rva, size, offset, flags = struct.unpack("<HHIQIIQ", entry)
    if not attributes & EADD:
        return []
    if offset and flags == TCS:
        page = bytearray(metadata[offset : offset + size].ljust(4096, b"\0"))
        for field in (16, 48, 56):
            (value,) = struct.unpack_from("<Q", page, field)
            struct.pack_into("<Q", page, field, value + rva + shift)
    elif offset:
        page = bytearray(metadata[offset : offset + size].ljust(4096, b"\0"))
    else:
        page = bytearray(struct.pack("<I", size) * 1024)
    content = bytes(page) * count if attributes & EEXTEND else None
    return [Pages(rva + shift, SecInfo(flags), count, content)]


def layout(metadata: bytes) -> list[Pages]:
    found: list[Pages] = []
    entries = [metadata[at : at + 32] for at in directory(metadata, 1)]
    for number, entry in enumerate(entries):
        kind, members, times, step = struct.unpack_from("<HHIQ", entry)
        if kind & GROUP:
            for time in range(1, times + 1):
                for member in entries[number - members : number]:
                    found += entry_pages(metadata, member, time * step)
        else:
            found += entry_pages(metadata, entry, 0)
    return found


@pytest.mark.parametrize("name", ["sdk-debug-legacy.signed.so", "sdk-two-blocks.signed.so"])
def test_every_block_of_metadata_gives_the_signed_measurement(shared_data: Path, name: str) -> None:
    elf = (shared_data / "enclaves" / "sdk" / name).read_bytes()
    blocks: list[dict[str, Any]] = json.loads((shared_data / "enclaves" / "sdk" / f"{name}.expected.json").read_text())[
        "blocks"
    ]
    for block in blocks:
        at = int(block["file_offset"], 16)
        metadata = elf[at : at + block["size"]]
        ssa_frame_size, size = struct.unpack_from("<I", metadata, 24)[0], struct.unpack_from("<Q", metadata, 40)[0]
        load = segments(patched(elf, metadata)) + layout(metadata)
        assert sum(pages.count for pages in load) == block["eadd_pages"]
        mr_enclave = measure(size, ssa_frame_size, load)
        assert mr_enclave.hex() == block["recomputed_mrenclave"]
        assert Sigstruct.parse(metadata[64:1872]).enclave_hash == mr_enclave
