# SPDX-License-Identifier: Apache-2.0
"""Starting a process with what it was granted and nothing else.

It gets a user and a mount namespace of its own, so that unmodified clients find granted things at their usual places
without root, and devices and sockets that were not granted are out of reach, even through /proc of other processes.
The mounts are made in one namespace and the process runs in a second one below it, where they are locked.
"""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn

from kubenclave.errors import KubenclaveError, PlatformError, UsageError
from kubenclave.local import mounts
from kubenclave.local.aliases import aliases
from kubenclave.local.mounts import Bind, View
from kubenclave.platform.aesmclient import DEFAULT_SOCKET, SOCKET_VARIABLE
from kubenclave.platform.linux import driver
from kubenclave.platform.sockets import AESM_FOLDER, SIMULATED_FOLDER

SGX_DEVICES: Final = tuple(place for _, place, _ in driver.PLACES)
SGX_FOLDERS: Final = ("/dev/sgx",)
SOCKET_FOLDERS: Final = (AESM_FOLDER, SIMULATED_FOLDER)
# Sockets of the machine's services lie here, so a process gets a folder of its own; names have to be looked up still.
SERVICES: Final = "/run"
NAME_SERVICES: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")

# What a process of a user keeps of its environment; everything else has to be asked for.
KEPT_VARIABLES: Final = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER")

_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FAILED: Final = 127


class Isolation(StrEnum):
    """How a process is kept to what it was granted."""

    AUTO = "auto"
    NAMESPACE = "namespace"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class Grants:
    """What one process may use: places (container path, host path, read-only) and environment variables."""

    binds: tuple[Bind, ...] = ()
    envs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start; ``env`` is its whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = "/"
    output_to_stderr: bool = False


def base_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the part of ``env`` that says nothing about us."""
    kept = {name: env[name] for name in KEPT_VARIABLES if name in env}
    kept.setdefault("PATH", _DEFAULT_PATH)
    return kept


def view(grants: Grants, state: str, root: Path = Path("/")) -> View:
    """Return the file system for these grants: other devices, the sockets in /run and our own state hidden.

    That goes for every name that a mount gives SGX devices, socket folders and the state.

    Of a socket folder in which something is granted the rest is hidden. ``root`` is where the devices and folders are
    looked for.
    """
    granted = {os.path.realpath(bind.source) for bind in grants.binds}
    places = {os.path.realpath(bind.target) for bind in grants.binds}
    candidates = [str(root / path.lstrip("/")) for path in SGX_DEVICES]
    for folder in SGX_FOLDERS:
        inside = root / folder.lstrip("/")
        candidates += [str(entry) for entry in sorted(inside.iterdir())] if inside.is_dir() else []
    candidates += [str(root / path.lstrip("/")) for path in SOCKET_FOLDERS]
    hidden = [
        path
        for path in dict.fromkeys(os.path.realpath(candidate) for candidate in candidates)
        if os.path.lexists(path) and path not in granted and path not in places
    ]
    hidden.append(state)
    hidden += [name for path in hidden for name in aliases(path)]
    dev, services = str(root / "dev"), str(root / SERVICES.lstrip("/"))
    kept = [str(root / path.lstrip("/")) for path in NAME_SERVICES]
    hidden += [services] if Path(services).is_dir() else []
    binds = (*(Bind(path, path) for path in kept if Path(path).is_dir()), *grants.binds)
    return View(
        binds=tuple(bind for bind in binds if not _in_place(bind, [*hidden, dev])),
        hidden=tuple(hidden),
        dev=dev if Path(dev).is_dir() else "",
    )


def translated(grants: Grants) -> dict[str, str]:
    """Return the granted variables for a process that sees the machine's own file system: host paths in them.

    Unmodified AESM clients look in one place only; ours ask KUBENCLAVE_AESM_SOCKET first.
    """
    places = {bind.target: bind.source for bind in grants.binds}
    variables = {name: _source(value, places) for name, value in grants.envs.items()}
    if (directory := places.get(str(DEFAULT_SOCKET.parent))) is not None:
        variables[SOCKET_VARIABLE] = str(Path(directory, DEFAULT_SOCKET.name))
    return variables


def start(command: Command, seen: View | None) -> int:
    """Start a process and return its id once it runs the program; None for ``seen`` isolates nothing.

    Raises PlatformError (``sandbox.forbidden``) where the kernel does not allow the namespaces, UsageError when the
    program cannot be started.
    """
    from_child, to_parent = os.pipe2(os.O_CLOEXEC)
    from_parent, to_child = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(command, seen, _Line(from_parent, to_parent))
    os.close(to_parent)
    os.close(from_parent)
    try:
        while message := os.read(from_child, 4096):
            if message == _Line.MAP:
                _map_all_ids(pid)
                os.write(to_child, _Line.GO)
                continue
            os.waitpid(pid, 0)
            raise _failure(message, command)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise PlatformError(f"cannot set up namespaces: {error}", code="sandbox.forbidden") from error
    finally:
        os.close(from_child)
        os.close(to_child)
    return pid


class _Line:
    """The child's two pipes to its parent, closed when the program starts."""

    MAP: Final = b"map"
    GO: Final = b"go"

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self.writer = writer

    def ask_for_ids(self) -> None:
        """Have the parent map user and group ids: it still has the right to."""
        os.write(self.writer, self.MAP)
        if os.read(self._reader, len(self.GO)) != self.GO:
            raise OSError(0, "the parent has gone")


