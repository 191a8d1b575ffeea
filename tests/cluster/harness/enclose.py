# SPDX-License-Identifier: Apache-2.0
"""Run a command in network, mount, PID, IPC and UTS namespaces of its own, and leave nothing behind, whatever happens.

Three processes stand outside the command:

- the front, which the user sees; it starts the other two and returns the command's exit code;
- the janitor, in a session of its own; when the front is gone, by whatever signal, it kills the namespaces, then
  removes the run's cgroups and its folder. There is no other path of cleaning up, so this one is always used;
- `unshare`, whose death kills the first process of the PID namespace, and with it every process inside.

The first process inside only starts the command and reaps. Mounts, links, addresses and firewall rules belong to the
namespaces and go with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

RUN: Final = "KUBENCLAVE_ENCLOSURE"
"""Environment variable that names the run's folder inside; its name is the run's id and that of its cgroups."""

PREFIX: Final = "kubenclave-test-"
CGROUPS: Final = Path("/sys/fs/cgroup")
NAMESPACES: Final = ("--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--mount-proc")
_PATIENCE: Final = 30.0
_GRACE: Final = 5
_KEEP: Final = b"keep logs"
_KEPT: Final = 24 * 3600


def folder() -> Path | None:
    """The run's folder when this process is inside an enclosure, else None."""
    named = os.environ.get(RUN)
    return Path(named) if named else None


def hierarchies() -> list[Path]:
    """Where a cgroup is made: every version 1 hierarchy, or the one of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]


def run(command: list[str], *, keep_logs: bool | None = None) -> int:
    """Run ``command`` enclosed and return its exit code (128 + n for signal n).

    The logs/ folder of the run is left with ``keep_logs``, or unless that is False when the code is not 0; a later run
    removes it after a day.
    """
    sweep()
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{secrets.token_hex(3)}-"))
    place.chmod(0o755)
    lock = _lock(place, create=True)
    assert lock is not None
    reading, writing = os.pipe()
    janitor = subprocess.Popen(
        [sys.executable, __file__, "janitor", str(place), str(reading)],
        pass_fds=[reading, lock],  # the lock is held as long as the janitor lives
        start_new_session=True,
    )
    os.close(reading)
    os.close(lock)
    inside = subprocess.Popen(
        ["unshare", *NAMESPACES, sys.executable, __file__, "inside", *command],
        env=os.environ | {RUN: str(place)},
    )
    os.write(writing, f"{inside.pid}\n".encode())
    (place / "unshare").write_text(str(inside.pid))

    def end(_number: int, _frame: object) -> None:
        inside.kill()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    # The command has ^C from the terminal too and may finish its report; who sends SIGINT to the front alone waits.
    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGINT, lambda *_: signal.alarm(_GRACE))
    code = inside.wait()
    if keep_logs or (code and keep_logs is None):
        os.write(writing, _KEEP)
    os.close(writing)
    janitor.wait()
    if (place / "logs").exists():
        sys.stderr.write(f"    logs are kept for a day in {place / 'logs'}\n")
    return 128 - code if code < 0 else code


def running() -> list[tuple[Path, int]]:
    """The enclosures of this machine: folder, and process id of the first process inside, the newest first."""
    found = []
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            outer = (place / "unshare").read_text()
            inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            found.append((place, int(inner[0])))
    return sorted(found, key=lambda one: one[0].stat().st_mtime, reverse=True)


def enter(place: Path, first: int, command: list[str]) -> None:
    """Replace this process by ``command`` in the namespaces of a running enclosure, with the working folder kept."""
    options = [f"--target={first}", "--mount", "--net", "--pid", "--ipc", "--uts", f"--wdns={Path.cwd()}"]
    environment = os.environ | {RUN: str(place)}
    os.execvpe("nsenter", ["nsenter", *options, "--", *command], environment)


def _janitor(place: Path, reading: int) -> None:
    """Wait for the front's end, then kill what is left inside and remove the run's cgroups and folder."""
    said = b""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(reading, "rb") as pipe:
        line = pipe.readline()
        with contextlib.suppress(ProcessLookupError, ValueError):
            unshare = os.pidfd_open(int(line))
            said = pipe.read()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(unshare, signal.SIGKILL)
    clean(place, keep_logs=said == _KEEP)


def clean(place: Path, *, keep_logs: bool = False) -> None:
    """Remove the run's cgroups and folder; its processes have been killed and may take a moment to go."""
    deadline = time.monotonic() + _PATIENCE
    groups = [root / place.name for root in hierarchies()]
    while (groups := [group for group in groups if not _remove_cgroup(group)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    kept = {"logs"} if keep_logs else set()
    while {path.name for path in place.glob("*")} - kept:
        for path in place.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=time.monotonic() < deadline)
            elif not path.is_dir():
                path.unlink()
    with contextlib.suppress(OSError):
        place.rmdir()


def _remove_cgroup(group: Path) -> bool:
    """Kill and remove a cgroup with those in it. False while a process in it is still on its way out."""
    if not group.is_dir():
        return True
    for path, _folders, _files in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            for pid in (Path(path) / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    return not group.exists()


def sweep() -> None:
    """Clean up after runs whose janitor was killed or lost its machine, and remove logs that are a day old."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if (lock := _lock(place)) is not None:
            clean(place)
            os.close(lock)
        elif not (place / "lock").exists() and time.time() - place.stat().st_mtime > _KEPT:
            shutil.rmtree(place, ignore_errors=True)


def _lock(place: Path, *, create: bool = False) -> int | None:
    """Take the run's lock, or None while another process has it. It holds across PID namespaces, as a pid would not."""
    try:
        file = os.open(place / "lock", os.O_RDWR | (os.O_CREAT if create else 0))
    except OSError:
        return None  # just being made
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _inside(command: list[str]) -> int:
    """First process of the PID namespace: start the command, reap whoever is orphaned, return the command's code."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return abs(os.waitstatus_to_exitcode(status)) + (128 if os.WIFSIGNALED(status) else 0)


if __name__ == "__main__":
    if sys.argv[1] == "inside":
        raise SystemExit(_inside(sys.argv[2:]))
    _janitor(Path(sys.argv[2]), int(sys.argv[3]))
