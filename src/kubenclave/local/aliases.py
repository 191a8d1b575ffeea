# SPDX-License-Identifier: Apache-2.0
"""Other names under which the same file or folder can be reached, as bind mounts and second mounts make them.

Linux only; ``man 5 proc_pid_mountinfo``.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class _Mount:
    """``root`` of the file system ``device`` seen at ``place``."""

    device: str
    root: str
    place: str


def aliases(path: str, table: Path = MOUNTS) -> list[str]:
    """Return the other paths that lead to ``path``, or to something below it, through the mounts in ``table``."""
    path = os.path.realpath(path)
    mounts = list(_mounts(table))
    containing = [mount for mount in mounts if _below(path, mount.place) is not None]
    if not containing:
        return []
    home = max(reversed(containing), key=lambda mount: len(mount.place))  # of several at one place the last is on top
    inside = _joined(home.root, _below(path, home.place) or "")
    found = []
    for mount in mounts:
        if mount.device != home.device:
            continue
        if (rest := _below(inside, mount.root)) is not None:
            found.append((_joined(mount.place, rest), path))
        elif (rest := _below(mount.root, inside)) is not None:
            found.append((mount.place, _joined(path, rest)))
    names = [name for name, original in found if name != path and _below(name, path) is None and _same(name, original)]
    return list(dict.fromkeys(names))


def _mounts(table: Path) -> Iterator[_Mount]:
    try:
        lines = table.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(b" ")
        yield _Mount(fields[2].decode(), _unescaped(fields[3]), _unescaped(fields[4]))


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), field))


def _below(path: str, folder: str) -> str | None:
    """Return the way from ``folder`` to ``path``, empty for itself, None where that is elsewhere."""
    if path == folder:
        return ""
    return path.removeprefix(folder).lstrip("/") if path.startswith(f"{folder.rstrip('/')}/") else None


def _joined(folder: str, rest: str) -> str:
    return f"{folder.rstrip('/')}/{rest}" if rest else folder


def _same(one: str, other: str) -> bool:
    """Tell whether both lead to the same thing: a mount may lie below another one."""
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
