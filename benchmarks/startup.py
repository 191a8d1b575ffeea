# SPDX-License-Identifier: Apache-2.0
"""How long the command line takes to say something."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.figures import Budget, Figure, Unit
from benchmarks.timing import Effort

HELP_BUDGET: Final = Budget(limit=100)

_PROGRAMS: Final[Sequence[tuple[str, tuple[str, ...], Budget | None]]] = (
    ("bare interpreter, for comparison", ("-c", "pass"), None),
    ("import kubenclave", ("-c", "import kubenclave"), None),
    ("import of the verifier", ("-c", "from kubenclave import verify_quote"), None),
    ("kubenclave --help", ("-m", "kubenclave", "--help"), HELP_BUDGET),
    ("kubenclave quote verify --help", ("-m", "kubenclave", "quote", "verify", "--help"), HELP_BUDGET),
)


def measure(effort: Effort) -> Iterator[Figure]:
    """Start each program a few times, in turn."""
    runs: dict[str, list[float]] = {name: [] for name, _, _ in _PROGRAMS}
    for _ in range(3 * effort.runs):
        for name, arguments, _ in _PROGRAMS:
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            runs[name].append((time.perf_counter() - start) * 1e3)
    for name, _, budget in _PROGRAMS:
        yield Figure(f"start: {name}", Unit.MILLISECONDS, tuple(runs[name]), budget=budget)
