# SPDX-License-Identifier: Apache-2.0
"""What a benchmark yields, and how it is shown: runs of ours, runs of a peer, a ratio, a budget."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Unit(StrEnum):
    """What a figure counts."""

    MICROSECONDS = "us"
    MILLISECONDS = "ms"
    PER_SECOND = "/s"
    MEBIBYTES = "MiB"
    SECONDS = "s"
    PER_MINUTE = "/min"
    PERCENT = "%"
    COUNT = ""

    @property
    def more_is_better(self) -> bool:
        """Whether a higher figure is the better one."""
        return self is Unit.PER_SECOND


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody else's figure, taken in the same run; without ``runs``, ``absent`` says why there is none."""

    name: str
    runs: tuple[float, ...] = ()
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What design and README promise: a limit in the figure's unit, or a number of times better than the peer."""

    limit: float | None = None
    times_better: float | None = None

    def __str__(self) -> str:
        parts = [] if self.limit is None else [f"{self.limit:g}"]
        parts += [] if self.times_better is None else [f"{self.times_better:.2g} x peer"]
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; without ``runs``, ``absent`` says why nothing was measured."""

    name: str
    unit: Unit
    runs: tuple[float, ...] = ()
    peer: Peer | None = None
    budget: Budget | None = None
    absent: str = ""

    @property
    def best(self) -> float:
        """The best run."""
        return _best(self.runs, self.unit)

    @property
    def median(self) -> float:
        """The median run."""
        return statistics.median(self.runs)

    @property
    def times_better(self) -> float | None:
        """How many times better than the peer, best run against best run; below 1 is worse."""
        if self.peer is None or not self.peer.runs or not self.runs:
            return None
        peer = _best(self.peer.runs, self.unit)
        return self.best / peer if self.unit.more_is_better else peer / self.best

    @property
    def within_budget(self) -> bool | None:
        """Whether the budget is kept, by the best run; None without one, or when nothing of it could be compared."""
        if self.budget is None or not self.runs or (self.budget.limit is None and self.times_better is None):
            return None
        kept = True
        if self.budget.limit is not None:
            kept = self.best >= self.budget.limit if self.unit.more_is_better else self.best <= self.budget.limit
        if self.budget.times_better is not None and self.times_better is not None:
            kept = kept and self.times_better >= self.budget.times_better
        return kept

    def as_dict(self) -> dict[str, Any]:
        """Shape of a figure in the JSON file."""
        peer = self.peer
        return {
            "name": self.name,
            "unit": self.unit.value,
            "best": self.best if self.runs else None,
            "median": self.median if self.runs else None,
            "runs": list(self.runs),
            "absent": self.absent,
            "peer": None if peer is None else {"name": peer.name, "runs": list(peer.runs), "absent": peer.absent},
            "times_better": self.times_better,
            "budget": None
            if self.budget is None
            else {"limit": self.budget.limit, "times_better": self.budget.times_better},
            "within_budget": self.within_budget,
        }


def _best(runs: Sequence[float], unit: Unit) -> float:
    return max(runs) if unit.more_is_better else min(runs)


_HEAD: Final = ("figure", "best", "median", "unit", "peer", "best", "ratio", "budget", "")


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table; what could not be measured says why in its place."""
    rows = [_HEAD, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    peer, ratio = figure.peer, figure.times_better
    return (
        figure.name,
        _number(figure.best) if figure.runs else figure.absent,
        _number(figure.median) if figure.runs else "",
        figure.unit.value,
        "" if peer is None else peer.name,
        "" if peer is None else _number(_best(peer.runs, figure.unit)) if peer.runs else peer.absent,
        "" if ratio is None else f"{ratio:.2f}",
        "" if figure.budget is None else str(figure.budget),
        {None: "", True: "ok", False: "over"}[figure.within_budget],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"
