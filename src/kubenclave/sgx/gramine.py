# SPDX-License-Identifier: Apache-2.0
"""What a Gramine enclave consists of: its memory from the manifest and the PAL (Gramine 1.4 to 1.9).

Memory is laid out downwards from the enclave's end and measured in the same order: manifest, SSA, TCS, TLS,
stacks, signal stacks, PAL, and free memory that is added but not measured. With base 0 addresses are offsets.
"""

import re
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import AttributeFlags, Attributes, MiscSelect, Xfrm
from kubenclave.sgx.epc import PAGE_SIZE
from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import Sigstruct

SSA_FRAME_PAGES: Final = 4
MAX_THREADS: Final = 1024
MAX_SIZE: Final = 1 << 40
MAX_SEGMENTS: Final = 64
MAX_PAL: Final = 64 << 20

_SSA_FRAME: Final = SSA_FRAME_PAGES * PAGE_SIZE
_SSA_FRAMES: Final = 2
_STACK: Final = 0x40000
_SIGNAL_STACK: Final = 0x10000
_HEAP_MIN: Final = 0x10000
_GPR_SIZE: Final = 184
_CANARY: Final = 0xBADBADBADBAD
_DEFAULT_THREADS: Final = 4
_DEFAULT_SIZE: Final = {False: "256M", True: "1024G"}

_R, _RW, _RWX, _TCS = SecInfo(0x201), SecInfo(0x203), SecInfo(0x207), SecInfo(0x100)
_SIZE: Final = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([KMG]?)")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_FLAGS_MASK: Final = (1 << 64) - 1
_XFRM_MASK: Final = 0xFFFFFFFFFFF9FF1B
# In the order of Gramine's own table: "avx512" disabled clears AVX again, even where AVX is required.
_FEATURES: Final = {"avx": 0x4, "avx512": 0xE4, "amx": 0x60000, "mpx": 0x18, "pkru": 0x200}


@dataclass(frozen=True, slots=True)
class Area:
    """A piece of enclave memory: its name and its pages."""

    name: str
    pages: Pages


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD of the PAL: where it goes (from the PAL's lowest page) and the bytes that stand there, zeros apart."""

    offset: int
    pages: int
    flags: int
    lead: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pal:
    """The enclave's own loader, an ELF file: ``entry`` and ``size`` in bytes from its lowest page."""

    entry: int
    size: int
    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, elf: bytes) -> "Pal":
        """Read an ELF64 x86-64 file with PT_LOAD segments. Raises FormatError for anything else."""
        entry, table, entry_size, count = _elf_header(elf)
        headers = []
        for index in range(count):
            at = table + index * entry_size
            if at + 56 > len(elf):
                raise _bad_pal("program headers", "inside the file", f"ends at {at + 56}")
            kind, flags, offset, address, _, in_file, in_memory = struct.unpack_from("<IIQQQQQ", elf, at)
            if kind == 1 and in_memory:
                headers.append((flags, offset, address, in_file, in_memory))
        if not headers:
            raise _bad_pal("program headers", "a PT_LOAD", "none")
        base = min(_down(header[2]) for header in headers)
        end = max(_up(header[2] + header[4]) for header in headers)
        if end - base > MAX_PAL:
            raise _bad_pal("segments", f"within {MAX_PAL} bytes", str(end - base))
        segments = tuple([_segment(elf, header, base) for header in headers])
        if sum(segment.pages for segment in segments) * PAGE_SIZE > end - base:
            raise _bad_pal("segments", "no page in two of them", f"{len(segments)} segments that overlap")
        if not base <= entry < end:  # it goes into every TCS, where the processor only takes what lies in the enclave
            raise _bad_pal("entry point", f"from {base:#x} to below {end:#x}", hex(entry))
        return cls(entry - base, end - base, segments)


