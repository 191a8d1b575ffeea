# SPDX-License-Identifier: Apache-2.0
"""Bounded memory of checks that succeeded.

Only successes that hold for ever are kept (this key signed these bytes), under digests of all bytes and keys they
depend on, so that a hit can never turn a refusal into an acceptance. Whatever depends on the time or on the
caller's wishes is judged anew on each use.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

DEFAULT_ENTRIES: Final = 4096  # a few kB each, a platform of a fleet takes three


class Cache:
    """The least recently used entry makes room. Safe to share between threads."""

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        self._most: Final = entries
        self._lock: Final = threading.Lock()
        self._kept: Final[OrderedDict[Hashable, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get_or_check(self, key: Hashable, check: Callable[[], _T]) -> _T:
        """Return what ``check`` returned for that key before, or call it now; what it raises is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                kept: _T = self._kept[key]
                return kept
        result = check()  # outside the lock: two threads may check the same, neither waits
        with self._lock:
            self._kept[key] = result
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return result

    def get(self, key: Hashable) -> Any:
        """Return what was kept for that key, None where nothing was."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
