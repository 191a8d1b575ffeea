# SPDX-License-Identifier: Apache-2.0
"""Strict reading of CBOR (RFC 8949), as much as evidence in certificates needs.

Integers, strings, arrays, maps and tags, of definite length and in their shortest form (section 4.2.1); no floats, no
simple values, no key twice. So there is one encoding of each value, and nobody else can read another value out of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.errors import FormatError

_MAX_DEPTH: Final = 8
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_SHORT: Final = 24  # from here on an argument takes octets of its own


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a tag (RFC 8949, section 3.4)."""

    tag: int
    value: Any


def decode(data: bytes) -> Any:
    """Return the one value that ``data`` holds: int, bytes, str, list, dict or ``Tagged``.

    Raises FormatError ``cbor.malformed`` and nothing else.
    """
    value, at = _item(data, 0, _MAX_DEPTH)
    if at != len(data):
        raise _malformed(at, "the end", f"{len(data) - at} more bytes")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Return the value at ``at`` and where the next one begins."""
    if depth == 0:
        raise _malformed(at, f"{_MAX_DEPTH} levels at most", "more")
    start, (major, argument, at) = at, _head(data, at)
    match major:
        case 0 | 1:
            return (argument if major == _UNSIGNED else -1 - argument), at
        case 2 | 3:
            return _string(data, at, argument, is_text=major == _TEXT)
        case 4:
            return _array(data, at, argument, depth - 1)
        case 5:
            return _map(data, at, argument, depth - 1)
        case 6:
            value, at = _item(data, at, depth - 1)
            return Tagged(argument, value), at
    raise _malformed(start, "integer, string, array, map or tag", "a float or a simple value")


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return major type, argument and where the content begins."""
    if at >= len(data):
        raise _malformed(at, "a value", "the end")
    major, short = data[at] >> 5, data[at] & 0x1F
    if short < _SHORT:
        return major, short, at + 1
    if short > 27:
        raise _malformed(at, "a definite length", f"additional information {short}")
    size = 1 << short - _SHORT
    octets = data[at + 1 : at + 1 + size]
    argument = int.from_bytes(octets, "big")
    least = _SHORT if size == 1 else 1 << 4 * size
    if len(octets) < size or argument < least:
        raise _malformed(at, "an argument in its shortest form", "another")
    return major, argument, at + 1 + size


def _string(data: bytes, at: int, size: int, *, is_text: bool) -> tuple[bytes | str, int]:
    octets = data[at : at + size]
    if len(octets) < size:
        raise _malformed(at, f"{size} bytes", f"{len(octets)} bytes")
    if not is_text:
        return octets, at + size
    try:
        return octets.decode(), at + size
    except UnicodeDecodeError:
        raise _malformed(at, "UTF-8", "other bytes") from None


def _array(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    values = []
    for _ in _counted(data, at, count):
        value, at = _item(data, at, depth)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[int | str | bytes, Any], int]:
    members: dict[int | str | bytes, Any] = {}
    for _ in _counted(data, at, count):
        start = at
        key, at = _item(data, at, depth)
        if not isinstance(key, int | str | bytes) or key in members:
            raise _malformed(start, "another key, an integer or a string", "this one")
        members[key], at = _item(data, at, depth)
    return members, at


def _counted(data: bytes, at: int, count: int) -> Iterator[int]:
    """Count the items, each of which takes a byte at least."""
    if count > len(data) - at:
        raise _malformed(at, f"{count} items", f"{len(data) - at} bytes")
    return iter(range(count))


def _malformed(at: int, expected: str, found: str) -> FormatError:
    return FormatError("not CBOR", code="cbor.malformed", field=f"byte {at}", expected=expected, found=found)
