# SPDX-License-Identifier: Apache-2.0
"""The one bounds-checked reader of variable-length binary structures."""

from typing import Final

from kubenclave.errors import FormatError
from kubenclave.sgx.layout import truncated


class Cursor:
    """Reads ``data`` front to back; every read names the field it wants, so that an error can.

    Nothing is allocated for a length field before the bytes are known to be there.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data: Final = data
        self._what: Final = what
        self.offset = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.offset

    def take(self, size: int, field: str) -> bytes:
        """Return the next ``size`` bytes. Raises FormatError when fewer are left."""
        end = self.offset + size
        if end > len(self._data):
            raise truncated(self._what, field, size, self.left)
        start, self.offset = self.offset, end
        return self._data[start:end]

    def u8(self, field: str) -> int:
        """Read an unsigned byte."""
        return self.take(1, field)[0]

    def u16(self, field: str) -> int:
        """Read a little-endian u16."""
        return int.from_bytes(self.take(2, field), "little")

    def u32(self, field: str) -> int:
        """Read a little-endian u32."""
        return int.from_bytes(self.take(4, field), "little")

    def u64(self, field: str) -> int:
        """Read a little-endian u64."""
        return int.from_bytes(self.take(8, field), "little")

    def finish(self) -> None:
        """Raise FormatError when bytes are left over: nothing is dropped unread."""
        if self.left:
            raise FormatError(
                f"{self._what} has bytes left over",
                code="format.trailing",
                field=f"offset {self.offset}",
                expected="end of data",
                found=f"{self.left} bytes",
            )
