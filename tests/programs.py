# SPDX-License-Identifier: Apache-2.0
"""Processes as tests look at them from outside."""

import os
from pathlib import Path


def unmeasured() -> dict[str, str]:
    """Return the environment without what makes a process measure its coverage, which costs memory and time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