@dataclass(frozen=True, slots=True)
class GramineEnclave:
    """A Gramine enclave: ``size`` in bytes, ``areas`` in the order in which they are measured."""

    size: int
    threads: int
    edmm: bool
    options: dict[str, Any]
    areas: tuple[Area, ...]

    @classmethod
    def parse(cls, manifest: bytes, pal: bytes) -> "GramineEnclave":
        """Lay out the enclave of a ``.manifest.sgx`` (TOML, its very bytes are measured) and a ``libpal.so``.

        Raises FormatError when either cannot be read, or the enclave is too small for what it has to hold.
        """
        options = _sgx_options(manifest)
        edmm = _boolean(options, "edmm_enable")
        size = _parse_size(options.get("enclave_size", _DEFAULT_SIZE[edmm]))
        threads = options.get("max_threads", _DEFAULT_THREADS)
        if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MAX_THREADS:
            raise _bad_manifest("sgx.max_threads", f"1 to {MAX_THREADS}", repr(threads))
        areas = tuple(_Layout(size, threads, manifest + b"\0", Pal.parse(pal)).areas(with_free=not edmm))
        return cls(size, threads, edmm, options, areas)

    @property
    def pages(self) -> int:
        """EPC pages that loading it takes, the SECS apart."""
        return sum(area.pages.count for area in self.areas)

    def mr_enclave(self) -> bytes:
        """Return MRENCLAVE, 32 bytes."""
        return measure(self.size, SSA_FRAME_PAGES, [area.pages for area in self.areas])

    def sigstruct(self, date: int = 0) -> Sigstruct:
        """Return the template that Gramine's signing tool would sign; ``date`` is BCD. Raises FormatError."""
        features = self.options.get("cpu_features", {})
        if not isinstance(features, dict):
            raise _bad_manifest("sgx.cpu_features", "a table", type(features).__name__)
        xfrm, xfrm_mask = int(Xfrm.X87 | Xfrm.SSE), _XFRM_MASK
        for name, bits in _FEATURES.items():
            choices = ("disabled", "required") if name in ("mpx", "pkru") else ("unspecified", "disabled", "required")
            wanted = features.get(name, choices[0])
            if wanted not in choices:
                raise _bad_manifest(f"sgx.cpu_features.{name}", " or ".join(choices), repr(wanted))
            if wanted == "required":
                xfrm |= bits
            elif wanted == "disabled":
                xfrm &= ~bits
            if wanted != "unspecified":
                xfrm_mask |= bits
        debug = AttributeFlags.DEBUG if _boolean(self.options, "debug") else 0
        return Sigstruct(
            enclave_hash=self.mr_enclave(),
            attributes=Attributes(AttributeFlags.MODE64BIT | debug, xfrm),
            attribute_mask=Attributes(_FLAGS_MASK, xfrm_mask),
            misc_select=MiscSelect.EXINFO if _boolean(self.options, "use_exinfo") else 0,
            isv_prod_id=_u16(self.options, "isvprodid"),
            isv_svn=_u16(self.options, "isvsvn"),
            date=date,
        )


