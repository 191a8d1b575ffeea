# SPDX-License-Identifier: Apache-2.0
"""Deadlines that are all equally far away: the oldest entry is always the next, so one timer serves any number."""

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

_Item = TypeVar("_Item")


class Deadlines(Generic[_Item]):
    """Items, each with ``seconds`` from its adding on; then ``expired`` is called with it. No timer while empty."""

    def __init__(self, seconds: float, expired: Callable[[_Item], None]) -> None:
        self._seconds: Final = seconds
        self._expired: Final = expired
        self._due: Final[dict[_Item, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: _Item) -> bool:
        return item in self._due

    def add(self, item: _Item) -> None:
        """Start the time of an item that is not in here."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._seconds
        self._due[item] = due
        if self._timer is None:
            self._timer = loop.call_at(due, self._sweep)

    def discard(self, item: _Item) -> bool:
        """Forget an item; return whether it was here."""
        return self._due.pop(item, None) is not None

    def oldest(self) -> _Item | None:
        """Return the item that expires next."""
        return next(iter(self._due), None)

    def clear(self) -> list[_Item]:
        """Forget and return all items."""
        items = list(self._due)
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return items

    def _sweep(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        expired = []
        for item, due in self._due.items():
            if due > now:
                self._timer = loop.call_at(due, self._sweep)
                break
            expired.append(item)
        for item in expired:
            if self.discard(item):  # the one before may have taken it along
                self._expired(item)
