# SPDX-License-Identifier: Apache-2.0
"""The reader of variable-length structures: what it reads, and what it says when there is too little or too much."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.cursor import Cursor


def test_reads_little_endian_front_to_back() -> None:
    cursor = Cursor(bytes(range(1, 19)), "thing")
    assert (cursor.u8("a"), cursor.u16("b"), cursor.u32("c")) == (0x01, 0x0302, 0x07060504)
    assert cursor.u64("d") == 0x0F0E0D0C0B0A0908
    assert cursor.left == 3
    assert cursor.take(3, "e") == b"\x10\x11\x12"
    cursor.finish()


def test_nothing_is_taken_where_nothing_is_wanted() -> None:
    cursor = Cursor(b"", "thing")
    assert cursor.take(0, "none") == b""
    cursor.finish()


@pytest.mark.parametrize(("method", "size"), [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)])
def test_what_ends_too_early_is_named(method: str, size: int) -> None:
    cursor = Cursor(bytes(9 + size), "thing")
    cursor.take(10, "before")
    with pytest.raises(FormatError) as caught:
        getattr(cursor, method)("length")
    error = caught.value
    assert (error.code, error.field) == ("format.truncated", "length")
    assert (error.expected, error.found) == (f"{size} bytes", f"{size - 1} bytes")
    assert "thing" in error.message


def test_a_huge_length_is_refused_and_leaves_the_reader_where_it_was() -> None:
    cursor = Cursor(b"\xff\xff\xff\xffrest", "thing")
    with pytest.raises(FormatError):
        cursor.take(cursor.u32("size"), "data")
    assert (cursor.offset, cursor.left) == (4, 4)


def test_bytes_left_over_are_an_error() -> None:
    cursor = Cursor(b"abc", "thing")
    cursor.take(1, "a")
    with pytest.raises(FormatError) as caught:
        cursor.finish()
    assert (caught.value.code, caught.value.field, caught.value.found) == ("format.trailing", "offset 1", "2 bytes")
