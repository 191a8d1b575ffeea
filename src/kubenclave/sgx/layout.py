# SPDX-License-Identifier: Apache-2.0
"""Fixed-size structures as tables: parse and build come from the same rows.

A table names each field with its offset, so that it reads like the specification and a slip (an overlap, a gap
that nobody declared) fails at import. Undeclared gaps are reserved bytes and must be zero.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from kubenclave.errors import FormatError

_SIZES: Final = {"B": 1, "H": 2, "I": 4, "Q": 8}


def truncated(what: str, field: str, wanted: int, left: int) -> FormatError:
    """Build the one error for bytes that end too early."""
    return FormatError(
        f"{what} is truncated",
        code="format.truncated",
        field=field,
        expected=f"{wanted} bytes",
        found=f"{left} bytes",
    )


def wrong_size(what: str, wanted: int, found: int) -> FormatError:
    """Build the one error for a structure of fixed size that has another one."""
    return FormatError(
        f"{what} has the wrong size", code="format.size", expected=f"{wanted} bytes", found=f"{found} bytes"
    )


class Layout:
    """A little-endian structure of ``size`` bytes; rows are ``(offset, name, kind)``.

    ``kind`` is B, H, I or Q for an unsigned integer of 1, 2, 4 or 8 bytes, or a number of raw bytes.
    """

    def __init__(self, what: str, size: int, rows: Iterable[tuple[int, str, str | int]]) -> None:
        self.what: Final = what
        self.size: Final = size
        names: list[str] = []
        reserved: list[tuple[int, int]] = []
        code = "<"
        at = 0
        for offset, name, kind in rows:
            code += self._gap(offset - at, at, reserved)
            at = offset + (kind if isinstance(kind, int) else _SIZES[kind])
            code += f"{kind}s" if isinstance(kind, int) else kind
            names.append(name)
        code += self._gap(size - at, at, reserved)
        self.names: Final = tuple(names)
        self._reserved: Final = tuple(reserved)
        self._struct: Final = struct.Struct(code)

    def _gap(self, length: int, at: int, reserved: list[tuple[int, int]]) -> str:
        if length < 0:
            raise AssertionError(f"{self.what}: field before offset {at} overlaps")
        if length == 0:
            return ""
        reserved.append((at, at + length))
        return f"{length}x"

    def values(self, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        """Return the field values of the ``size`` bytes at ``offset`` in row order, reserved bytes unseen.

        Raises FormatError when fewer bytes are left.
        """
        try:
            return self._struct.unpack_from(data, offset)
        except struct.error:
            raise truncated(self.what, self.what, self.size, max(0, len(data) - offset)) from None

    def parse(self, data: bytes) -> dict[str, Any]:
        """Return the fields of exactly ``size`` bytes by name.

        Raises FormatError for another length and for reserved bytes that are not zero.
        """
        if len(data) != self.size:
            raise wrong_size(self.what, self.size, len(data))
        for start, end in self._reserved:
            if any(data[start:end]):
                raise FormatError(
                    f"reserved bytes of {self.what} are not zero",
                    code="format.reserved",
                    field=f"offset {start}",
                    expected=f"{end - start} zero bytes",
                    found=data[start:end][:16].hex(),
                )
        return dict(zip(self.names, self._struct.unpack(data), strict=True))

    def build(self, fields: Mapping[str, Any]) -> bytes:
        """Return the structure's bytes. Raises FormatError when a value does not fit its field."""
        values = [fields[name] for name in self.names]
        packed: bytes
        try:
            packed = self._struct.pack(*values)
        except struct.error as error:
            raise FormatError(f"a value does not fit {self.what}: {error}", code="format.value") from None
        for name, value, back in zip(self.names, values, self._struct.unpack(packed), strict=True):
            if value != back:  # struct pads and cuts byte strings silently
                raise FormatError(
                    f"a value does not fit {self.what}",
                    code="format.value",
                    field=name,
                    expected=f"{len(back)} bytes",
                    found=f"{len(value)} bytes",
                )
        return packed
