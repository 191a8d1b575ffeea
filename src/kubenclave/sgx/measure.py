# SPDX-License-Identifier: Apache-2.0
"""MRENCLAVE: a SHA-256 over what ECREATE, EADD and EEXTEND did, in the order in which they did it.

Each instruction puts one 64-byte record into the hash (SDM vol. 3D, enclave measurement); EEXTEND's is followed by
the 256 bytes it covers. EINIT adds nothing. The base address, ATTRIBUTES and everything in SIGSTRUCT stay outside.
"""

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kubenclave.errors import FormatError
from kubenclave.sgx.cursor import Cursor
from kubenclave.sgx.epc import PAGE_SIZE
from kubenclave.sgx.secinfo import PageType, SecInfo

CHUNK_SIZE: Final = 256
MIN_ENCLAVE_SIZE: Final = 2 * PAGE_SIZE
_CHUNKS: Final = range(0, PAGE_SIZE, CHUNK_SIZE)

_ECREATE: Final = struct.Struct("<8sIQ44x")
_EADD: Final = struct.Struct("<8sQQ40x")
_EEXTEND: Final = struct.Struct("<8sQ48x")
_BATCH: Final = 4096  # pages hashed in one go


@dataclass(frozen=True, slots=True)
class Pages:
    """Consecutive pages of one kind: EADD of each, and where there is ``content`` EEXTEND of all its chunks.

    ``offset`` counts from the base of the enclave. ``content`` has ``count`` pages of 4096 bytes; without it the
    pages are zero and not measured.
    """

    offset: int
    sec_info: SecInfo
    count: int
    content: bytes | None = None


