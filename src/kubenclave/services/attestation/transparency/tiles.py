# SPDX-License-Identifier: Apache-2.0
"""Paths of tiles (https://c2sp.org/tlog-tiles): pieces of the log that never change, 256 hashes or entries each."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from kubenclave.errors import FormatError

WIDTH: Final = 256
_PATH: Final = re.compile(r"(entries|[1-9]?[0-9])/((?:x[0-9]{3}/){0,4}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_LEVELS: Final = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile: ``level`` None means entries; level l has hashes of complete subtrees over 256**l leaves.

    ``width``: how many of its 256 places, from the first.
    """

    level: int | None
    index: int
    width: int

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read what stands after ``tile/``, as ``0/x001/234.p/17``. Raises FormatError ``log.tile``."""
        parts = _PATH.fullmatch(path)
        if parts is None:
            raise _no_tile(path)
        level = None if parts[1] == "entries" else int(parts[1])
        index, width = int(re.sub("[x/]", "", parts[2])), int(parts[3] or WIDTH)
        leading_zeros = parts[2].startswith("x000")
        if leading_zeros or (level or 0) >= _LEVELS or (parts[3] is not None and width >= WIDTH):
            raise _no_tile(path)
        return cls(level, index, width)

    @property
    def start(self) -> int:
        """The first place of the tile among those of its level."""
        return self.index * WIDTH


def bundle(entries: Iterable[bytes]) -> bytes:
    """Return entries as a bundle: each after its length in two bytes, big-endian."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def _no_tile(path: str) -> FormatError:
    return FormatError(
        "not the path of a tile",
        code="log.tile",
        expected="<level>/<index>[.p/<width>] or entries/<index>[.p/<width>], the index as x001/234",
        found=path[:80],
    )
