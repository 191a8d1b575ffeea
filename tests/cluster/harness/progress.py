# SPDX-License-Identifier: Apache-2.0
"""Progress lines with the time of each phase."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

_began = time.monotonic()


@contextlib.contextmanager
def phase(what: str) -> Iterator[None]:
    """Print ``what`` with the seconds it took, once it is over; print that it failed when it did."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{what}: failed after {time.monotonic() - started:.1f} s")
        raise
    say(f"{what}: {time.monotonic() - started:.1f} s")


def say(line: str) -> None:
    """Print a line of progress past whatever pytest captures."""
    print(f"    {line}", file=sys.__stderr__, flush=True)


def total() -> float:
    """Seconds since this process began."""
    return time.monotonic() - _began
