# SPDX-License-Identifier: Apache-2.0
"""A queue in which each peer has its own line and the lines take turns, so that a flood delays itself."""

from collections import deque
from typing import Final, Generic, TypeVar

_Item = TypeVar("_Item")


class FairQueue(Generic[_Item]):
    """At most ``per_peer`` items wait for one peer and ``total`` altogether."""

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer: Final = per_peer
        self._total: Final = total
        self._lines: Final[dict[int, deque[_Item]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, peer: int, item: _Item) -> bool:
        """Append to the peer's line; False: there is no room."""
        line = self._lines.get(peer)
        if self._size >= self._total or (line is not None and len(line) >= self._per_peer):
            return False
        if line is None:
            line = self._lines[peer] = deque()
        line.append(item)
        self._size += 1
        return True

    def get(self) -> _Item | None:
        """Take the first item of the line whose turn it is, None if nobody waits."""
        if not self._size:
            return None
        peer = next(iter(self._lines))
        line = self._lines.pop(peer)
        item = line.popleft()
        if line:
            self._lines[peer] = line  # behind the others
        self._size -= 1
        return item
