# SPDX-License-Identifier: Apache-2.0
"""The directory of the one-machine mode: what lies where, and whose it is."""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubenclave.errors import PlatformError, UsageError
from kubenclave.platform.home import home
from kubenclave.platform.simulated.places import cpu_socket, provision_socket

MAX_SOCKET_PATH: Final = 107  # AF_UNIX: 108 bytes with the final zero
# The longest name that daemons make below the directory; a plugin binds beside its socket and renames.
_LONGEST: Final = "device-plugins/.kubenclave-provision.sock.new"


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Places below ``path``, which is absolute."""

    path: Path

    @property
    def control(self) -> Path:
        """Socket on which ``run`` asks ``up``."""
        return self.path / "control.sock"

    @property
    def aesm_directory(self) -> Path:
        """What workloads see as /var/run/aesmd."""
        return self.path / "aesmd"

    @property
    def aesm_socket(self) -> Path:
        """The AESM socket."""
        return self.aesm_directory / "aesm.socket"

    @property
    def plugins(self) -> Path:
        """The kubelet's device-plugin directory."""
        return self.path / "device-plugins"

    @property
    def agent_status(self) -> Path:
        """Status socket of the node agent."""
        return self.path / "agent.sock"

    @property
    def helper_health(self) -> Path:
        """Health socket of the quote helper."""
        return self.path / "helper.sock"

    @property
    def platform(self) -> Path:
        """State of the SIMULATED platform."""
        return self.path / "sim"

    @property
    def attestation(self) -> Path:
        """State of the attestation service."""
        return self.path / "attestation"

    @property
    def cpu_socket(self) -> Path:
        """The SIMULATED CPU."""
        return cpu_socket(self.platform)

    @property
    def provision_socket(self) -> Path:
        """Where enclaves with the provisioning key are loaded into it."""
        return provision_socket(self.platform)


def locate(wanted: str | None, env: Mapping[str, str]) -> StateDirectory:
    """Return the directory asked for, or the user's own. Raises UsageError when its sockets would not fit."""
    if wanted is None:
        base = env.get("XDG_STATE_HOME") or str(Path(home(env), ".local/state"))
        wanted = str(Path(base, "kubenclave"))
    state = StateDirectory(Path(wanted).absolute())
    longest = len(os.fsencode(state.path / _LONGEST))
    if longest > MAX_SOCKET_PATH:
        most = MAX_SOCKET_PATH - len(_LONGEST) - 1
        raise UsageError(
            f"the path of the state directory is too long for the sockets in it: {state.path}",
            code="state.path-too-long",
            expected=f"at most {most} bytes",
            found=f"{len(os.fsencode(state.path))} bytes",
            hint="choose a shorter one, for example --state /tmp/kubenclave",
        )
    return state


@contextmanager
def owned(state: StateDirectory) -> Iterator[None]:
    """Make the directory and own it inside the block. Raises UsageError when somebody else does or could."""
    try:
        state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(state.path)
        state.aesm_directory.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(state.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PlatformError(
            f"cannot use the state directory {state.path}: {error.strerror or error}", code="state.unusable"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"'kubenclave up' already runs with {state.path}",
                code="state.in-use",
                hint="use it with 'kubenclave run', or start another one with another --state",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _check_ours(path: Path) -> None:
    """Refuse a directory in which somebody else could put sockets: who has those has our workloads' trust."""
    status = path.stat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != os.geteuid() or others:
        raise UsageError(
            f"others can write to the state directory {path}",
            code="state.not-ours",
            expected=f"owner {os.geteuid()}, mode 0700",
            found=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            hint="choose another one, or chown and chmod 700 this one",
        )
