# SPDX-License-Identifier: Apache-2.0
"""Who waits, peer by peer, so that a flood delays and displaces itself and nobody else."""

from collections import deque
from typing import Final, Generic, TypeVar

_Item = TypeVar("_Item")


class FairQueue(Generic[_Item]):
    """Each peer has its own line and the lines take turns.

    At most ``per_peer`` items wait for one peer and ``total`` altogether. When all places are taken, the longest line
    gives one up for a peer with a shorter one.
    """

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer: Final = per_peer
        self._total: Final = total
        self._lines: Final[dict[int, deque[_Item]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, peer: int, item: _Item) -> _Item | None:
        """Append to the peer's line. Returns the item that found no place or lost it, None if all have one."""
        line = self._lines.get(peer)
        length = 0 if line is None else len(line)
        if length >= self._per_peer:
            return item
        displaced = None
        if self._size >= self._total:
            longest = max(self._lines.values(), key=len, default=deque())
            if len(longest) <= length + 1:
                return item
            displaced = longest.pop()
            self._size -= 1
        if line is None:
            line = self._lines[peer] = deque()
        line.append(item)
        self._size += 1
        return displaced

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


class Crowd(Generic[_Item]):
    """Items by peer, to find out whose turn it is to make room."""

    def __init__(self) -> None:
        self._peers: Final[dict[int, dict[_Item, None]]] = {}

    def add(self, peer: int, item: _Item) -> None:
        """Count an item for a peer."""
        self._peers.setdefault(peer, {})[item] = None

    def discard(self, peer: int, item: _Item) -> None:
        """Forget an item."""
        items = self._peers.get(peer)
        if items is not None:
            items.pop(item, None)
            if not items:
                del self._peers[peer]

    def oldest_of_largest(self) -> _Item | None:
        """Return the first item of the peer that has most, None if there is none."""
        items = max(self._peers.values(), key=len, default=None)
        return None if items is None else next(iter(items))
