# SPDX-License-Identifier: Apache-2.0
"""Stop watches: calls in turn with a peer's, and percentiles."""

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

MICRO: Final = 1e6

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: ``runs`` of everything, each of ``calls`` calls or ``seconds`` of load."""

    runs: int = 7
    calls: int = 200
    seconds: float = 3.0

    @classmethod
    def quick(cls) -> "Effort":
        """Enough to see that everything works, not to quote."""
        return cls(runs=2, calls=20, seconds=0.5)


def in_turn(contenders: Sequence[Callable[[], Iterable[Call]]], effort: Effort) -> list[tuple[float, ...]]:
    """Return, for each contender, microseconds per call in each run.

    A contender is asked for the calls of each run anew, outside of the measurement; the contenders take turns.
    """
    figures: list[list[float]] = [[] for _ in contenders]
    for number in range(effort.runs + 1):
        for contender, mine in zip(contenders, figures, strict=True):
            calls = list(contender())
            per_call = _time(calls)
            if number:  # the first run warms up
                mine.append(per_call)
    return [tuple(mine) for mine in figures]


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the values lie."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def _time(calls: Sequence[Call]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - start) / len(calls) * MICRO
    finally:
        gc.enable()
