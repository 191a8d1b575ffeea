# SPDX-License-Identifier: Apache-2.0
"""MRENCLAVE, SECINFO and SGXS streams."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.sgx.measure import Measurement, Pages, measure, measure_sgxs
from kubenclave.sgx.secinfo import PageType, SecInfo

R, RW, TCS = SecInfo(0x201), SecInfo(0x203), SecInfo(0x100)


def record(tag: bytes, *numbers: int) -> bytes:
    return (tag.ljust(8, b"\0") + b"".join(n.to_bytes(8, "little") for n in numbers)).ljust(64, b"\0")


def ecreate(size: int = 0x10000, ssa: int = 1) -> bytes:
    return (b"ECREATE\0" + struct.pack("<IQ", ssa, size)).ljust(64, b"\0")


def measured(offset: int, flags: int, page: bytes) -> bytes:
    chunks = b"".join(record(b"EEXTEND", offset + at) + page[at : at + 256] for at in range(0, 4096, 256))
    return record(b"EADD", offset, flags) + chunks


PAGE = bytes(range(256)) * 16


def test_a_measured_page_is_5184_bytes_in_the_hash() -> None:
    stream = ecreate() + measured(0x1000, 0x205, PAGE)
    assert len(stream) == 64 + 5184
    assert measure(0x10000, 1, [Pages(0x1000, SecInfo(0x205), 1, PAGE)]) == hashlib.sha256(stream).digest()


def test_unmeasured_pages_are_64_bytes_each_however_many() -> None:
    count = 5000
    stream = ecreate(1 << 25, 4) + b"".join(record(b"EADD", n * 4096, 0x207) for n in range(count))
    assert measure(1 << 25, 4, [Pages(0, SecInfo(0x207), count)]) == hashlib.sha256(stream).digest()


def test_a_tcs_loses_its_access_bits() -> None:
    assert measure(0x10000, 1, [Pages(0, SecInfo(0x103), 1)]) == measure(0x10000, 1, [Pages(0, TCS, 1)])
    assert SecInfo(0x107).as_added() == TCS


def test_a_tcs_is_measured_as_eadd_leaves_it() -> None:
    """STATE, the lowest bit of FLAGS, CSSA and AEP are the processor's own, whatever the loader wrote there."""
    written, kept = bytearray(b"\xff" * 4096), bytearray(b"\xff" * 4096)
    for start, size in ((0, 8), (24, 4), (40, 8)):
        kept[start : start + size] = bytes(size)
    kept[8] = 0xFE
    stream = ecreate() + measured(0x1000, 0x100, bytes(kept))
    assert measure(0x10000, 1, [Pages(0x1000, TCS, 1, bytes(written))]) == hashlib.sha256(stream).digest()
    ordinary = ecreate() + measured(0x1000, 0x203, bytes(written))
    assert measure(0x10000, 1, [Pages(0x1000, RW, 1, bytes(written))]) == hashlib.sha256(ordinary).digest()


def test_order_counts() -> None:
    first, second = Pages(0, R, 1, PAGE), Pages(0x1000, RW, 1, PAGE)
    assert measure(0x10000, 1, [first, second]) != measure(0x10000, 1, [second, first])


