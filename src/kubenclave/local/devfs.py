# SPDX-License-Identifier: Apache-2.0
"""A /dev of a process' own, with what every container has there and nothing of the machine's hardware.

The list is that of the OCI runtime specification (config-linux, Default Devices); terminals are new ones, for the
machine's own cannot be opened through a bind mount. Linux only; runs in a mount namespace of the caller's own.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
FOLDERS: Final = ("shm", "mqueue")
LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

_NO_SET_UID: Final = 2
_NO_EXEC: Final = 8
_BIND: Final = 4096
_RECURSIVE: Final = 16384

Mount = Callable[[Path | str, Path | str, str | None, int, str | None], None]
"""mount(2): source, target, kind, flags, data. Raises OSError."""


def replace(dev: Path, mount: Mount) -> None:
    """Put a new /dev over ``dev``. Raises OSError."""
    held = {
        name: os.open(dev / name, os.O_PATH | os.O_CLOEXEC) for name in (*DEVICES, *FOLDERS) if (dev / name).exists()
    }
    mount("none", dev, "tmpfs", _NO_SET_UID, "mode=755")
    for name, descriptor in held.items():
        place = dev / name
        if name in FOLDERS:
            place.mkdir(0o755)
        else:
            place.touch(0o600)
        mount(f"/proc/self/fd/{descriptor}", place, None, _BIND | _RECURSIVE, None)
        os.close(descriptor)
    (dev / "pts").mkdir(0o755)
    mount("devpts", dev / "pts", "devpts", _NO_SET_UID | _NO_EXEC, "newinstance,ptmxmode=0666,mode=0620")
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
