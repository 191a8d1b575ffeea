# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of a SIMULATED platform are below a directory: each in a folder that holds nothing else.

Workloads are given the folder and not the socket, which is another one after every start of the simulator. What else is
in the directory, the platform's keys above all, is not in their sight.
"""

from pathlib import Path

from kubenclave.errors import PlatformError


def cpu_socket(directory: Path) -> Path:
    """Return the CPU's socket, for everybody."""
    return directory / "cpu" / "cpu.sock"


def provision_socket(directory: Path) -> Path:
    """Return the socket through which enclaves with the provisioning key are loaded.

    The folder that workloads are given is inside of one that is closed to other users: there is no way to it but by
    being given it, whatever the mode of ``directory``.
    """
    return directory / "provision" / "cpu" / "cpu.sock"


def make_folders(directory: Path) -> None:
    """Make the folders of both sockets. They are never removed, for running workloads hold on to them.

    Raises PlatformError with code ``simstate.unusable``.
    """
    given = provision_socket(directory).parent
    for folder, mode in ((cpu_socket(directory).parent, 0o755), (given.parent, 0o700), (given, 0o755)):
        try:
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)  # whatever the umask was
        except OSError as error:
            raise PlatformError(f"cannot use {folder}: {error.strerror or error}", code="simstate.unusable") from error
