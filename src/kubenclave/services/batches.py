# SPDX-License-Identifier: Apache-2.0
"""Group commit: what waits for the disk together is written together, in one transaction by one thread."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Batch(Generic[_Item, _Result]):
    items: list[_Item] = field(default_factory=list)
    task: "asyncio.Task[Sequence[_Result]] | None" = None


class Batches(Generic[_Item, _Result]):
    """Hands items to ``store`` in a thread: all that came while it was busy with those before, in order.

    ``store`` returns a result for each; what it raises, everybody in the batch gets. For one event loop.
    """

    def __init__(self, store: Callable[[Sequence[_Item]], Sequence[_Result]]) -> None:
        self._store: Final = store
        self._open: _Batch[_Item, _Result] | None = None
        self._turn: Final = asyncio.Lock()

    async def add(self, item: _Item) -> _Result:
        """Return the result for an item once it is stored; cancelling the caller does not take it back."""
        if self._open is None:
            self._open = _Batch()
            self._open.task = asyncio.create_task(self._run(self._open))
        batch, place = self._open, len(self._open.items)
        batch.items.append(item)
        assert batch.task is not None
        return (await asyncio.shield(batch.task))[place]

    async def _run(self, batch: _Batch[_Item, _Result]) -> Sequence[_Result]:
        async with self._turn:
            self._open = None  # whoever comes from here on goes into the next one
            return await asyncio.to_thread(self._store, batch.items)