@pytest.mark.parametrize("size", [0, 4096, 0x3000, -8192, 1 << 63])
def test_sizes_no_enclave_has(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        Measurement(size, 1)
    assert (caught.value.code, caught.value.field) == ("measure.refused", "SIZE")


@pytest.mark.parametrize("ssa", [0, 1 << 32])
def test_save_areas_no_enclave_has(ssa: int) -> None:
    with pytest.raises(FormatError) as caught:
        Measurement(0x2000, ssa)
    assert caught.value.field == "SSAFRAMESIZE"


@pytest.mark.parametrize(
    "pages",
    [
        Pages(1, R, 1),
        Pages(0x10000, R, 1),
        Pages(0xF000, R, 2),
        Pages(-4096, R, 1),
        Pages(0, R, 0),
        Pages(0, R, 1, bytes(4095)),
        Pages(0x2000, R, 1),
        Pages(0x1000, R, 2),
        Pages(0x1000, R, 5),
    ],
    ids=["unaligned", "behind", "half behind", "before", "none", "short", "again", "end there", "over it"],
)
def test_pages_the_processor_refuses(pages: Pages) -> None:
    measurement = Measurement(0x10000, 1)
    measurement.add(Pages(0x2000, R, 1))
    with pytest.raises(FormatError) as caught:
        measurement.add(pages)
    assert caught.value.code == "measure.refused"
    assert measurement.pages == 1


@pytest.mark.parametrize(
    "flags", [0x000, 0x300, 0x400, 0x202, 0x206, 0x209, 0x211, 0x221, 0x241, 0x281, 0x10201, 0x109, 1 << 64]
)
def test_secinfo_the_processor_refuses(flags: int) -> None:
    with pytest.raises(FormatError) as caught:
        SecInfo(flags).as_added()
    assert caught.value.code == "secinfo.flags"


@given(st.integers(0, 2**64 - 1))
def test_secinfo_survives_the_bytes(flags: int) -> None:
    built = SecInfo(flags).build()
    assert SecInfo.parse(built) == SecInfo(flags)
    assert len(built) == 64


def test_secinfo_reserved_bytes_must_be_zero() -> None:
    with pytest.raises(FormatError):
        SecInfo.parse(SecInfo(0x201).build()[:-1] + b"\1")
    assert PageType(0x201 >> 8) is PageType.REG


def test_pages_may_be_added_in_any_order_and_are_counted() -> None:
    measurement = Measurement(1 << 40, 1)
    for number in (5, 3, 9, 4, 0, 8, 2):
        measurement.add(Pages(number * 4096, R, 1))
        measurement.extend(number * 4096, bytes(256))
    assert measurement.pages == 7
    for number in (1, 6, 7, 10):
        with pytest.raises(FormatError):
            measurement.extend(number * 4096, bytes(256))
    for number in (0, 2, 3, 4, 5, 8, 9):
        with pytest.raises(FormatError):
            measurement.add(Pages(number * 4096, R, 1))


@pytest.mark.parametrize(("offset", "size"), [(1, 256), (0x100, 255), (0x5000, 256)])
def test_extending_what_is_not_there(offset: int, size: int) -> None:
    measurement = Measurement(0x10000, 1)
    measurement.add(Pages(0, R, 1))
    with pytest.raises(FormatError):
        measurement.extend(offset, bytes(size))


def test_a_canonical_stream_is_its_own_measurement() -> None:
    stream = ecreate() + record(b"EADD", 0x2000, 0x100) + measured(0, 0x203, PAGE)
    measurement = measure_sgxs(stream)
    assert measurement.mr_enclave() == hashlib.sha256(stream).digest()
    assert measurement.pages == 2


def test_unmeasured_chunks_are_not_hashed() -> None:
    canonical = ecreate() + record(b"EADD", 0, 0x203)
    with_data = canonical + record(b"UNMEASRD", 0) + PAGE[:256]
    assert measure_sgxs(with_data).mr_enclave() == hashlib.sha256(canonical).digest()


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"", "format.truncated"),
        (ecreate()[:-1], "format.truncated"),
        (b"UNSIZED\0" + ecreate()[8:], "sgxs.unsized"),
        (record(b"EADD", 0, 0x203), "sgxs.record"),
        (ecreate()[:-1] + b"\1", "sgxs.record"),
        (ecreate() + record(b"EADD", 0, 0x203, 1), "sgxs.record"),
        (ecreate() + record(b"EADD", 0, 0x103), "sgxs.record"),
        (ecreate() + record(b"EADD", 0, 0x003), "secinfo.flags"),
        (ecreate() + record(b"EADD", 0, 0x203) + record(b"EEXTEND", 0, 1) + bytes(256), "sgxs.record"),
        (ecreate() + record(b"EADD", 0, 0x203) + record(b"EEXTEND", 0) + bytes(255), "format.truncated"),
        (ecreate() + record(b"EEXTEND", 0) + bytes(256), "measure.refused"),
        (ecreate() + record(b"UNMEASRD", 0), "format.truncated"),
        (ecreate() + record(b"EREMOVE", 0), "sgxs.record"),
        (ecreate(0x3000), "measure.refused"),
        (ecreate() + record(b"EADD", 0, 0x203) * 2, "measure.refused"),
    ],
    ids=[
        "empty",
        "cut",
        "unsized",
        "no ECREATE",
        "ECREATE reserved",
        "EADD reserved",
        "TCS with access",
        "page type 0",
        "EEXTEND reserved",
        "chunk cut",
        "no page there",
        "UNMEASRD cut",
        "unknown record",
        "odd size",
        "page twice",
    ],
)
def test_what_is_no_stream(stream: bytes, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        measure_sgxs(stream)
    assert caught.value.code == code


def test_a_stream_of_fortanix(shared_data: Path) -> None:
    fortanix = shared_data / "enclaves" / "fortanix"
    expected = json.loads((fortanix / "expected.json").read_text())["test_enclave.sgxs"]["sha256"]
    assert measure_sgxs((fortanix / "test_enclave.sgxs").read_bytes()).mr_enclave().hex() == expected