class Measurement:
    """The fold, from ECREATE on. ``pages`` counts what was added, the SECS apart."""

    def __init__(self, size: int, ssa_frame_size: int) -> None:
        """ECREATE of an enclave of ``size`` bytes with state save areas of ``ssa_frame_size`` pages.

        Raises FormatError for sizes that no enclave has.
        """
        if size < MIN_ENCLAVE_SIZE or size & (size - 1) or size >> 63:
            raise _refused("SIZE", "a power of two from 8192 bytes on", str(size))
        if not 1 <= ssa_frame_size < 1 << 32:
            raise _refused("SSAFRAMESIZE", "at least one page, in 32 bits", str(ssa_frame_size))
        self.size: Final = size
        self._added: Final = _PageSet()
        self._hash = hashlib.sha256(_ECREATE.pack(b"ECREATE", ssa_frame_size, size))

    @property
    def pages(self) -> int:
        """How many pages were added."""
        return self._added.count

    def add(self, pages: Pages) -> None:
        """EADD of each page, followed by EEXTEND of its chunks if there is content.

        Raises FormatError for what the processor refuses: wrong alignment, pages outside the enclave or there
        already, impossible SECINFO.
        """
        flags = self._check(pages)
        for start in range(0, pages.count, _BATCH):
            offsets = range(
                pages.offset + start * PAGE_SIZE,
                pages.offset + min(start + _BATCH, pages.count) * PAGE_SIZE,
                PAGE_SIZE,
            )
            if pages.content is None:
                self._hash.update(b"".join([_EADD.pack(b"EADD", offset, flags) for offset in offsets]))
            else:
                for offset in offsets:
                    self._hash.update(_measured_page(offset, flags, pages.content, offset - pages.offset))
        first = pages.offset // PAGE_SIZE
        self._added.add(first, first + pages.count)

    def extend(self, offset: int, chunk: bytes) -> None:
        """EEXTEND of one chunk of 256 bytes. Raises FormatError when no page was added there."""
        if offset % CHUNK_SIZE or len(chunk) != CHUNK_SIZE:
            raise _refused("EEXTEND", "256 bytes at a multiple of 256", f"{len(chunk)} bytes at {offset:#x}")
        if self._added.is_free(offset // PAGE_SIZE, offset // PAGE_SIZE + 1):
            raise _refused("EEXTEND", "a page that was added", hex(offset))
        self._hash.update(_EEXTEND.pack(b"EEXTEND", offset) + chunk)

    def mr_enclave(self) -> bytes:
        """Return the 32 bytes that EINIT would make of it now."""
        return self._hash.digest()

    def _check(self, pages: Pages) -> int:
        """Return the flags that are measured."""
        end = pages.offset + pages.count * PAGE_SIZE
        if pages.offset % PAGE_SIZE or pages.count < 1 or not 0 <= pages.offset < end <= self.size:
            raise _refused("EADD", f"whole pages below {self.size:#x}", f"{pages.count} pages at {pages.offset:#x}")
        if pages.content is not None and len(pages.content) != pages.count * PAGE_SIZE:
            raise _refused("content", f"{pages.count * PAGE_SIZE} bytes", f"{len(pages.content)} bytes")
        first = pages.offset // PAGE_SIZE
        if not self._added.is_free(first, first + pages.count):
            raise _refused("EADD", "pages that are not there yet", f"{pages.count} pages at {pages.offset:#x}")
        return pages.sec_info.as_added().flags


class _PageSet:
    """Page numbers as disjoint ranges in ascending order: a terabyte of free memory is one entry."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0

    def is_free(self, first: int, end: int) -> bool:
        """Whether none of the pages from ``first`` to before ``end`` is there."""
        after = bisect_right(self._starts, first)
        return (after == 0 or self._ends[after - 1] <= first) and (
            after == len(self._starts) or end <= self._starts[after]
        )

    def add(self, first: int, end: int) -> None:
        """Add pages that are free."""
        self.count += end - first
        after = bisect_right(self._starts, first)
        if after < len(self._starts) and self._starts[after] == end:
            end = self._ends[after]
            del self._starts[after], self._ends[after]
        if after and self._ends[after - 1] == first:
            self._ends[after - 1] = end
        else:
            self._starts.insert(after, first)
            self._ends.insert(after, end)


def measure(size: int, ssa_frame_size: int, load: Iterable[Pages]) -> bytes:
    """Return MRENCLAVE (32 bytes) of an enclave loaded from these pages in this order. Raises FormatError."""
    measurement = Measurement(size, ssa_frame_size)
    for pages in load:
        measurement.add(pages)
    return measurement.mr_enclave()


def measure_sgxs(stream: bytes) -> Measurement:
    """Fold a whole SGXS stream: the very records of this module, one after the other (Fortanix EDP's enclave files).

    ``UNMEASRD`` chunks are loaded without being measured. Raises FormatError for anything that is no complete
    stream, also for ``UNSIZED`` ones, whose SIZE is still to be chosen.
    """
    cursor = Cursor(stream, "SGXS stream")
    tag, record = _record(cursor)
    ssa_frame_size, size = struct.unpack_from("<IQ", record, 8)
    if tag == b"UNSIZED\0":
        raise FormatError(
            "SGXS stream has no size yet",
            code="sgxs.unsized",
            field="ECREATE",
            hint="fix its size first, for example with sgxs-sign's tools",
        )
    _expect(record, tag == b"ECREATE\0" and not any(record[20:]), "ECREATE")
    measurement = Measurement(size, ssa_frame_size)
    while cursor.left:
        tag, record = _record(cursor)
        (offset,) = struct.unpack_from("<Q", record, 8)
        if tag == b"EADD\0\0\0\0":
            _expect(record, not any(record[24:]), "EADD")
            (flags,) = struct.unpack_from("<Q", record, 16)
            _expect(record, SecInfo(flags).as_added().flags == flags, "EADD")
            measurement.add(Pages(offset, SecInfo(flags), 1))
        elif tag == b"EEXTEND\0":
            _expect(record, not any(record[16:]), "EEXTEND")
            measurement.extend(offset, cursor.take(CHUNK_SIZE, "chunk"))
        else:
            _expect(record, tag == b"UNMEASRD" and not any(record[16:]), "EADD, EEXTEND or UNMEASRD")
            cursor.take(CHUNK_SIZE, "chunk")
    return measurement


def _measured_page(offset: int, flags: int, content: bytes, at: int) -> bytes:
    page = content[at : at + PAGE_SIZE]
    if flags == PageType.TCS << 8:
        page = _tcs_as_added(page)
    parts = [_EADD.pack(b"EADD", offset, flags)]
    for chunk in _CHUNKS:
        parts.append(_EEXTEND.pack(b"EEXTEND", offset + chunk))
        parts.append(page[chunk : chunk + CHUNK_SIZE])
    return b"".join(parts)


def _tcs_as_added(page: bytes) -> bytes:
    """Return a TCS as EADD leaves it for EEXTEND to find: without STATE, FLAGS.DBGOPTIN, CSSA and AEP."""
    return bytes(8) + bytes((page[8] & 0xFE,)) + page[9:24] + bytes(4) + page[28:40] + bytes(8) + page[48:]


def _record(cursor: Cursor) -> tuple[bytes, bytes]:
    record = cursor.take(64, "record")
    return record[:8], record


def _expect(record: bytes, condition: object, wanted: str) -> None:
    if not condition:
        raise FormatError(
            "not a record of an SGXS stream", code="sgxs.record", expected=wanted, found=record[:24].hex()
        )


def _refused(field: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "no enclave can be built so", code="measure.refused", field=field, expected=expected, found=found
    )