class _Layout:
    """Addresses of everything, computed from the top down."""

    def __init__(self, size: int, threads: int, manifest: bytes, pal: Pal) -> None:
        self._size, self._threads, self._manifest, self._pal = size, threads, manifest, pal
        self._manifest_at = size - _up(len(manifest))
        self._ssa_at = self._manifest_at - threads * _SSA_FRAMES * _SSA_FRAME
        self._tcs_at = self._ssa_at - threads * PAGE_SIZE
        self._tls_at = self._tcs_at - threads * PAGE_SIZE
        self._signal_top = self._tls_at - threads * _STACK
        self._pal_at = self._signal_top - threads * _SIGNAL_STACK - pal.size
        if self._pal_at < _HEAP_MIN:
            raise FormatError(
                "the enclave is too small for its manifest, threads and PAL",
                code="gramine.size",
                field="sgx.enclave_size",
                expected=f"at least {size - self._pal_at + _HEAP_MIN} bytes",
                found=f"{size} bytes",
                hint="raise sgx.enclave_size to the next power of two",
            )

    def areas(self, *, with_free: bool) -> Iterator[Area]:
        """Yield the areas in the order of measuring."""
        threads, stack, signal_stack = range(self._threads), bytes(_STACK), bytes(_SIGNAL_STACK)
        yield _area("manifest", self._manifest_at, _R, self._manifest)
        yield _area("ssa", self._ssa_at, _RW, bytes(self._threads * _SSA_FRAMES * _SSA_FRAME))
        yield _area("tcs", self._tcs_at, _TCS, b"".join([self._tcs(thread) for thread in threads]))
        yield _area("tls", self._tls_at, _RW, b"".join([self._tls(thread) for thread in threads]))
        for thread in threads:
            yield _area("stack", self._stack_top(thread) - _STACK, _RW, stack)
        for thread in threads:
            yield _area("sig_stack", self._signal_stack_top(thread) - _SIGNAL_STACK, _RW, signal_stack)
        for segment in self._pal.segments:
            content = bytes(segment.lead) + segment.data
            content = content.ljust(segment.pages * PAGE_SIZE, b"\0")
            yield _area("pal-segment", self._pal_at + segment.offset, SecInfo(0x200 | segment.flags), content)
        if with_free and self._pal_at > _HEAP_MIN:
            yield Area("free", Pages(_HEAP_MIN, _RWX, (self._pal_at - _HEAP_MIN) // PAGE_SIZE))

    def _stack_top(self, thread: int) -> int:
        return self._tls_at - thread * _STACK

    def _signal_stack_top(self, thread: int) -> int:
        return self._signal_top - thread * _SIGNAL_STACK

    def _ssa(self, thread: int) -> int:
        return self._ssa_at + thread * _SSA_FRAMES * _SSA_FRAME

    def _tcs(self, thread: int) -> bytes:
        page = bytearray(PAGE_SIZE)
        struct.pack_into("<QII", page, 16, self._ssa(thread), 0, _SSA_FRAMES)
        struct.pack_into("<Q", page, 32, self._pal_at + self._pal.entry)
        struct.pack_into("<QII", page, 56, self._tls_at + thread * PAGE_SIZE, 0xFFF, 0xFFF)
        return bytes(page)

    def _tls(self, thread: int) -> bytes:
        page = bytearray(PAGE_SIZE)
        signal_top = self._signal_stack_top(thread)
        for offset, value in (
            (0, self._tls_at + thread * PAGE_SIZE),
            (8, _CANARY),
            (0x110, self._size),
            (0x118, self._tcs_at + thread * PAGE_SIZE),
            (0x120, self._stack_top(thread)),
            (0x130, signal_top - _SIGNAL_STACK),
            (0x138, signal_top),
            (0x148, self._ssa(thread)),
            (0x150, self._ssa(thread) + _SSA_FRAME - _GPR_SIZE),
            (0x1A0, len(self._manifest)),
            (0x1A8, _HEAP_MIN),
            (0x1B0, self._pal_at),
        ):
            struct.pack_into("<Q", page, offset, value)
        return bytes(page)


def _area(name: str, offset: int, sec_info: SecInfo, content: bytes) -> Area:
    padded = content.ljust(_up(len(content)), b"\0")
    return Area(name, Pages(offset, sec_info, len(padded) // PAGE_SIZE, padded))


def _elf_header(elf: bytes) -> tuple[int, int, int, int]:
    """Return entry, offset of the program headers, size of one, their number."""
    if len(elf) < 64 or elf[:6] != b"\x7fELF\x02\x01":
        raise _bad_pal("header", "a little-endian ELF64 file", elf[:6].hex())
    machine, _, entry, table = struct.unpack_from("<HIQQ", elf, 18)
    entry_size, count = struct.unpack_from("<HH", elf, 54)
    if machine != 62 or entry_size < 56 or count > MAX_SEGMENTS:
        raise _bad_pal("header", f"x86-64 with at most {MAX_SEGMENTS} segments", f"machine {machine}, {count} segments")
    return entry, table, entry_size, count


def _segment(elf: bytes, header: tuple[int, int, int, int, int], base: int) -> Segment:
    flags, offset, address, in_file, in_memory = header
    if offset + in_file > len(elf) or in_file > in_memory:
        raise _bad_pal("segment", "inside the file", f"{in_file} bytes at {offset}")
    start = _down(address)
    # ELF and SECINFO number R and X the other way round.
    rights = (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2
    pages = (_up(address + in_memory) - start) // PAGE_SIZE
    return Segment(start - base, pages, rights, address - start, elf[offset : offset + in_file])


def _sgx_options(manifest: bytes) -> dict[str, Any]:
    try:
        options = tomllib.loads(manifest.decode()).get("sgx", {})
    except (ValueError, RecursionError) as error:
        raise _bad_manifest("manifest", "TOML", str(error)[:200]) from None
    if not isinstance(options, dict):
        raise _bad_manifest("sgx", "a table", type(options).__name__)
    return options


def _parse_size(value: object) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) and len(value) < 32 else None
    size = int(match[1], 0) * _UNITS[match[2]] if match and not re.fullmatch("0[0-9]+", match[1]) else 0
    if size & (size - 1) or not PAGE_SIZE < size <= MAX_SIZE:
        raise _bad_manifest("sgx.enclave_size", f"a power of two up to {MAX_SIZE} bytes, as in 256M", repr(value))
    return size


def _boolean(options: dict[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise _bad_manifest(f"sgx.{name}", "true or false", repr(value))
    return value


def _u16(options: dict[str, Any], name: str) -> int:
    value = options.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise _bad_manifest(f"sgx.{name}", "0 to 65535", repr(value))
    return value


def _down(address: int) -> int:
    return address & -PAGE_SIZE


def _up(address: int) -> int:
    return -(-address // PAGE_SIZE) * PAGE_SIZE


def _bad_manifest(field: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "not a manifest of Gramine for SGX", code="gramine.manifest", field=field, expected=expected, found=found
    )


def _bad_pal(field: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "not a PAL that an enclave can be made of", code="gramine.pal", field=field, expected=expected, found=found
    )
