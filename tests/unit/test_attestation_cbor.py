# SPDX-License-Identifier: Apache-2.0
"""CBOR: examples of RFC 8949, appendix A, and what a strict reader refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap.cbor import Tagged, decode
from kubenclave.errors import FormatError


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1903e8", 1000),
        ("1a000f4240", 1_000_000),
        ("1bffffffffffffffff", 18446744073709551615),
        ("20", -1),
        ("3903e7", -1000),
        ("4401020304", b"\1\2\3\4"),
        ("6161", "a"),
        ("62c3bc", "ü"),
        ("8301820203820405", [1, [2, 3], [4, 5]]),
        ("a201020304", {1: 2, 3: 4}),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
        ("c074323031332d30332d32315432303a30343a30305a", Tagged(0, "2013-03-21T20:04:00Z")),
    ],
)
def test_examples_of_the_rfc(octets, value):
    assert decode(bytes.fromhex(octets)) == value


@pytest.mark.parametrize(
    "octets",
    [
        "",  # nothing
        "0000",  # more behind the value
        "1817",  # 23 in two octets
        "190018",  # 24 in three
        "1a00000001",
        "18",  # argument missing
        "5f41ff",  # indefinite length
        "1c",  # reserved additional information
        "420a",  # string cut short
        "61ff",  # not UTF-8
        "83",  # items missing
        "9a7fffffff",  # many items that are not there
        "a2010201",  # value missing
        "a201020103",  # key twice
        "a18001",  # key is a list
        "f5",  # true
        "f97e00",  # a float
        "81" * 9 + "00",  # too deep
    ],
)
def test_all_else_is_refused(octets):
    with pytest.raises(FormatError) as caught:
        decode(bytes.fromhex(octets))
    assert caught.value.code == "cbor.malformed"


VALUES = st.recursive(
    st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def encode(value):
    """Shortest form, written from the RFC."""
    match value:
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            return head(5, len(value)) + b"".join(encode(k) + encode(v) for k, v in value.items())
    raise AssertionError(value)


def head(major, argument):
    if argument < 24:
        return bytes([major << 5 | argument])
    size = next(size for size in (1, 2, 4, 8) if argument < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + argument.to_bytes(size, "big")


@given(VALUES)
def test_what_is_written_is_read(value):
    assert decode(encode(value)) == value


@given(st.binary(max_size=64))
def test_garbage_is_a_format_error_or_has_one_encoding(data):
    try:
        value = decode(data)
    except FormatError:
        return
    if not any(isinstance(each, Tagged) for each in walk(value)):
        assert encode(value) == data


def walk(value):
    yield value
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    for each in inner:
        yield from walk(each)
