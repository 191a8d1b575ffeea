# SPDX-License-Identifier: Apache-2.0
"""Frames of our own protocols: a little-endian u32 that counts the bytes which follow it, and those bytes."""

import struct
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from kubenclave.errors import FormatError

LENGTH: Final = struct.Struct("<I")
"""The length field in front of every frame."""

_Decoded = TypeVar("_Decoded")


def frame_end(data: bytes | bytearray, start: int, limit: int) -> int:
    """Return where the frame ends whose length field is at ``start``. Raises FormatError for one over ``limit``."""
    length: int = LENGTH.unpack_from(data, start)[0]
    if length > limit:
        raise FormatError(
            "frame is too long",
            code="format.size",
            field="length",
            expected=f"at most {limit} bytes",
            found=f"{length} bytes",
        )
    return start + LENGTH.size + length


class FrameDecoder(Generic[_Decoded]):
    """Cuts a byte stream into frames and decodes each: ``FrameDecoder(decode_request, MAX_FRAME)`` in a worker.

    ``limit`` is what a length field may announce, in bytes. After a FormatError the stream has lost its meaning and the
    connection has to be closed.
    """

    def __init__(self, decode: Callable[[bytes], _Decoded], limit: int = 64 * 1024) -> None:
        self._decode: Final = decode
        self._limit: Final = limit
        self._rest = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that has not arrived entirely."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[_Decoded]:
        """Return what ``data`` completes. Raises FormatError for frames over the limit and those that say nothing."""
        whole: bytes | bytearray = data
        if self._rest:
            self._rest += data
            whole = self._rest
        decoded = []
        start = 0
        while len(whole) - start >= LENGTH.size:
            end = frame_end(whole, start, self._limit)
            if end > len(whole):
                break
            decoded.append(self._decode(bytes(whole[start:end])))
            start = end
        if whole is self._rest:
            del self._rest[:start]
        else:
            self._rest += whole[start:]
        return decoded
