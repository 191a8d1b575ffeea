# SPDX-License-Identifier: Apache-2.0
"""Small files of the kernel, read so that an absent or unreadable one is an answer and not an accident."""

from pathlib import Path

_LIMIT = 1 << 20


def read_bytes(path: Path) -> bytes | None:
    """Return at most the first MiB of a file, or None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT)
    except OSError:
        return None


def read_text(path: Path) -> str | None:
    """Return the same as text; bytes that are no UTF-8 become replacement characters."""
    data = read_bytes(path)
    return None if data is None else data.decode(errors="replace")
