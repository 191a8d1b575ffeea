# SPDX-License-Identifier: Apache-2.0
"""Finding the sockets of a SIMULATED platform: named, of a state directory, of the environment, or where one is."""

import os
from pathlib import Path

from kubenclave.errors import PlatformError


def cpu(given: str | None, state: str | None) -> Path:
    """Return the CPU's socket, whether or not there is one; ``given`` is a socket and ``state`` a directory."""
    from kubenclave.local.state import locate
    from kubenclave.platform import simcpu, sockets
    from kubenclave.platform.simulated import places

    if given is not None:
        return Path(given).absolute()
    if state is not None:
        return places.cpu_socket(Path(state).absolute())
    usual = simcpu.socket_path(os.environ)
    if os.environ.get(simcpu.CPU_SOCKET_VARIABLE) or sockets.identity(usual):
        return usual
    own = locate(None, os.environ).cpu_socket
    return own if sockets.identity(own) else usual


def provision(given: str | None, state: str | None) -> Path:
    """Return the provision socket, found as the CPU's is. Raises PlatformError where none was granted."""
    from kubenclave.local.state import locate
    from kubenclave.platform import simcpu, sockets
    from kubenclave.platform.simulated import places

    if given is not None:
        return Path(given).absolute()
    if state is not None:
        return places.provision_socket(Path(state).absolute())
    usual = simcpu.provision_socket_path(os.environ)
    if os.environ.get(simcpu.PROVISION_SOCKET_VARIABLE) or sockets.identity(usual):
        return usual
    own = locate(None, os.environ).provision_socket
    if sockets.identity(own):
        return own
    raise PlatformError(
        "the provisioning key was not granted here",
        code="sim.no-provision",
        expected=f"the provision socket of a SIMULATED platform ({simcpu.PROVISION_SOCKET_VARIABLE})",
        hint="'kubenclave run --provision' asks for it and 'kubenclave up --grant-provision' grants it; pods ask for "
        "sgx.intel.com/provision: 1",
    )
