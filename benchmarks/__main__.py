# SPDX-License-Identifier: Apache-2.0
"""Command line of the benchmarks."""

import argparse
import datetime as dt
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from benchmarks import aesm, allocate, daemons, services, startup, verification
from benchmarks.figures import Figure, table
from benchmarks.timing import Effort
from kubenclave import __version__

Measure = Callable[[Effort], Iterable[Figure]]

BENCHMARKS: Final[dict[str, Measure]] = {
    "verification": verification.measure,
    "aesm": aesm.measure,
    "allocate": allocate.measure,
    "daemons": daemons.measure,
    "startup": startup.measure,
    "services": services.measure,
}
MARKS: Final = "figures"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks asked for (all by default), print the table, write the JSON file."""
    options = parse(__doc__ or "", BENCHMARKS, arguments)
    report(options, BENCHMARKS, MARKS)
    return 0


def parse(description: str, benchmarks: Iterable[str], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line of a set of benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of: {', '.join(benchmarks)} (default: all)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures with all their runs here")
    parser.add_argument("--into", metavar="FILE", type=Path, help="put the table into this document, between its marks")
    parser.add_argument("--quick", action="store_true", help="short runs: to see that it works, not to quote")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(benchmarks):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return options


def report(options: argparse.Namespace, benchmarks: Mapping[str, Measure], marks: str) -> None:
    """Measure, print the table, and put it where it was asked for: between the document's marks of that name."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # of the kubelet's stand-in
    effort = Effort.quick() if options.quick else Effort()
    figures: list[Figure] = []
    try:
        for name in options.names or benchmarks:
            print(f"==> {name}", file=sys.stderr)
            figures += benchmarks[name](effort)
    except BaseException:
        print(table(figures))
        raise
    shown = f"{_machine()}{', short runs' if options.quick else ''}.\n\n{table(figures)}"
    print(shown)
    if options.into:
        _put(shown, options.into, marks)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(_document(figures, options.quick), indent=2) + "\n", encoding="utf-8")


def _put(shown: str, document: Path, marks: str) -> None:
    begin, end = f"<!-- {marks} -->", f"<!-- end of {marks} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{document} has no marks {begin} and {end}")
    document.write_text(f"{before}{begin}\n{shown}\n{end}{after}", encoding="utf-8")


def _machine() -> str:
    """Return what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    kernel = platform.release().partition("-")[0]  # what follows names whoever built it
    return (
        f"{os.cpu_count()} CPUs ({cpu}), Linux {kernel}, Python {platform.python_version()}, "
        f"kubenclave {__version__}, load at the end {load}"
    )


def _document(figures: list[Figure], quick: bool) -> dict[str, Any]:
    return {
        "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "quick": quick,
        "figures": [figure.as_dict() for figure in figures],
    }


if __name__ == "__main__":
    sys.exit(main())
