# SPDX-License-Identifier: Apache-2.0
"""The part of the file system a started process sees: what it was granted is in place, what it was not is out of reach.

Works in a mount namespace of the caller's own and changes nothing on the machine. A place that does not exist is
made by covering the nearest folder above it with an empty one and binding everything that was there back in.
Linux only; ``man 2 mount``, ``man 7 mount_namespaces``, ``man 7 user_namespaces``.
"""

import ctypes
import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubenclave.local import devfs

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000

_READ_ONLY: Final = 1
_NO_SET_UID: Final = 2
_NO_DEVICES: Final = 4
_REMOUNT: Final = 32
_BIND: Final = 4096
_RECURSIVE: Final = 16384
_PRIVATE: Final = 1 << 18
_RELATIME: Final = 1 << 21
# statvfs and mount number their flags alike but for this one
_STATVFS_RELATIME: Final = 4096
_SAME_FLAGS: Final = 2 | 4 | 8 | 1024 | 2048

_SET_PARENT_DEATH_SIGNAL: Final = 1
_SET_CHILD_SUBREAPER: Final = 36

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Bind:
    """``source`` of the machine seen at ``target``."""

    target: str
    source: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """Differences from what everybody sees: ``hidden`` paths first, then ``binds``; later ones win.

    ``dev`` is where a new /dev is put before the binds, empty for none.
    """

    binds: tuple[Bind, ...] = ()
    hidden: tuple[str, ...] = ()
    dev: str = ""


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Raises OSError where the kernel forbids it."""
    if _libc.unshare(flags):
        raise _last_error("unshare")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this signal to the calling process when its parent dies."""
    if _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal_number, 0, 0, 0):
        raise _last_error("prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has died."""
    if _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise _last_error("prctl")


def apply(view: View) -> None:
    """Make ``view`` true in the calling process' mount namespace. Raises OSError."""
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    # hold the sources by descriptor: hiding may take their paths away
    sources = [(bind, os.open(bind.source, os.O_PATH | os.O_CLOEXEC)) for bind in view.binds]
    for path in view.hidden:
        _hide(Path(path).resolve())
    if view.dev:
        devfs.replace(Path(view.dev), _mount)
    places = _Places()
    for bind, descriptor in sources:
        source = f"/proc/self/fd/{descriptor}"
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        target = places.make(Path(bind.target).resolve(), folder=folder)
        _mount(source, target, None, _BIND | _RECURSIVE)
        if bind.read_only:
            _mount("none", target, None, _BIND | _REMOUNT | _READ_ONLY | _kept_flags(target))
        os.close(descriptor)


class _Places:
    """Makes mount points; remembers which folders are our own and may be written."""

    def __init__(self) -> None:
        self._own: set[Path] = set()

    def make(self, path: Path, *, folder: bool) -> Path:
        """Return ``path``, which then exists and is a folder, or is not one. Raises OSError."""
        if path.exists():
            if path.is_dir() != folder:
                raise OSError(errno.ENOTDIR if folder else errno.EISDIR, "something else is in place", str(path))
            return path
        missing = [parent for parent in path.parents if not parent.exists()]
        above = path.parents[len(missing)]
        if above not in self._own:
            _cover(above)
            self._own.add(above)
        for parent in reversed(missing):
            parent.mkdir(0o755)
            self._own.add(parent)
        _placeholder(path, folder=folder)
        return path


def _cover(folder: Path) -> None:
    """Replace ``folder`` by an empty one of our own into which everything there is bound back."""
    if folder == Path("/"):
        raise OSError(errno.EOPNOTSUPP, "cannot make a new folder in", "/")
    below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mode = stat.S_IMODE(os.fstat(below).st_mode)
    with os.scandir(folder) as listing:
        entries = [(entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in listing]
    _mount("none", folder, "tmpfs", _NO_SET_UID | _NO_DEVICES, f"mode={mode:o}")
    for name, link, subfolder in entries:
        source = Path(f"/proc/self/fd/{below}", name)
        target = folder / name
        with suppress(OSError):  # gone meanwhile, or not ours to see
            if link:
                target.symlink_to(source.readlink())
            else:
                _placeholder(target, folder=subfolder)
                _mount(source, target, None, _BIND | _RECURSIVE)
    os.close(below)


def _hide(path: Path) -> None:
    """Put an empty folder, or nothing at all, over what is at ``path``."""
    if path.is_dir():
        # to be passed through, in case that something in it is granted
        _mount("none", path, "tmpfs", _READ_ONLY | _NO_SET_UID | _NO_DEVICES, "mode=555")
    elif path.exists():
        _mount("/dev/null", path, None, _BIND)


def _placeholder(path: Path, *, folder: bool) -> None:
    if folder:
        path.mkdir(0o755)
    else:
        path.touch(0o600, exist_ok=False)


def _kept_flags(path: Path) -> int:
    """Return the flags a remount must repeat: a user namespace may not take them away."""
    flags = os.statvfs(path).f_flag
    return (flags & _SAME_FLAGS) | (_RELATIME if flags & _STATVFS_RELATIME else 0)


def _mount(source: Path | str, target: Path | str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = (
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if data is None else data.encode(),
    )
    if _libc.mount(*arguments):
        raise _last_error("mount", str(target))


def _last_error(call: str, path: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}", path)