def _child(command: Command, seen: View | None, line: _Line) -> NoReturn:
    """Become the program. Runs in the forked process and never returns."""
    stage = "sandbox"
    try:
        parent = os.getppid()
        if seen is not None:
            _isolate(seen, line)
        stage = "folder"
        os.chdir("/")  # leave where we are: it may be a folder that is hidden now
        os.chdir(command.cwd)
        stage = "program"
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if command.output_to_stderr:
            os.dup2(2, 1)
        os.closerange(3, line.writer)
        os.closerange(line.writer + 1, 65536)
        mounts.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_FAILED)
        os.execvpe(command.argv[0], list(command.argv), dict(command.env))  # noqa: S606  # no shell is wanted
    except (OSError, ValueError, RuntimeError) as error:  # the last two: words with a zero byte, links in a circle
        name = error.filename if isinstance(error, OSError) else None
        where = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        reason = error.strerror if isinstance(error, OSError) else None
        details = {"stage": stage, "reason": reason or str(error), "path": where}
        os.write(line.writer, json.dumps(details).encode())
    finally:
        os._exit(_FAILED)


def _isolate(seen: View, line: _Line) -> None:
    """Enter the namespaces. Raises OSError where the kernel forbids it."""
    privileged = os.geteuid() == 0
    if privileged:
        try:
            mounts.unshare(mounts.CLONE_NEWNS)
        except PermissionError:
            privileged = False  # root of a container: no more than a user here
    uid, gid = os.geteuid(), os.getegid()
    if not privileged:
        mounts.unshare(mounts.CLONE_NEWUSER | mounts.CLONE_NEWNS)
        _map_own_id(uid, gid)
    mounts.apply(seen)
    mounts.unshare(mounts.CLONE_NEWUSER | mounts.CLONE_NEWNS)
    if privileged:
        line.ask_for_ids()
    else:
        _map_own_id(uid, gid)


def _map_own_id(uid: int, gid: int) -> None:
    """Stay who we are in the user namespace just entered."""
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _map_all_ids(pid: int) -> None:
    """Give a child's user namespace every id that our own has."""
    for name in ("uid_map", "gid_map"):
        own = [entry.split() for entry in Path("/proc/self", name).read_text(encoding="ascii").splitlines()]
        _write(f"/proc/{pid}/{name}", "".join(f"{first} {first} {count}\n" for first, _, count in own))


def _write(path: str, text: str) -> None:
    """Write in one call, as the kernel wants it for these files."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _failure(message: bytes, command: Command) -> KubenclaveError:
    details = json.loads(message)
    if details["stage"] == "sandbox":
        where = f" ({details['path']})" if details["path"] else ""
        return PlatformError(
            f"the kernel does not allow a namespace of our own: {details['reason']}{where}",
            code="sandbox.forbidden",
            hint="sysctl user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns, or run as root",
        )
    if details["stage"] == "folder":
        return UsageError(f"cannot work in {command.cwd}: {details['reason'].lower()}", code="run.working-dir")
    return UsageError(
        f"cannot start {command.argv[0]}: {details['reason'].lower()}",
        code="run.command",
        hint="give a program of this machine: images are not pulled here",
    )


def _in_place(bind: Bind, hidden: Sequence[str]) -> bool:
    """Tell whether what is granted is where it belongs already, and stays there."""
    place = os.path.realpath(bind.target)
    return place == os.path.realpath(bind.source) and not any(place.startswith(f"{folder}/") for folder in hidden)


def _source(path: str, places: Mapping[str, str]) -> str:
    """Return where on the machine a path of the sandbox is, the path itself when it lies in none of ``places``."""
    for target, source in places.items():
        if path == target or path.startswith(f"{target}/"):
            return source + path.removeprefix(target)
    return path
