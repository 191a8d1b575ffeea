# SPDX-License-Identifier: Apache-2.0
"""Tables of fields: both ways, strict about reserved bytes, and checked when they are written down."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.layout import Layout

LAYOUT = Layout("thing", 24, [(0, "byte", "B"), (2, "half", "H"), (4, "word", "I"), (8, "long", "Q"), (16, "raw", 4)])
DATA = bytes.fromhex("01 00 0302 07060504 0f0e0d0c0b0a0908 10111213 00000000")
FIELDS = {"byte": 1, "half": 0x0203, "word": 0x04050607, "long": 0x08090A0B0C0D0E0F, "raw": b"\x10\x11\x12\x13"}


def test_parsing_and_building() -> None:
    assert LAYOUT.parse(DATA) == FIELDS
    assert LAYOUT.build(FIELDS) == DATA
    assert LAYOUT.names == ("byte", "half", "word", "long", "raw")


@pytest.mark.parametrize("size", [0, 23, 25])
def test_parse_wants_the_very_size(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        LAYOUT.parse(DATA.ljust(size, b"\0")[:size])
    assert (caught.value.code, caught.value.expected, caught.value.found) == (
        "format.size",
        "24 bytes",
        f"{size} bytes",
    )


@pytest.mark.parametrize(("position", "gap"), [(1, 1), (20, 20), (23, 20)])
def test_reserved_bytes_must_be_zero(position: int, gap: int) -> None:
    data = bytearray(DATA)
    data[position] = 0x80
    with pytest.raises(FormatError) as caught:
        LAYOUT.parse(bytes(data))
    assert (caught.value.code, caught.value.field) == ("format.reserved", f"offset {gap}")


def test_values_reads_in_place_and_does_not_look_at_reserved_bytes() -> None:
    assert LAYOUT.values(b"??" + b"\x01\xff" + DATA[2:20] + b"\xff" * 9, 2) == tuple(FIELDS.values())


@pytest.mark.parametrize(("offset", "left"), [(0, 23), (10, 13), (30, 0)])
def test_values_of_too_few_bytes(offset: int, left: int) -> None:
    with pytest.raises(FormatError) as caught:
        LAYOUT.values(DATA[:23], offset)
    assert (caught.value.code, caught.value.found) == ("format.truncated", f"{left} bytes")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("byte", 256),
        ("half", -1),
        ("word", 1 << 32),
        ("long", 1.5),
        ("raw", "text"),
        ("raw", b"abc"),
        ("raw", b"abcde"),
    ],
    ids=["byte", "negative", "word", "float", "text", "short", "long"],
)
def test_values_that_do_not_fit_do_not_build(name: str, value: object) -> None:
    with pytest.raises(FormatError) as caught:
        LAYOUT.build({**FIELDS, name: value})
    assert caught.value.code == "format.value"


@pytest.mark.parametrize(
    ("size", "rows"),
    [(8, [(0, "a", "I"), (3, "b", "H")]), (3, [(0, "a", "I")])],
    ids=["overlap", "beyond the end"],
)
def test_a_slip_in_a_table_is_found_when_it_is_made(size: int, rows: list[tuple[int, str, str | int]]) -> None:
    with pytest.raises(AssertionError):
        Layout("slip", size, rows)
