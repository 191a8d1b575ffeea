# SPDX-License-Identifier: Apache-2.0
"""MRENCLAVE of an Open Enclave binary: its loader's layout, from the properties in ``.oeinfo``, through our fold."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct

PAGE = 4096
IMAGE_INFO, SIGSTRUCT = 96, 144
LOAD, TLS = 1, 7
SECTION_SYMBOLS, SECTION_RELOCATIONS = 11, 4
R, RW, TCS = SecInfo(0x201), SecInfo(0x203), SecInfo(0x100)


class Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    in_file: int
    in_memory: int
    alignment: int


class Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class Properties(NamedTuple):
    size: int
    kind: int
    heap: int
    stack: int
    threads: int


def whole(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Image:
    """An ELF file as far as Open Enclave's loader reads it."""

    def __init__(self, elf: bytes) -> None:
        self.elf = elf
        self.entry, table, sections = struct.unpack_from("<QQQ", elf, 24)
        entry_size, count, section_size, section_count = struct.unpack_from("<HHHH", elf, 54)
        headers = range(table, table + entry_size * count, entry_size)
        self.segments = [Segment(*struct.unpack_from("<IIQQQQQQ", elf, at)) for at in headers]
        headers = range(sections, sections + section_size * section_count, section_size)
        self.sections = [Section(*struct.unpack_from("<IIQQQQI", elf, at)) for at in headers]
        (names,) = struct.unpack_from("<H", elf, 62)
        self.info = next(one for one in self.sections if self.text(self.sections[names], one.name) == ".oeinfo")
        self.properties = Properties(*struct.unpack_from("<IIQQQ", elf, self.info.offset))

    def text(self, table: Section, at: int) -> str:
        start = table.offset + at
        return self.elf[start : self.elf.index(b"\0", start)].decode()

    def of_kind(self, kind: int) -> Section:
        return next(one for one in self.sections if one.kind == kind)

    @property
    def loaded(self) -> list[Segment]:
        return [one for one in self.segments if one.kind == LOAD]

    @property
    def tls(self) -> Segment:
        return next(one for one in self.segments if one.kind == TLS)

    @property
    def relocations(self) -> bytes:
        section = self.of_kind(SECTION_RELOCATIONS)
        return self.elf[section.offset : section.offset + section.size].ljust(whole(section.size), b"\0")

    def symbols(self) -> dict[str, int]:
        table = self.of_kind(SECTION_SYMBOLS)
        found = {}
        for at in range(table.offset, table.offset + table.size, 24):
            name, _, _, _, address, _ = struct.unpack_from("<IBBHQQ", self.elf, at)
            found[self.text(self.sections[table.link], name)] = address
        return found


def size_of(image: Image, size: int) -> int:
    """Return SIZE: the power of two that holds image, relocations, heap and threads."""
    properties = image.properties
    control = 1 + properties.stack + 1 + 1 + 2 + 1 + whole(image.tls.in_memory) // PAGE + 1
    needed = size + len(image.relocations) + (properties.heap + properties.threads * control) * PAGE
    return 1 << (needed - 1).bit_length()


def memory(image: Image, size: int) -> bytes:
    """Return the image as the loader changes it: it is told where things will be, and has no signature."""
    changed = bytearray(size)
    for one in image.loaded:
        changed[one.address : one.address + one.in_file] = image.elf[one.offset : one.offset + one.in_file]
    length, at = len(image.relocations), image.info.address
    info = (at, image.properties.size, size, length, size + length, size_of(image, size))
    struct.pack_into("<6Q", changed, at + IMAGE_INFO, *info)
    changed[at + SIGSTRUCT : at + SIGSTRUCT + SIGSTRUCT_SIZE] = bytes(SIGSTRUCT_SIZE)
    symbols = image.symbols()
    values = {
        "_enclave_rva": symbols["_enclave_rva"],
        "_reloc_rva": size,
        "_reloc_size": length,
        "_tdata_rva": image.tls.address,
        "_tdata_size": image.tls.in_file,
        "_tdata_align": image.tls.alignment,
        "_td_from_tcs_offset": 4 * PAGE + whole(image.tls.in_memory),
    }
    for name, value in values.items():
        struct.pack_into("<Q", changed, symbols[name], value)
    return bytes(changed)


def thread(image: Image, at: int) -> list[Pages]:
    """Return a thread's pages from ``at`` on, guards between them: stack, TCS, two SSA frames, TLS and TD."""
    stack, own = image.properties.stack, whole(image.tls.in_memory) // PAGE + 1
    tcs = at + (stack + 2) * PAGE
    td = tcs + (3 + own) * PAGE
    content = struct.pack("<QQQIIQQQQII", 0, 0, tcs + PAGE, 0, 2, image.entry, 0, td, td, 0xFFFFFFFF, 0xFFFFFFFF)
    return [
        Pages(at + PAGE, RW, stack, b"\xcc" * PAGE * stack),
        Pages(tcs, TCS, 1, content.ljust(PAGE, b"\0")),
        Pages(tcs + PAGE, RW, 2, bytes(2 * PAGE)),
        Pages(tcs + 4 * PAGE, RW, own, bytes(own * PAGE)),
    ]


def mr_enclave(image: Image) -> bytes:
    last = image.loaded[-1]
    size = whole(last.address + last.in_memory)
    content = memory(image, size)
    pages = []
    for one in image.loaded:
        start, end = one.address & -PAGE, whole(one.address + one.in_memory)
        rights = (one.flags & 4) >> 2 | one.flags & 2 | (one.flags & 1) << 2
        pages.append(Pages(start, SecInfo(0x200 | rights), (end - start) // PAGE, content[start:end]))
    pages.append(Pages(size, R, len(image.relocations) // PAGE, image.relocations))
    at = size + len(image.relocations)
    pages.append(Pages(at, RW, image.properties.heap))
    at += image.properties.heap * PAGE
    for _ in range(image.properties.threads):
        pages += thread(image, at)
        at = pages[-1].offset + pages[-1].count * PAGE
    return measure(size_of(image, size), 1, pages)


def test_mrenclave_is_recomputed_from_the_properties_and_is_that_of_the_sigstruct(shared_data: Path) -> None:
    path = shared_data / "enclaves/oe/oe-plain.signed"
    expected = json.loads(path.with_name(f"{path.name}.expected.json").read_text(encoding="utf-8"))
    assert expected["mrenclave_recomputable_from_this_file"]
    image = Image(path.read_bytes())
    start = image.info.offset + SIGSTRUCT
    sigstruct = Sigstruct.parse(image.elf[start : start + SIGSTRUCT_SIZE])
    sigstruct.check()
    assert mr_enclave(image).hex() == expected["sigstruct"]["mrenclave"]
    assert sigstruct.enclave_hash == mr_enclave(image)
    assert sigstruct.mr_signer.hex() == expected["sigstruct"]["mrsigner"]
